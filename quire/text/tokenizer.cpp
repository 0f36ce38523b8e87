#include "quire/text/tokenizer.h"

#include <utility>

#include "quire/base/error.h"
#include "quire/text/byte_level_bpe.h"
#include "quire/text/unicode.h"

namespace quire::text {

std::shared_ptr<const Tokenizer> Tokenizer::make(TokenizerSpec spec) {
  if (spec.model == "gpt2") return std::make_shared<ByteLevelBpe>(std::move(spec));
  throw FormatError(spec.source, concat("unknown tokenizer model \"", spec.model,
                                        "\" (tokenizer.ggml.model); supported: \"gpt2\""));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, Origin origin) const {
  const Piece piece{std::string(text), origin};
  return encode(std::span(&piece, 1));
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string out;
  for (const std::int32_t id : ids) out += bytes(id);
  return out;
}

std::string StreamDecoder::push(std::int32_t id) {
  pending_ += tokenizer_.bytes(id);
  const std::size_t complete = pending_.size() - unfinished_bytes(pending_);
  std::string out = to_utf8_lossy(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string StreamDecoder::finish() { return to_utf8_lossy(std::exchange(pending_, {})); }

}  // namespace quire::text

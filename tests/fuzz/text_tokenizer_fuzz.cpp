// Any bytes as text: decoding gives its lossy form. The first byte says where the text is cut into
// pieces.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/text/unicode.h"
#include "tests/text/small_vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quire::text;
  static const std::shared_ptr<const Tokenizer> tokenizer =
      Tokenizer::make(quire::test::small_vocabulary());
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t cut = text.empty() ? 0 : data[0] % text.size();
  const std::vector<Piece> pieces = {{std::string(text.substr(0, cut)), Origin::kTemplate},
                                     {std::string(text.substr(cut)), Origin::kData}};
  const std::vector<std::int32_t> ids = tokenizer->encode(pieces);
  if (tokenizer->decode(ids) != to_utf8_lossy(text)) __builtin_trap();
  StreamDecoder decoder(*tokenizer);
  std::string streamed;
  for (const std::int32_t id : ids) streamed += decoder.push(id);
  if (streamed + decoder.finish() != to_utf8_lossy(text)) __builtin_trap();
  return 0;
}

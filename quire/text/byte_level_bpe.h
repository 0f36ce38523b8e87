#pragma once

#include "quire/text/pair_merger.h"
#include "quire/text/pre_tokenizer.h"
#include "quire/text/special_matcher.h"
#include "quire/text/tokenizer.h"

namespace quire::text {

/// Byte-level BPE (`tokenizer.ggml.model` = "gpt2"): every text has ids, and words are cut by a
/// regular expression first.
class ByteLevelBpe final : public Tokenizer {
 public:
  explicit ByteLevelBpe(TokenizerSpec spec);

  using Tokenizer::encode;
  std::vector<std::int32_t> encode(std::span<const Piece> pieces) const override;
  std::string_view bytes(std::int32_t id) const override;
  std::int32_t size() const override { return static_cast<std::int32_t>(bytes_.size()); }
  bool is_special(std::int32_t id) const override;
  const TokenizerSpec& spec() const override { return spec_; }
  std::int32_t find(std::string_view token) const override;

 private:
  struct Text;
  void read_tokens();
  void read_merges();
  void read_whole_words();
  void check_id(std::string_view name, std::int32_t id) const;
  void encode_text(const Text& text, std::vector<std::int32_t>& out) const;
  void encode_words(std::string_view text, std::vector<std::int32_t>& out) const;

  TokenizerSpec spec_;
  PreTokenizer words_;
  PairMerger merger_;
  SpecialMatcher specials_;
  std::vector<std::string> bytes_;                          // what each id stands for
  std::unordered_map<std::string_view, std::int32_t> ids_;  // by the token's text in spec_.tokens
  std::unordered_map<std::string_view, std::int32_t> whole_words_;  // by their bytes; llama-bpe
};

}  // namespace quire::text

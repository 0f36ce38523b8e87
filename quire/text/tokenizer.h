#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire::text {

/// Who wrote a piece of text. Special tokens ("<|im_end|>") are recognised only in kTemplate text;
/// in kData they stay text, so a document cannot forge a turn.
enum class Origin : std::uint8_t { kTemplate, kData };

/// A run of text of one origin. Neighbouring pieces are tokenized as one text, unless `cut`
/// separates one from the piece before it.
struct Piece {
  std::string text;
  Origin origin = Origin::kData;
  bool cut = false;
};

/// What a model file says about its tokenizer. -1 = absent.
struct TokenizerSpec {
  std::string source;  // the file, for messages
  std::string model;   // "gpt2" = byte-level BPE
  std::string pre;     // the pre-tokenizer: "smollm", "gpt-2", "default", "llama-bpe"
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;  // GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 5
                                    // unused, 6 byte; empty = all normal
  std::vector<std::string> merges;  // "left right"
  std::int32_t bos = -1, eos = -1, eot = -1, unknown = -1, padding = -1;
  bool add_bos = false, add_eos = false;
};

/// Turns text into ids, and ids into text. Shared by threads: all methods are const.
/// Letters, digits and spaces are what the Unicode version of the installed PCRE2 says (14 in
/// Debian 12): a character that is newer splits words as a symbol does.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Throws FormatError (with spec.source) for an unknown model or pre-tokenizer (naming the
  /// supported ones), merges that name absent tokens, duplicate tokens, wrong counts.
  static std::shared_ptr<const Tokenizer> make(TokenizerSpec spec);

  /// Bytes need not be UTF-8: each maximal ill-formed part becomes U+FFFD first. Adds no BOS. A
  /// byte that the vocabulary has no token for is left out, as Hugging Face does. Time O(n log n).
  /// Throws ArgumentError for a word of 2 GiB.
  virtual std::vector<std::int32_t> encode(std::span<const Piece> pieces) const = 0;
  std::vector<std::int32_t> encode(std::string_view text, Origin origin) const;

  /// The bytes that a token stands for. Throws ArgumentError for an id outside [0, size).
  virtual std::string_view bytes(std::int32_t id) const = 0;
  std::string decode(std::span<const std::int32_t> ids) const;

  virtual std::int32_t size() const = 0;
  virtual bool is_special(
      std::int32_t id) const = 0;                 // control tokens: never shown in streamed text
  virtual const TokenizerSpec& spec() const = 0;  // tokens and merges may have been moved out
  /// The id whose text is exactly `token`, or -1.
  virtual std::int32_t find(std::string_view token) const = 0;
};

/// Turns a stream of ids into text that is valid UTF-8 at every step: bytes of an unfinished
/// character wait.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  /// The text that became complete with this id. Ill-formed bytes become U+FFFD. The concatenation
  /// over all pushes and `finish` is the lossy UTF-8 form of decode().
  std::string push(std::int32_t id);
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace quire::text

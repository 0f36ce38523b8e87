#define PCRE2_CODE_UNIT_WIDTH 8
#include "quire/text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <cstdint>

#include "quire/base/error.h"

namespace quire::text {
namespace {

// White space is spelled out: PCRE2's \s counts U+180E, the tokenizers that models were trained
// with do not.
#define QUIRE_SPACE "\\t-\\r\\x{85}\\p{Z}"

/// GPT-2: contractions, words, numbers and punctuation, each with the space before it; of several
/// spaces the last stays with what follows.
constexpr const char* kGpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" QUIRE_SPACE "\\p{L}\\p{N}]+|[" QUIRE_SPACE
    "]+(?![^" QUIRE_SPACE "])|[" QUIRE_SPACE "]+";

/// Llama 3: words take one sign before them, numbers go by three digits, line ends stay together.
constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" QUIRE_SPACE
    "\\p{L}\\p{N}]+[\\r\\n]*|[" QUIRE_SPACE "]*[\\r\\n]+|[" QUIRE_SPACE "]+(?![^" QUIRE_SPACE
    "])|[" QUIRE_SPACE "]+";
#undef QUIRE_SPACE

/// Each digit is a word of its own.
constexpr const char* kDigits = "\\p{N}";

struct Known {
  std::string_view name;
  std::array<const char*, 2>
      patterns;  // applied one after another, each inside the words of the one before
};
constexpr Known kKnown[] = {
    {"smollm", {kDigits, kGpt2}},
    {"gpt-2", {kGpt2, nullptr}},
    {"default", {kGpt2, nullptr}},
    {"llama-bpe", {kLlama3, nullptr}},
};

// Patterns here need a handful of steps a match: the limits only stop a pattern that goes wrong.
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKib = 64 * 1024;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

struct PreTokenizer::Stage {
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::unique_ptr<pcre2_match_context, FreeContext> context;

  explicit Stage(const char* pattern);
  void split(std::string_view text, pcre2_match_data* data,
             std::vector<std::string_view>& words) const;
};

PreTokenizer::Stage::Stage(const char* pattern) {
  int error = 0;
  PCRE2_SIZE where = 0;
  code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF,
                           &error, &where, nullptr));
  if (!code) throw Error(concat("pre-tokenizer pattern at ", where, ": ", message_of(error)));
  // Without a JIT (some systems forbid it) the interpreter gives the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  context.reset(pcre2_match_context_create(nullptr));
  if (!context) throw OutOfMemory("no memory for a pre-tokenizer");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
}

void PreTokenizer::Stage::split(std::string_view text, pcre2_match_data* data,
                                std::vector<std::string_view>& words) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto word = [&](std::size_t begin, std::size_t end) {
    if (end > begin) words.push_back(text.substr(begin, end - begin));
  };
  std::size_t done = 0;
  while (done < text.size()) {
    // The caller's text is well-formed; a check at every match would make this quadratic.
    const int found = pcre2_match(code.get(), subject, text.size(), done, PCRE2_NO_UTF_CHECK, data,
                                  context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) throw Error(concat("pre-tokenizer: ", message_of(found), " at byte ", done));
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data);
    if (match[1] <= done) throw Error("pre-tokenizer: an empty match");
    word(done, match[0]);
    word(match[0], match[1]);
    done = match[1];
  }
  word(done, text.size());
}

PreTokenizer::PreTokenizer(std::string_view name, std::string_view source) {
  std::string supported;
  for (const Known& known : kKnown) {
    if (known.name == name) {
      for (const char* pattern : known.patterns) {
        if (pattern != nullptr) stages_.emplace_back(pattern);
      }
      return;
    }
    supported += concat(supported.empty() ? "" : ", ", "\"", known.name, "\"");
  }
  throw FormatError(source, concat("unknown pre-tokenizer \"", name,
                                   "\" (tokenizer.ggml.pre); supported: ", supported));
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, FreeData> data(pcre2_match_data_create(1, nullptr));
  if (!data) throw OutOfMemory("no memory for a pre-tokenizer's match");
  std::vector<std::string_view> words;
  if (!text.empty()) words.push_back(text);
  for (const Stage& stage : stages_) {
    std::vector<std::string_view> finer;
    finer.reserve(text.size() / 4 + 1);
    for (const std::string_view word : words) stage.split(word, data.get(), finer);
    words = std::move(finer);
  }
  return words;
}

}  // namespace quire::text

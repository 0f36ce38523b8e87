#pragma once

#include <optional>
#include <span>
#include <string>

#include "quire/generate/session.h"
#include "quire/generate/stop_matcher.h"
#include "quire/tensor/rng.h"

namespace quire::generate {

/// From ids to text that may be shown, and to the end of it.
class Writer {
 public:
  Writer(const text::Tokenizer& tokenizer, std::span<const std::string> stops, Stream stream);

  /// False when the stream wants no more.
  bool token(std::int32_t id, bool is_shown);
  bool found_stop() const { return matcher_.found(); }
  /// The rest of the text: no token will come. `goes_on`: the stream still listens.
  void finish(bool goes_on);
  std::string& text() { return text_; }

 private:
  bool write(std::string_view text);

  text::StreamDecoder decoder_;
  StopMatcher matcher_;
  Stream stream_;
  std::string text_;
};

/// One answer under way: turns logits into ids and text until something ends it.
class Generation {
 public:
  /// tokenizer, stop_ids and spec must outlive it. Throws ArgumentError for a spec out of range.
  Generation(const text::Tokenizer& tokenizer, std::span<const std::int32_t> stop_ids,
             const GenerateSpec& spec, Stream stream);

  /// No token may follow: it has ended, or there is no room behind `length` tokens.
  bool is_over(std::int64_t length, std::int64_t context) const;
  /// The token after `history`; nothing when it is one that stops.
  std::optional<std::int32_t> next(const float* logits_V, std::int64_t V,
                                   std::span<const std::int32_t> history) {
    return take(draw(logits_V, V, history));
  }
  /// The two halves of next(). Several threads may draw at once, each for another answer.
  std::int32_t draw(const float* logits_V, std::int64_t V, std::span<const std::int32_t> history);
  std::optional<std::int32_t> take(std::int32_t id);
  /// The answer as far as it came.
  GenerateResult finish();
  void interrupt();

 private:
  const text::Tokenizer& tokenizer_;
  std::span<const std::int32_t> stop_ids_;
  const GenerateSpec& spec_;
  Writer writer_;
  Rng rng_;
  GenerateResult result_;
  bool ended_ = false;
};

}  // namespace quire::generate

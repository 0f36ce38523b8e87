#include "quire/generate/generation.h"

#include <algorithm>
#include <utility>

#include "quire/base/error.h"

namespace quire::generate {

Writer::Writer(const text::Tokenizer& tokenizer, std::span<const std::string> stops, Stream stream)
    : decoder_(tokenizer), matcher_(stops), stream_(std::move(stream)) {}

bool Writer::write(std::string_view text) {
  text_ += text;
  return !stream_ || stream_(text);
}

bool Writer::token(std::int32_t id, bool is_shown) {
  return write(is_shown ? matcher_.push(decoder_.push(id)) : std::string());
}

void Writer::finish(bool goes_on) {
  if (found_stop()) return;
  const std::string rest = matcher_.push(decoder_.finish()) + matcher_.finish();
  if (goes_on && !rest.empty()) {
    write(rest);
  } else {
    text_ += rest;
  }
}

Generation::Generation(const text::Tokenizer& tokenizer, std::span<const std::int32_t> stop_ids,
                       const GenerateSpec& spec, Stream stream)
    : tokenizer_(tokenizer),
      stop_ids_(stop_ids),
      spec_(spec),
      writer_(tokenizer, spec.stops, std::move(stream)),
      rng_(spec.seed) {
  check(spec.sample);
  QUIRE_CHECK(spec.max_tokens >= -1, "max_tokens is ", spec.max_tokens, "; it must be at least -1");
}

bool Generation::is_over(std::int64_t length, std::int64_t context) const {
  const auto generated = static_cast<std::int64_t>(result_.ids.size());
  return ended_ || generated == spec_.max_tokens || length >= context;
}

std::int32_t Generation::draw(const float* logits_V, std::int64_t V,
                              std::span<const std::int32_t> history) {
  const std::span<const float> logits(logits_V, static_cast<std::size_t>(V));
  return sample(logits, spec_.sample, history, rng_);
}

std::optional<std::int32_t> Generation::take(std::int32_t id) {
  const bool stops = std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
  if (stops && !spec_.ignore_eos) {
    result_.finish_reason = FinishReason::kStop;
    ended_ = true;
    return std::nullopt;
  }
  result_.ids.push_back(id);
  // Vocabularies are sometimes padded beyond the tokenizer's: such an id has no text.
  const bool is_shown = id < tokenizer_.size() && !tokenizer_.is_special(id);
  const bool goes_on = writer_.token(id, is_shown);
  if (writer_.found_stop() || !goes_on) {
    result_.finish_reason = writer_.found_stop() ? FinishReason::kStop : FinishReason::kInterrupted;
    ended_ = true;
  }
  return id;
}

void Generation::interrupt() {
  result_.finish_reason = FinishReason::kInterrupted;
  ended_ = true;
}

GenerateResult Generation::finish() {
  writer_.finish(result_.finish_reason != FinishReason::kInterrupted);
  result_.text = std::move(writer_.text());
  return std::move(result_);
}

}  // namespace quire::generate

#include "quire/generate/session.h"

#include <algorithm>
#include <optional>

#include "quire/base/error.h"
#include "quire/generate/feed.h"
#include "quire/generate/stop_matcher.h"

namespace quire::generate {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kInterrupted:
      break;
  }
  return "interrupted";
}

struct Session::Impl {
  const model::Model& model;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::unique_ptr<cache::KvCache> cache;
  std::vector<std::int32_t> stop_ids;
  std::vector<std::int32_t> ids;    // the cache holds a beginning of these
  std::optional<Tensor> hidden_1D;  // of the last id, once the cache holds it
  std::optional<Tensor> logits_V;   // made of hidden_1D when asked for

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }

  void feed(std::span<const std::int32_t> part) {
    hidden_1D.reset();
    logits_V.reset();
    const Tensor hidden_ND = model.forward(part, *cache);
    const auto n = static_cast<std::int64_t>(part.size());
    // A copy: a view would keep the whole chunk alive.
    hidden_1D = hidden_ND.slice(0, n - 1, n).to(DType::kF32);
  }

  /// Brings the cache up to all ids, and hidden_1D up to the last of them.
  void catch_up() {
    if (ids.empty() || (cache->length() == length() && hidden_1D)) return;
    // After a truncation the hidden state of the last id is gone: it is read again, with the same
    // bits.
    if (cache->length() == length()) cache->truncate(length() - 1);
    while (cache->length() < length()) {
      const std::int64_t begin = cache->length();
      const std::int64_t end = std::min(length(), begin + model.max_chunk());
      feed(std::span(ids).subspan(static_cast<std::size_t>(begin),
                                  static_cast<std::size_t>(end - begin)));
    }
  }

  const Tensor& last_logits() {
    QUIRE_CHECK(!ids.empty(), "nothing has been read yet: there is nothing to continue");
    catch_up();
    if (!logits_V) logits_V = model.logits(*hidden_1D).view({-1});
    return *logits_V;
  }

  void accept(std::int32_t id) {
    ids.push_back(id);
    hidden_1D.reset();
    logits_V.reset();
  }

  bool is_stop(std::int32_t id) const {
    return std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
  }
  /// Vocabularies are sometimes padded beyond the tokenizer's: such an id has no text.
  bool is_shown(std::int32_t id) const {
    return id < tokenizer->size() && !tokenizer->is_special(id);
  }
};

Session::Session(const model::Model& model, std::shared_ptr<const text::Tokenizer> tokenizer,
                 std::unique_ptr<cache::KvCache> cache, std::vector<std::int32_t> stop_ids)
    : impl_(std::make_shared<Impl>(
          Impl{model, std::move(tokenizer), std::move(cache), std::move(stop_ids), {}, {}, {}})) {
  QUIRE_CHECK(impl_->cache->length() == 0,
              "a session begins with an empty cache, but this one holds ", impl_->cache->length(),
              " tokens");
}

bool Session::read(std::span<const std::int32_t> ids, const Progress& progress,
                   std::int64_t chunk) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t step = checked_chunk(chunk, impl_->model);
  check_room(tokens, impl_->length(), context());
  if (tokens > 0) impl_->catch_up();
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const auto part = ids.subspan(static_cast<std::size_t>(begin),
                                  static_cast<std::size_t>(std::min(step, tokens - begin)));
    impl_->feed(part);
    impl_->ids.insert(impl_->ids.end(), part.begin(), part.end());
    if (progress && !progress(begin + static_cast<std::int64_t>(part.size()))) return false;
  }
  return true;
}

namespace {

/// From ids to text that may be shown, and to the end of it.
class Writer {
 public:
  Writer(const text::Tokenizer& tokenizer, std::span<const std::string> stops, const Stream& stream)
      : decoder_(tokenizer), matcher_(stops), stream_(stream) {}

  /// False when the stream wants no more.
  bool write(std::string_view text) {
    text_ += text;
    return !stream_ || stream_(text);
  }
  bool token(std::int32_t id, bool is_shown) {
    return write(is_shown ? matcher_.push(decoder_.push(id)) : std::string());
  }
  bool found_stop() const { return matcher_.found(); }

  /// The rest of the text: no token will come. `goes_on`: the stream still listens.
  void finish(bool goes_on) {
    if (found_stop()) return;
    const std::string rest = matcher_.push(decoder_.finish()) + matcher_.finish();
    if (goes_on && !rest.empty()) {
      write(rest);
    } else {
      text_ += rest;
    }
  }
  std::string& text() { return text_; }

 private:
  text::StreamDecoder decoder_;
  StopMatcher matcher_;
  const Stream& stream_;
  std::string text_;
};

}  // namespace

GenerateResult Session::generate(const GenerateSpec& spec, const Stream& stream) {
  Impl& impl = *impl_;
  check(spec.sample);
  QUIRE_CHECK(spec.max_tokens >= -1, "max_tokens is ", spec.max_tokens, "; it must be at least -1");
  Writer writer(*impl.tokenizer, spec.stops, stream);
  Rng rng(spec.seed);
  GenerateResult result;
  (void)impl.last_logits();  // throws when there is nothing to continue, also for max_tokens 0
  for (;;) {
    const auto generated = static_cast<std::int64_t>(result.ids.size());
    if (generated == spec.max_tokens || impl.length() >= context()) break;
    const Tensor& logits_V = impl.last_logits();
    const std::span<const float> logits(logits_V.data<float>(),
                                        static_cast<std::size_t>(logits_V.size(0)));
    const std::int32_t id = sample(logits, spec.sample, impl.ids, rng);
    if (impl.is_stop(id) && !spec.ignore_eos) {
      result.finish_reason = FinishReason::kStop;
      break;
    }
    impl.accept(id);
    result.ids.push_back(id);
    const bool goes_on = writer.token(id, impl.is_shown(id));
    if (writer.found_stop() || !goes_on) {
      result.finish_reason = writer.found_stop() ? FinishReason::kStop : FinishReason::kInterrupted;
      break;
    }
  }
  writer.finish(result.finish_reason != FinishReason::kInterrupted);
  result.text = std::move(writer.text());
  return result;
}

const Tensor& Session::last_logits() const { return impl_->last_logits(); }

std::span<const std::int32_t> Session::ids() const { return impl_->ids; }

cache::KvCache& Session::cache() { return *impl_->cache; }

std::int64_t Session::context() const { return impl_->cache->capacity(); }

void Session::truncate(std::int64_t length) {
  QUIRE_CHECK(length >= 0 && length <= impl_->length(), "truncate: ", length, " tokens of ",
              impl_->length());
  if (length == impl_->length()) return;
  if (impl_->cache->length() > length) impl_->cache->truncate(length);
  impl_->ids.resize(static_cast<std::size_t>(length));
  impl_->hidden_1D.reset();
  impl_->logits_V.reset();
}

}  // namespace quire::generate

#include "quire/generate/session.h"

#include <utility>

#include "quire/base/error.h"
#include "quire/generate/feed.h"
#include "quire/generate/generation.h"
#include "quire/generate/session_impl.h"
#include "quire/model/reread.h"

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

Session::Session(const model::Model& model, std::shared_ptr<const text::Tokenizer> tokenizer,
                 std::unique_ptr<cache::KvCache> cache, std::vector<std::int32_t> stop_ids,
                 std::vector<std::int32_t> held)
    : impl_(std::make_shared<Impl>(Impl{model,
                                        std::move(tokenizer),
                                        std::move(cache),
                                        std::move(stop_ids),
                                        std::move(held),
                                        {},
                                        {}})) {
  QUIRE_CHECK(impl_->cache->length() == impl_->length(), "a session begins with ",
              impl_->length() == 0 ? "an empty cache" : "a cache of the tokens it is told",
              ", but this one holds ", impl_->cache->length(), " tokens, not ", impl_->length());
}

Session Session::fork() const {
  Session out(*this);
  out.impl_ =
      std::make_shared<Impl>(Impl{impl_->model, impl_->tokenizer, impl_->cache->fork(),
                                  impl_->stop_ids, impl_->ids, impl_->hidden_1D, impl_->logits_V});
  return out;
}

bool Session::read(std::span<const std::int32_t> ids, const Progress& progress,
                   std::int64_t chunk) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::int64_t step = checked_chunk(chunk, impl_->model);
  check_room(tokens, impl_->length(), context());
  // What the cache lacks; the hidden state of the last id is not needed, so nothing is read twice
  // after a truncation (which a cache that has left something out could not do).
  if (tokens > 0) impl_->feed_rest();
  std::int64_t begin = 0;
  if (tokens > 0 && impl_->length() == 0) {
    // What another sequence has read already need not be read again.
    begin = impl_->cache->adopt(ids);
    impl_->ids.assign(ids.begin(), ids.begin() + begin);
  }
  std::int64_t again = 0;  // tokens that were read a second time
  while (begin < tokens) {
    const std::int64_t most = std::min(step, tokens - begin),
                       count = std::min(most, model::until_reread(*impl_->cache, most));
    const auto part = ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    impl_->feed(part);
    impl_->ids.insert(impl_->ids.end(), part.begin(), part.end());
    begin += count;
    if (progress && !progress(begin + again)) return false;
    const auto piece = model::piece_to_reread(*impl_->cache, impl_->ids, begin == tokens);
    const auto show = [&](std::int64_t done) {
      return !progress || progress(begin + again + done);
    };
    if (!model::reread(impl_->model, piece, *impl_->cache, show)) return false;
    again += std::ssize(piece);
  }
  return true;
}

GenerateResult Session::generate(const GenerateSpec& spec, const Stream& stream) {
  Impl& impl = *impl_;
  Generation answer(*impl.tokenizer, impl.stop_ids, spec, stream);
  (void)impl.last_logits();  // throws when there is nothing to continue, also for max_tokens 0
  while (!answer.is_over(impl.length(), context())) {
    const Tensor& logits_V = impl.last_logits();
    const auto id = answer.next(logits_V.data<float>(), logits_V.size(0), impl.ids);
    if (id) impl.accept(*id);
  }
  return answer.finish();
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

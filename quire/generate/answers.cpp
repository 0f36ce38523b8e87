#include "quire/generate/answers.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/paged.h"
#include "quire/generate/feed.h"
#include "quire/generate/generation.h"
#include "quire/generate/session_impl.h"

namespace quire::generate {
namespace {

using Ids = std::vector<std::int32_t>;

/// A question that is read, or an answer that is written.
struct Running {
  std::size_t question;
  std::unique_ptr<cache::PagedCache> cache;
  Ids history;        // document, question, answer
  std::size_t fed;    // of history
  std::int64_t cost;  // pages that it may come to need
  Generation answer;
};

/// So often a disk may lose keys before a token is written; then it is given up.
constexpr int kMostLosses = 8;

class Answers {
 public:
  /// read_rest  reads again what the document's cache has lost
  Answers(const model::Model& model, const text::Tokenizer& tokenizer,
          std::span<const std::int32_t> stop_ids, cache::PagedCache& document,
          std::span<const std::int32_t> read, std::function<void()> read_rest,
          std::span<const Ids> questions, const GenerateSpec& spec, const AnswerEvents& events)
      : model_(model),
        tokenizer_(tokenizer),
        stop_ids_(stop_ids),
        document_(document),
        read_(read),
        read_rest_(std::move(read_rest)),
        questions_(questions),
        spec_(spec),
        events_(events),
        results_(questions.size()) {
    const cache::BlockCounts counts = document.pool()->counts();
    budget_ = counts.blocks - counts.held - counts.pinned;
    for (const Ids& question : questions) check(question);
  }

  std::vector<GenerateResult> operator()() {
    while (!is_interrupted_) {
      begin_what_fits();
      if (running_.empty()) break;
      step();
    }
    for (const auto& one : running_) {
      one->answer.interrupt();
      end(*one);
    }
    for (; next_ < questions_.size(); ++next_)
      results_[next_].finish_reason = FinishReason::kInterrupted;
    return std::move(results_);
  }

 private:
  std::int64_t context() const { return document_.capacity(); }

  /// Pages beyond those of the document that a question and its answer may fill.
  std::int64_t cost(const Ids& question) const {
    const std::int64_t Z = document_.pool()->spec().page_tokens, before = document_.length(),
                       asked = before + static_cast<std::int64_t>(question.size()),
                       room = context() - asked,
                       most = spec_.max_tokens < 0 ? room : std::min(room, spec_.max_tokens);
    return (asked + most + Z - 1) / Z - before / Z;
  }

  void check(const Ids& question) const {
    QUIRE_CHECK(!question.empty(), "a question has no tokens");
    check_room(static_cast<std::int64_t>(question.size()), document_.length(), context());
    const cache::PagedSpec& pool = document_.pool()->spec();
    const std::int64_t most = cost(question);
    if (most > budget_) {
      throw OutOfMemory(concat("a question and its answer may need ", most * pool.page_tokens,
                               " tokens of the cache beside the document's, but its budget of ",
                               document_.pool()->counts().blocks * pool.page_tokens,
                               " tokens has only ", budget_ * pool.page_tokens,
                               " left; give a larger --budget, or fewer --max-tokens"));
    }
  }

  void begin_what_fits() {
    for (; next_ < questions_.size(); ++next_) {
      const std::int64_t most = cost(questions_[next_]);
      if (used_ + most > budget_) return;
      if (static_cast<std::int64_t>(running_.size()) == model_.max_chunk()) return;
      used_ += most;
      const std::size_t question = next_;
      Ids history(read_.begin(), read_.end());
      history.insert(history.end(), questions_[question].begin(), questions_[question].end());
      running_.push_back(std::unique_ptr<Running>(
          new Running{question, document_.fork_paged(), std::move(history), read_.size(), most,
                      Generation(tokenizer_, stop_ids_, spec_, [this, question](auto text) {
                        if (events_.text && !events_.text(question, text)) is_interrupted_ = true;
                        return !is_interrupted_;
                      })}));
    }
  }

  /// One call of the model: a token of each answer, and of the questions what the call has room
  /// for.
  void step() {
    Ids ids;
    std::vector<cache::PagedCache*> caches;
    std::vector<std::int64_t> counts;
    std::vector<Running*> members;
    auto room = static_cast<std::size_t>(model_.max_chunk()) - running_.size();
    for (const auto& one : running_) {
      const std::size_t waiting = one->history.size() - one->fed;
      const std::size_t more = std::min(waiting - 1, room);  // one has its place already
      room -= more;
      const auto begin = one->history.begin() + static_cast<std::ptrdiff_t>(one->fed);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(more) + 1);
      one->fed += more + 1;
      caches.push_back(one->cache.get());
      counts.push_back(static_cast<std::int64_t>(more) + 1);
      members.push_back(one.get());
    }
    cache::PagedBatch batch(caches, counts);
    const std::optional<Tensor> hidden_ND = forward(ids, batch);
    if (!hidden_ND) return;
    take(*hidden_ND, members, counts);
    for (std::size_t i = running_.size(); i-- > 0;) {
      Running& one = *running_[i];
      const auto length = static_cast<std::int64_t>(one.history.size());
      if (one.fed < one.history.size() && !one.answer.is_over(length, context())) continue;
      end(one);
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  /// Nothing when a disk lost keys: then everyone goes on from where that left them.
  std::optional<Tensor> forward(const Ids& ids, cache::PagedBatch& batch) {
    try {
      return model_.forward(ids, batch);
    } catch (const IoError&) {
      if (++losses_ > kMostLosses || !batch.recover()) throw;
    }
    read_again();
    return std::nullopt;
  }

  /// After a disk lost keys of some sequences, which have let go of them: brings the document back,
  /// once for all, and lets everyone go on behind what is left of it. The keys that were lost are
  /// computed again with the same bits.
  void read_again() {
    for (const auto& one : running_)
      if (one->cache->length() < document_.length()) one->cache.reset();
    document_.recover();
    read_rest_();
    for (const auto& one : running_) {
      if (one->cache == nullptr) one->cache = document_.fork_paged();
      one->fed = static_cast<std::size_t>(one->cache->length());
    }
  }

  /// The next token of everyone whose tokens have all been fed.
  void take(const Tensor& hidden_ND, const std::vector<Running*>& members,
            const std::vector<std::int64_t>& counts) {
    const std::int64_t D = hidden_ND.size(1);
    std::vector<Running*> ready;
    std::vector<std::int64_t> rows;
    std::int64_t row = -1;
    for (std::size_t b = 0; b < members.size(); ++b) {
      row += counts[b];
      if (members[b]->fed < members[b]->history.size()) continue;
      ready.push_back(members[b]);
      rows.push_back(row);
    }
    if (ready.empty()) return;
    losses_ = 0;
    const auto R = static_cast<std::int64_t>(rows.size());
    Tensor last_RD = Tensor::empty({R, D}, DType::kF32);
    for (std::int64_t r = 0; r < R; ++r) {
      std::memcpy(last_RD.mutable_data<float>() + r * D,
                  hidden_ND.data<float>() + rows[static_cast<std::size_t>(r)] * D,
                  static_cast<std::size_t>(D) * sizeof(float));
    }
    const Tensor logits_RV = model_.logits(last_RD);
    const std::int64_t V = logits_RV.size(1);
    // Of all at once; what follows is told to others, one answer after the other.
    constexpr std::int32_t kNone = -1;
    std::vector<std::int32_t> drawn(ready.size(), kNone);
    thread_pool().run(R, [&](std::int64_t r) {
      Running& one = *ready[static_cast<std::size_t>(r)];
      const auto length = static_cast<std::int64_t>(one.history.size());
      if (one.answer.is_over(length, context())) return;
      drawn[static_cast<std::size_t>(r)] =
          one.answer.draw(logits_RV.data<float>() + r * V, V, one.history);
    });
    for (std::size_t r = 0; r < ready.size(); ++r) {
      if (drawn[r] == kNone) continue;
      const auto id = ready[r]->answer.take(drawn[r]);
      if (id) ready[r]->history.push_back(*id);
    }
  }

  void end(Running& one) {
    GenerateResult& result = results_[one.question];
    result = one.answer.finish();
    used_ -= one.cost;
    if (events_.finished) events_.finished(one.question, result);
  }

  const model::Model& model_;
  const text::Tokenizer& tokenizer_;
  std::span<const std::int32_t> stop_ids_;
  cache::PagedCache& document_;
  std::span<const std::int32_t> read_;
  std::function<void()> read_rest_;
  std::span<const Ids> questions_;
  const GenerateSpec& spec_;
  const AnswerEvents& events_;
  std::vector<GenerateResult> results_;
  std::vector<std::unique_ptr<Running>> running_;
  std::size_t next_ = 0;                // the first question that was not begun
  std::int64_t budget_ = 0, used_ = 0;  // pages
  int losses_ = 0;                      // since a token was written
  bool is_interrupted_ = false;
};

/// Over a cache of one sequence.
std::vector<GenerateResult> answer_in_turn(Session& document, std::span<const Ids> questions,
                                           const GenerateSpec& spec, const AnswerEvents& events) {
  const auto before = static_cast<std::int64_t>(document.ids().size());
  for (const Ids& question : questions) {
    QUIRE_CHECK(!question.empty(), "a question has no tokens");
    check_room(static_cast<std::int64_t>(question.size()), before, document.context());
  }
  std::vector<GenerateResult> out(questions.size());
  bool is_interrupted = false;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    GenerateResult& result = out[i];
    result.finish_reason = FinishReason::kInterrupted;
    if (is_interrupted) continue;
    const auto go_on = [&](std::string_view text) {
      if (events.text && !events.text(i, text)) is_interrupted = true;
      return !is_interrupted;
    };
    if (document.read(questions[i], [&](std::int64_t) { return go_on({}); }))
      result = document.generate(spec, go_on);
    if (events.finished) events.finished(i, result);
    document.truncate(before);
  }
  return out;
}

}  // namespace

std::vector<GenerateResult> answer_each(Session& document, std::span<const Ids> questions,
                                        const GenerateSpec& spec, const AnswerEvents& events) {
  Session::Impl& impl = *document.impl_;
  auto* paged = dynamic_cast<cache::PagedCache*>(impl.cache.get());
  impl.feed_rest();
  if (paged == nullptr) return answer_in_turn(document, questions, spec, events);
  return Answers(
      impl.model, *impl.tokenizer, impl.stop_ids, *paged, impl.ids, [&impl] { impl.feed_rest(); },
      questions, spec, events)();
}

}  // namespace quire::generate

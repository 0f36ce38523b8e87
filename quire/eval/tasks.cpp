#include "quire/eval/tasks.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/eval/lockstep.h"
#include "quire/eval/shared_reading.h"
#include "quire/model/reread.h"
#include "quire/tensor/rng.h"

namespace quire::eval {
namespace {

constexpr std::int64_t kCue = 32, kCopied = 10;  // tokens of a span
constexpr std::int64_t kDigits = 5;

using Ids = std::vector<std::int32_t>;

void check(const TaskSpec& spec, std::int64_t filler, std::int64_t least) {
  QUIRE_CHECK(spec.depths >= 1 && spec.depths <= 1000 && spec.keys >= 1 && spec.keys <= 1000,
              "a task of ", spec.depths, " depths and ", spec.keys,
              " keys; both must be from 1 to 1000");
  QUIRE_CHECK(spec.tokens >= least, "a task's document of ", spec.tokens,
              " tokens; it must have at least ", least);
  QUIRE_CHECK(filler >= spec.tokens, "the text has ", filler, " tokens, but a task's document has ",
              spec.tokens);
}

Ids encode(const text::Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.encode(text, text::Origin::kData);
}

void put(Ids& to, std::span<const std::int32_t> ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

/// Where in the filler something may stand: behind the line end nearest before `at`, or right there
/// when there is none within 200 tokens.
std::int64_t line_begin(const text::Tokenizer& tokenizer, std::span<const std::int32_t> filler,
                        std::int64_t at) {
  for (std::int64_t i = at; i > std::max<std::int64_t>(at - 200, 0); --i) {
    if (tokenizer.bytes(filler[static_cast<std::size_t>(i - 1)]).ends_with('\n')) return i;
  }
  return at;
}

/// The digits of a key, each drawn alone.
std::string draw_key(Rng& rng) {
  std::string key;
  for (std::int64_t i = 0; i < kDigits; ++i) key += static_cast<char>('0' + rng.below(10));
  return key;
}

/// Whether the likeliest token behind ids[first − 1], … is the answer's, often enough.
bool passes(std::int64_t right, std::int64_t tokens) {
  return static_cast<double>(right) >= kPassing * static_cast<double>(tokens);
}

std::int32_t likeliest(const float* logits, std::int64_t V) {
  return static_cast<std::int32_t>(std::max_element(logits, logits + V) - logits);
}

/// All tokens of a question but the last, which nobody continues.
Ids fed(const Question& question) {
  Ids ids = question.ask;
  put(ids, std::span(question.answer).first(question.answer.size() - 1));
  return ids;
}

/// In one step, where nothing depends on how many tokens come at once.
bool passes_at_once(const model::Model& model, const Question& question, cache::KvCache& cache) {
  const std::int64_t before = cache.length();
  const Ids ids = fed(question);
  const Tensor hidden_ND = model.forward(ids, cache);
  const auto first = static_cast<std::int64_t>(question.ask.size()) - 1;
  const Tensor logits_NV =
      model.logits(hidden_ND.slice(0, first, static_cast<std::int64_t>(ids.size())));
  cache.truncate(before);
  std::int64_t right = 0;
  for (std::size_t i = 0; i < question.answer.size(); ++i) {
    const float* row = logits_NV.data<float>() + static_cast<std::int64_t>(i) * logits_NV.size(1);
    right += likeliest(row, logits_NV.size(1)) == question.answer[i] ? 1 : 0;
  }
  return passes(right, static_cast<std::int64_t>(question.answer.size()));
}

/// Whether each cache passes; they take the question's tokens one by one, all in lockstep. `seen`
/// is called behind each token; when it says false, there is no answer.
std::optional<std::vector<bool>> pass_one_by_one(const model::Model& model,
                                                 const Question& question,
                                                 std::span<cache::KvCache* const> caches,
                                                 const std::function<bool()>& seen) {
  const Ids ids = fed(question);
  Lockstep lockstep({caches.begin(), caches.end()});
  std::vector<std::int64_t> right(caches.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Tensor hidden_CD = model.forward(Ids(caches.size(), ids[i]), lockstep);
    if (!seen()) return std::nullopt;
    if (i + 1 < question.ask.size()) continue;
    const Tensor logits_CV = model.logits(hidden_CD);
    const std::int64_t V = logits_CV.size(1);
    for (std::size_t c = 0; c < caches.size(); ++c) {
      const std::int32_t said =
          likeliest(logits_CV.data<float>() + static_cast<std::int64_t>(c) * V, V);
      right[c] += said == question.answer[i + 1 - question.ask.size()] ? 1 : 0;
    }
  }
  std::vector<bool> out;
  for (const std::int64_t tokens : right)
    out.push_back(passes(tokens, static_cast<std::int64_t>(question.answer.size())));
  return out;
}

std::int64_t longest_question(const Task& task) {
  std::size_t longest = 0;
  for (const TaskDocument& document : task.documents)
    for (const Question& question : document.questions)
      longest = std::max(longest, question.ask.size() + question.answer.size());
  return static_cast<std::int64_t>(longest);
}

/// One run over all documents.
class Examiner {
 public:
  Examiner(const model::Model& model, const Task& task, DType kv,
           std::span<const Candidate> candidates, const Progress& progress)
      : model_(model), task_(task), candidates_(candidates), progress_(progress) {
    room_ = longest_question(task);
    std::int64_t longest = 0;
    for (const TaskDocument& document : task.documents)
      longest = std::max(longest, static_cast<std::int64_t>(document.ids.size()));
    QUIRE_CHECK(longest + room_ <= model.config().context, "a task's document has ", longest,
                " tokens and its questions ", room_, ", but this model's context is ",
                model.config().context);
    std::int64_t queries_from = longest;
    for (const TaskDocument& document : task.documents) {
      const auto tokens = static_cast<std::int64_t>(document.ids.size());
      for (const Candidate& candidate : candidates) {
        const auto cache = candidate.make(tokens, tokens + room_);
        queries_from = std::min(queries_from, first_query_wanted(*cache, tokens));
      }
    }
    recording_ = std::make_unique<RecordingCache>(model.paged_spec(kv).layers, longest + room_, kv,
                                                  queries_from, reread_wanted(candidates, longest));
    shared_ = std::make_unique<SharedReading>(*recording_, candidates, longest + room_);
    for (const Candidate& candidate : candidates)
      scores_.push_back({task.name, candidate.cache, candidate.budget});
  }

  /// False when it was stopped.
  bool run() {
    for (std::size_t i = 0; i < task_.documents.size(); ++i) {
      const TaskDocument& document = task_.documents[i];
      const std::int64_t next =
          i + 1 < task_.documents.size() ? common(document, task_.documents[i + 1]) : 0;
      if (!read(document)) return false;
      if (!ask(document, screen(document), next)) return false;
      work_ += static_cast<std::int64_t>(document.ids.size() * candidates_.size());
      if (progress_ && !progress_(work_)) return false;
    }
    return true;
  }

  std::vector<TaskScore> scores() && { return std::move(scores_); }

 private:
  static std::int64_t common(const TaskDocument& a, const TaskDocument& b) {
    const std::size_t most = std::min(a.ids.size(), b.ids.size());
    const auto end = a.ids.begin() + static_cast<std::ptrdiff_t>(most);
    return std::mismatch(a.ids.begin(), end, b.ids.begin()).first - a.ids.begin();
  }

  /// The recording then holds the document; what it shares with the one before is not read again.
  bool read(const TaskDocument& document) {
    const auto held = recording_->ids();
    const std::size_t most = std::min(held.size(), document.ids.size());
    const auto same = std::mismatch(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(most),
                                    document.ids.begin())
                          .first -
                      held.begin();
    recording_->truncate(same);
    const auto tokens = static_cast<std::int64_t>(document.ids.size());
    for (std::int64_t begin = same; begin < tokens; begin = recording_->length()) {
      const std::int64_t end =
          begin + model::until_reread(*recording_, std::min(tokens - begin, model_.max_chunk()));
      model_.forward(
          std::span(document.ids)
              .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
          *recording_);
      if (progress_ && !progress_(work_ + end)) return false;
      const auto piece = model::piece_to_reread(*recording_, recording_->ids(), end == tokens);
      if (!model::reread(model_, piece, *recording_)) return false;
    }
    work_ += tokens;
    return true;
  }

  /// The questions that count.
  std::vector<const Question*> screen(const TaskDocument& document) {
    std::vector<const Question*> counted;
    for (const Question& question : document.questions) {
      const bool full = passes_at_once(model_, question, *recording_);
      RecordingCache empty(specs(), room_, DType::kF32, room_);
      const bool known = full && passes_at_once(model_, question, empty);
      if (full && !known) counted.push_back(&question);
      for (TaskScore& score : scores_) {
        score.cells += full && !known ? 1 : 0;
        score.dropped += full && !known ? 0 : 1;
        score.known += known ? 1 : 0;
      }
    }
    return counted;
  }

  /// A few candidates at a time, so that their caches fit into memory together.
  bool ask(const TaskDocument& document, std::span<const Question* const> counted,
           std::int64_t next) {
    const auto tokens = static_cast<std::int64_t>(document.ids.size());
    if (counted.empty()) return true;
    if (!shared_->read(tokens, next)) return false;
    for (std::size_t first = 0; first < candidates_.size(); first += kAskedTogether) {
      const std::size_t end = std::min(candidates_.size(), first + kAskedTogether);
      std::vector<std::unique_ptr<cache::KvCache>> owned;
      std::vector<cache::KvCache*> caches;
      for (std::size_t i = first; i < end; ++i) {
        owned.push_back(shared_->give(candidates_[i]));
        caches.push_back(owned.back().get());
      }
      for (std::size_t q = 0; q < counted.size(); ++q) {
        // The part of this document's work that is done.
        const std::size_t all = candidates_.size() * counted.size();
        const std::size_t done = first * counted.size() + q * (end - first);
        const std::int64_t work =
            work_ +
            static_cast<std::int64_t>(document.ids.size() * candidates_.size() * done / all);
        const auto passed = pass_one_by_one(model_, *counted[q], caches,
                                            [&] { return !progress_ || progress_(work); });
        if (!passed) return false;
        for (std::size_t i = first; i < end; ++i) {
          scores_[i].passed += (*passed)[i - first] ? 1 : 0;
          caches[i - first]->truncate(tokens);
        }
      }
    }
    return true;
  }

  std::vector<cache::LayerSpec> specs() const {
    std::vector<cache::LayerSpec> out;
    for (std::int64_t layer = 0; layer < recording_->layers(); ++layer)
      out.push_back(recording_->spec(layer));
    return out;
  }

  const model::Model& model_;
  const Task& task_;
  std::span<const Candidate> candidates_;
  const Progress& progress_;
  std::unique_ptr<RecordingCache> recording_;
  std::unique_ptr<SharedReading> shared_;
  std::int64_t room_ = 0, work_ = 0;
  std::vector<TaskScore> scores_;
};

}  // namespace

Task passkey_task(const text::Tokenizer& tokenizer, std::span<const std::int32_t> filler,
                  const TaskSpec& spec) {
  check(spec, static_cast<std::int64_t>(filler.size()), 128);
  Rng rng(spec.seed);
  Task task{"passkey", {}};
  // The deepest last: what stands before a key is shared by all that are deeper.
  for (std::int64_t depth = 0; depth < spec.depths; ++depth) {
    const double part = (static_cast<double>(depth) + 0.5) / static_cast<double>(spec.depths);
    for (std::int64_t key = 0; key < spec.keys; ++key) {
      const std::string digits = draw_key(rng);
      const Ids line = encode(tokenizer, concat("\nThe pass key is ", digits, ". Remember it. ",
                                                digits, " is the pass key.\n"));
      const std::int64_t rest = spec.tokens - static_cast<std::int64_t>(line.size());
      const auto at = static_cast<std::size_t>(line_begin(
          tokenizer, filler, static_cast<std::int64_t>(part * static_cast<double>(rest))));
      TaskDocument document;
      put(document.ids, filler.first(at));
      put(document.ids, line);
      put(document.ids, filler.subspan(at, static_cast<std::size_t>(rest) - at));
      document.questions.push_back({encode(tokenizer, "\nWhat is the pass key? The pass key is"),
                                    encode(tokenizer, concat(" ", digits)), part});
      task.documents.push_back(std::move(document));
    }
  }
  return task;
}

Task copy_task(const text::Tokenizer& tokenizer, std::span<const std::int32_t> filler,
               const TaskSpec& spec) {
  check(spec, static_cast<std::int64_t>(filler.size()), kCue + kCopied + 24);
  Rng rng(spec.seed);
  Task task{"copy", {TaskDocument()}};
  TaskDocument& document = task.documents.front();
  put(document.ids, filler.first(static_cast<std::size_t>(spec.tokens)));
  const Ids cut = encode(tokenizer, "\n\n");
  const std::int64_t cells = spec.depths * spec.keys, room = spec.tokens - kCue - kCopied;
  for (std::int64_t cell = 0; cell < cells; ++cell) {
    // Each somewhere in its own stretch of the document.
    const std::int64_t begin = cell * room / cells, end = (cell + 1) * room / cells;
    const std::int64_t at =
        begin + static_cast<std::int64_t>(
                    rng.below(static_cast<std::uint64_t>(std::max<std::int64_t>(end - begin, 1))));
    Question question;
    question.ask = cut;
    put(question.ask, filler.subspan(static_cast<std::size_t>(at), kCue));
    put(question.answer, filler.subspan(static_cast<std::size_t>(at + kCue), kCopied));
    question.depth = static_cast<double>(at) / static_cast<double>(spec.tokens);
    document.questions.push_back(std::move(question));
  }
  return task;
}

std::optional<std::vector<TaskScore>> run_task(const model::Model& model, const Task& task,
                                               DType kv, std::span<const Candidate> candidates,
                                               const Progress& progress) {
  Examiner examiner(model, task, kv, candidates, progress);
  if (!examiner.run()) return std::nullopt;
  return std::move(examiner).scores();
}

std::int64_t task_work(const Task& task, std::size_t candidates) {
  std::int64_t tokens = 0;
  for (const TaskDocument& document : task.documents)
    tokens += static_cast<std::int64_t>(document.ids.size());
  return tokens * static_cast<std::int64_t>(candidates + 1);
}

}  // namespace quire::eval

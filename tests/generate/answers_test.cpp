// Several questions about one document, with a tiny model: each answer is what a session of its own
// gives.
#include "quire/generate/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/merged.h"
#include "quire/cache/paged.h"
#include "quire/cache/policies/policies.h"
#include "quire/cache/tiered.h"
#include "tests/generate/fake_model.h"

namespace quire::generate {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::ThrowsMessage;
using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kVocabulary = 320;

class Answers : public testing::Test {
 protected:
  Answers()
      : model_(model::Model::load(model::ModelFile::open(std::string(QUIRE_SOURCE_DIR) +
                                                         "/tests/goldens/tiny/llama.gguf"),
                                  {model::Mode::kFast, {}})) {
    std::vector<std::string> tokens;
    for (std::int32_t id = 0; id < kVocabulary; ++id) tokens.push_back(concat("t", id, " "));
    tokenizer_ = std::make_shared<test::FakeTokenizer>(tokens);
    Rng rng(1);
    for (const std::size_t length : {1u, 30u, 7u, 90u, 2u}) {
      Ids ids;
      while (ids.size() < length) ids.push_back(static_cast<std::int32_t>(rng.below(kVocabulary)));
      questions_.push_back(ids);
    }
    while (document_.size() < 300)
      document_.push_back(static_cast<std::int32_t>(rng.below(kVocabulary)));
    spec_.max_tokens = 12;
  }

  Session paged(std::int64_t budget, std::int64_t context = 500) {
    cache::PagedSpec spec = model_->paged_spec(kv_);
    spec.budget_tokens = budget;
    spec.page_tokens = 16;
    pool_ = std::make_shared<cache::PagedPool>(spec);
    return Session(*model_, tokenizer_, std::make_unique<cache::PagedCache>(pool_, context),
                   stop_ids_);
  }
  Session alone(std::int64_t context = 500) const {
    cache::PagedSpec spec = model_->paged_spec(kv_);
    spec.budget_tokens = context;
    spec.page_tokens = 64;
    return Session(
        *model_, tokenizer_,
        std::make_unique<cache::PagedCache>(std::make_shared<cache::PagedPool>(spec), context),
        stop_ids_);
  }

  void expect_as_alone(const std::vector<GenerateResult>& results, std::int64_t context = 500) {
    ASSERT_EQ(results.size(), questions_.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      Session session = alone(context);
      session.read(document_);
      session.read(questions_[i], {}, 13);
      const GenerateResult expected = session.generate(spec_);
      EXPECT_THAT(results[i].ids, ElementsAreArray(expected.ids)) << "question " << i;
      EXPECT_EQ(results[i].text, expected.text);
      EXPECT_EQ(results[i].finish_reason, expected.finish_reason);
    }
  }

  std::unique_ptr<model::Model> model_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<cache::PagedPool> pool_;
  std::vector<std::int32_t> stop_ids_;
  Ids document_;
  std::vector<Ids> questions_;
  GenerateSpec spec_;
  DType kv_ = DType::kF16;
};

TEST_F(Answers, I11_PAG_21_are_those_that_are_given_alone) {
  spec_.sample.temperature = 0.8;
  spec_.sample.repeat_penalty = 1.1;
  spec_.seed = 5;
  for (const int threads : {1, 2}) {
    set_threads(threads);
    Session document = paged(2000);
    document.read(document_);
    std::vector<std::string> streamed(questions_.size());
    std::vector<int> finished(questions_.size());
    AnswerEvents events;
    events.text = [&](std::size_t i, std::string_view text) {
      streamed[i] += text;
      return true;
    };
    events.finished = [&](std::size_t i, const GenerateResult&) { ++finished[i]; };
    const auto results = answer_each(document, questions_, spec_, events);
    expect_as_alone(results);
    for (std::size_t i = 0; i < results.size(); ++i) EXPECT_EQ(streamed[i], results[i].text);
    EXPECT_EQ(finished, std::vector<int>(questions_.size(), 1));
    EXPECT_EQ(pool_->counts().held, 19) << "only the document's pages are left";
    // The document can be asked again.
    expect_as_alone(answer_each(document, questions_, spec_));
  }
}

TEST_F(Answers, I11_PAG_21_are_those_that_are_given_alone_in_every_storage_type) {
  set_threads(2);
  for (const DType kv : {DType::kF32, DType::kBF16, DType::kI8}) {
    kv_ = kv;
    Session document = paged(2000);
    document.read(document_);
    expect_as_alone(answer_each(document, questions_, spec_));
  }
}

TEST_F(Answers, K6_wait_for_each_other_where_the_pool_is_small) {
  Session document = paged(304 + 128);  // room for the longest alone
  document.read(document_);
  expect_as_alone(answer_each(document, questions_, spec_));
}

TEST_F(Answers, K7_of_which_one_cannot_fit_are_refused_before_any_is_read) {
  Session document = paged(304 + 64);
  document.read(document_);
  EXPECT_THAT([&] { answer_each(document, questions_, spec_); },
              ThrowsMessage<OutOfMemory>(HasSubstr("budget of 368 tokens")));
  EXPECT_EQ(pool_->counts().held, 19);
  Session brief = paged(2000, 380);
  brief.read(document_);
  EXPECT_THAT([&] { answer_each(brief, questions_, spec_); },
              ThrowsMessage<ArgumentError>(HasSubstr("90 tokens")));
}

TEST_F(Answers, end_with_the_context_and_at_stops) {
  Session first = paged(2000, 401);
  first.read(document_);
  const auto results = answer_each(first, questions_, spec_);
  expect_as_alone(results, 401);
  EXPECT_EQ(results[3].ids.size(), 11u);
  // What came third in the first answer stops it now.
  stop_ids_ = {results[0].ids[2]};
  spec_.stops = {concat("t", results[1].ids[1], " ")};
  Session second = paged(2000);
  second.read(document_);
  expect_as_alone(answer_each(second, questions_, spec_));
  spec_.max_tokens = 0;
  expect_as_alone(answer_each(second, questions_, spec_));
}

TEST_F(Answers, more_questions_than_one_call_takes) {
  questions_.assign(300, {5, 6});
  for (std::size_t i = 0; i < questions_.size(); ++i)
    questions_[i][1] = static_cast<std::int32_t>(i);
  document_.resize(20);
  spec_.max_tokens = 2;
  Session document = paged(20'000);
  document.read(document_);
  expect_as_alone(answer_each(document, questions_, spec_));
}

TEST_F(Answers, I6_an_interruption_ends_all_and_gives_the_pages_back) {
  for (int after = 1; after < 40; after += 6) {
    Session document = paged(2000);
    document.read(document_);
    int calls = 0;
    AnswerEvents events;
    events.text = [&](std::size_t, std::string_view) { return ++calls < after; };
    const auto results = answer_each(document, questions_, spec_, events);
    int interrupted = 0;
    for (const GenerateResult& result : results)
      interrupted += result.finish_reason == FinishReason::kInterrupted ? 1 : 0;
    EXPECT_GE(interrupted, 1);
    EXPECT_EQ(pool_->counts().held, 19);
  }
}

TEST_F(Answers, may_have_no_document) {
  document_.clear();
  Session document = paged(2000);
  const auto results = answer_each(document, questions_, spec_);
  ASSERT_EQ(results.size(), questions_.size());
  Session session = alone();
  session.read(questions_[1]);
  EXPECT_THAT(results[1].ids, ElementsAreArray(session.generate(spec_).ids));
}

TEST_F(Answers, refuse_what_they_cannot_do) {
  Session document = paged(2000);
  document.read(document_);
  EXPECT_TRUE(answer_each(document, std::vector<Ids>(), spec_).empty());
  EXPECT_THROW(answer_each(document, std::vector<Ids>{{1}, {}}, spec_), ArgumentError);
  spec_.max_tokens = -2;
  EXPECT_THROW(answer_each(document, questions_, spec_), ArgumentError);
  spec_.max_tokens = 1;
  Session full(*model_, tokenizer_, model_->make_cache(40, DType::kF16), {});
  EXPECT_THROW(answer_each(full, std::vector<Ids>{{1}, {}}, spec_), ArgumentError);
  EXPECT_THAT([&] { answer_each(full, questions_, spec_); },
              ThrowsMessage<ArgumentError>(HasSubstr("90")));
  EXPECT_EQ(full.cache().length(), 0) << "no question was read";
}

/// Caches of one sequence that have read the document.
std::vector<std::unique_ptr<cache::KvCache>> single_caches(const model::Model& model) {
  const std::vector<cache::LayerSpec> layers = model.paged_spec(DType::kF16).layers;
  cache::TieredSpec tiered;
  tiered.budget = {.tokens = 60};
  tiered.staging = 64;
  tiered.recent = 32;
  cache::MergeOptions merged = cache::merge_options("merged");
  merged.recent = 16;
  std::vector<std::unique_ptr<cache::KvCache>> out;
  out.push_back(std::make_unique<cache::ContiguousCache>(layers, 500, DType::kF16));
  out.push_back(std::make_unique<cache::TieredCache>(layers, tiered, 500, DType::kF16));
  out.push_back(std::make_unique<cache::MergedCache>(layers, merged, cache::Budget{.tokens = 100},
                                                     500, DType::kF16));
  for (const char* name : {"window", "quest"})
    out.push_back(cache::make_policy_cache(name, {.tokens = 100}, layers, 500, DType::kF16));
  return out;
}

TEST_F(Answers, I11_of_every_kind_of_cache_are_those_that_are_given_alone) {
  spec_.sample.temperature = 0.8;
  spec_.seed = 5;
  spec_.max_tokens = 5;
  questions_.resize(3);
  for (std::size_t kind = 0; kind < single_caches(*model_).size(); ++kind) {
    const auto reader = [&] {
      Session session(*model_, tokenizer_, std::move(single_caches(*model_)[kind]), stop_ids_);
      session.read(document_);
      session.cache().end_reading();
      return session;
    };
    Session document = reader();
    std::vector<std::size_t> finished;
    AnswerEvents events;
    events.finished = [&](std::size_t i, const GenerateResult&) { finished.push_back(i); };
    for (int again = 0; again < 2; ++again) {  // an answer leaves nothing behind
      const auto results = answer_each(document, questions_, spec_, events);
      ASSERT_EQ(results.size(), questions_.size());
      for (std::size_t i = 0; i < results.size(); ++i) {
        Session alone = reader();
        alone.read(questions_[i], {}, 13);
        const GenerateResult expected = alone.generate(spec_);
        EXPECT_THAT(results[i].ids, ElementsAreArray(expected.ids)) << kind << " question " << i;
        EXPECT_EQ(results[i].text, expected.text);
      }
    }
    EXPECT_EQ(finished.size(), 2 * questions_.size());
    EXPECT_EQ(document.ids().size(), document_.size());
    // An interruption ends all that follow.
    events.text = [&](std::size_t i, std::string_view) { return i < 1; };
    const auto cut = answer_each(document, questions_, spec_, events);
    EXPECT_EQ(cut[0].finish_reason, FinishReason::kLength);
    EXPECT_EQ(cut[1].finish_reason, FinishReason::kInterrupted);
    EXPECT_EQ(cut[2].finish_reason, FinishReason::kInterrupted);
    EXPECT_EQ(document.ids().size(), document_.size());
  }
}

TEST_F(Answers, a_forked_session_goes_its_own_way) {
  Session document = paged(2000);
  document.read(document_);
  std::vector<Session> forks;
  for (std::size_t i = 0; i < 3; ++i) forks.push_back(document.fork());
  for (std::size_t i = 0; i < 3; ++i) forks[i].read(questions_[i]);
  for (std::size_t i = 0; i < 3; ++i) {
    Session expected = alone();
    expected.read(document_);
    expected.read(questions_[i]);
    EXPECT_THAT(forks[i].generate(spec_).ids, ElementsAreArray(expected.generate(spec_).ids));
  }
  EXPECT_EQ(document.ids().size(), document_.size());
  Session full(*model_, tokenizer_, model_->make_cache(100, DType::kF16), {});
  EXPECT_THROW((void)full.fork(), ArgumentError);
}

TEST_F(Answers, a_second_session_reads_only_what_no_other_has_read) {
  Session first = paged(2000);
  first.read(document_);
  Session second(*model_, tokenizer_, std::make_unique<cache::PagedCache>(pool_, 500), stop_ids_);
  std::vector<std::int64_t> progress;
  second.read(document_, [&](std::int64_t done) {
    progress.push_back(done);
    return true;
  });
  EXPECT_THAT(progress, testing::ElementsAre(300)) << "288 were there, 12 were read";
  EXPECT_EQ(pool_->counts().hits, 18);
  Session expected = alone();
  expected.read(document_);
  EXPECT_THAT(second.generate(spec_).ids, ElementsAreArray(expected.generate(spec_).ids));
}

}  // namespace
}  // namespace quire::generate

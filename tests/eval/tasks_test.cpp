#include "quire/eval/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "quire/base/error.h"
#include "tests/eval/tiny.h"
#include "tests/support/message_of.h"

namespace quire::eval {
namespace {

using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

std::shared_ptr<const text::Tokenizer> tiny_tokenizer(const model::Model& model) {
  text::TokenizerSpec spec = model.file().tokenizer_spec();
  spec.pre = "default";
  return text::Tokenizer::make(spec);
}

/// What the model says behind these ids, the likeliest each time.
Ids continuation(const model::Model& model, const Ids& before, std::int64_t tokens) {
  const auto cache = model.make_cache(256, DType::kF32);
  Ids out, fed = before;
  while (static_cast<std::int64_t>(out.size()) < tokens) {
    const Tensor hidden_ND = model.forward(fed, *cache);
    const std::int64_t last = hidden_ND.size(0);
    const Tensor logits_1V = model.logits(hidden_ND.slice(0, last - 1, last));
    const float* logits = logits_1V.data<float>();
    out.push_back(static_cast<std::int32_t>(
        std::max_element(logits, logits + logits_1V.elements()) - logits));
    fed = {out.back()};
  }
  return out;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Tasks : public testing::Test {
 protected:
  std::unique_ptr<model::Model> model = test::tiny_llama();
  std::shared_ptr<const text::Tokenizer> tokenizer = tiny_tokenizer(*model);
  std::string text_of(std::span<const std::int32_t> ids) const { return tokenizer->decode(ids); }
};

TEST_F(Tasks, PasskeysStandAtTheirDepthsAndAreAskedFor) {
  const Ids filler = test::random_ids(500, 320, 3);
  const TaskSpec spec{4, 2, 400, 11};
  const Task task = passkey_task(*tokenizer, filler, spec);
  EXPECT_EQ(task.name, "passkey");
  ASSERT_EQ(task.documents.size(), 8u);
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < 8; ++i) {
    const TaskDocument& document = task.documents[i];
    EXPECT_EQ(document.ids.size(), 400u);
    ASSERT_EQ(document.questions.size(), 1u);
    const Question& question = document.questions[0];
    EXPECT_EQ(text_of(question.ask), "\nWhat is the pass key? The pass key is");
    const std::string key = text_of(question.answer).substr(1);
    EXPECT_EQ(key.size(), 5u);
    const std::string text = text_of(document.ids);
    EXPECT_THAT(text, HasSubstr("\nThe pass key is " + key + ". Remember it. " + key));
    EXPECT_DOUBLE_EQ(question.depth, (static_cast<double>(i / 2) + 0.5) / 4);
    keys.push_back(key);
    // What stands before it is the text's beginning, and depth counts tokens of the document.
    const auto differs = std::mismatch(filler.begin(), filler.end(), document.ids.begin()).first;
    const double at = static_cast<double>(differs - filler.begin()) / 400;
    EXPECT_NEAR(at, question.depth, 0.5) << "behind a line end at most 200 tokens before";
    EXPECT_LE(at, question.depth);
  }
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()), keys.end()) << "each has its own";
  const Task again = passkey_task(*tokenizer, filler, spec);
  EXPECT_EQ(again.documents[5].ids, task.documents[5].ids) << "the same cells";
  TaskSpec other = spec;
  other.seed = 12;
  EXPECT_NE(passkey_task(*tokenizer, filler, other).documents[5].ids, task.documents[5].ids);
}

TEST_F(Tasks, CopiedSpansAreTheDocumentsOwn) {
  const Ids filler = test::random_ids(500, 320, 3);
  const Task task = copy_task(*tokenizer, filler, {5, 3, 300, 1});
  ASSERT_EQ(task.documents.size(), 1u);
  const TaskDocument& document = task.documents[0];
  EXPECT_EQ(document.ids, Ids(filler.begin(), filler.begin() + 300));
  ASSERT_EQ(document.questions.size(), 15u);
  double before = -1;
  for (const Question& question : document.questions) {
    EXPECT_EQ(question.answer.size(), 10u);
    Ids span(question.ask.end() - 32, question.ask.end());
    span.insert(span.end(), question.answer.begin(), question.answer.end());
    const auto at = std::search(document.ids.begin(), document.ids.end(), span.begin(), span.end());
    ASSERT_NE(at, document.ids.end());
    EXPECT_DOUBLE_EQ(question.depth, static_cast<double>(at - document.ids.begin()) / 300);
    EXPECT_GT(question.depth, before) << "spread over the document";
    before = question.depth;
  }
}

TEST_F(Tasks, RefusesWhatCannotBeBuilt) {
  const Ids filler = test::random_ids(200, 320);
  EXPECT_THAT(test::message_of<ArgumentError>([&] {
                passkey_task(*tokenizer, filler, {2, 2, 201});
              }),
              HasSubstr("the text has 200 tokens, but a task's document has 201"));
  EXPECT_THROW(passkey_task(*tokenizer, filler, {0, 2, 150}), ArgumentError);
  EXPECT_THROW(passkey_task(*tokenizer, filler, {2, 1001, 150}), ArgumentError);
  EXPECT_THROW(passkey_task(*tokenizer, filler, {2, 2, 100}), ArgumentError);
  EXPECT_THROW(copy_task(*tokenizer, filler, {2, 2, 60}), ArgumentError);
}

/// A document and questions that the model itself, with all of it, answers so.
Task honest_task(const model::Model& model, int questions) {
  Task task{"own", {{test::random_ids(120, 320, 5), {}}}};
  TaskDocument& document = task.documents[0];
  for (int i = 0; i < questions; ++i) {
    const Ids ask = test::random_ids(6, 320, 100 + static_cast<std::uint64_t>(i));
    document.questions.push_back({ask, continuation(model, joined(document.ids, ask), 3), 0.5});
  }
  return task;
}

TEST_F(Tasks, WhatTheFullCacheFailsIsDroppedAndCounted) {
  Task task = honest_task(*model, 6);
  for (const std::size_t wrong : {std::size_t{1}, std::size_t{4}}) {
    std::int32_t& token = task.documents[0].questions[wrong].answer[2];
    token = (token + 1) % 320;
  }
  const std::vector<Candidate> candidates{test::contiguous(*model),
                                          test::policy(*model, "full", 1000),
                                          test::policy(*model, "window", 6)};
  const auto scores = *run_task(*model, task, DType::kF32, candidates);
  ASSERT_EQ(scores.size(), 3u);
  for (const TaskScore& score : scores) {
    EXPECT_EQ(score.task, "own");
    EXPECT_EQ(score.cells + score.dropped, 6);
    EXPECT_EQ(score.dropped - score.known, 2);
    EXPECT_LE(score.passed, score.cells);
  }
  EXPECT_EQ(scores[0].passed, scores[0].cells) << "the full cache passes what it passed";
  EXPECT_EQ(scores[1].passed, scores[1].cells);
  EXPECT_GT(scores[0].cells, 0);
  EXPECT_LT(scores[2].passed, scores[2].cells) << "a window of 6 tokens does not know the document";
}

TEST_F(Tasks, WhatIsKnownWithoutTheDocumentIsDropped) {
  Task task{"own", {{test::random_ids(20, 320, 5), {}}}};
  TaskDocument& document = task.documents[0];
  // Questions whose answer of one token is the same with and without the document.
  for (std::uint64_t seed = 0; seed < 400 && document.questions.empty(); ++seed) {
    const Ids ask = test::random_ids(30, 320, seed);
    const Ids with = continuation(*model, joined(document.ids, ask), 1);
    if (with == continuation(*model, ask, 1)) document.questions.push_back({ask, with, 0});
  }
  ASSERT_EQ(document.questions.size(), 1u);
  const std::vector<Candidate> candidates{test::contiguous(*model)};
  const auto scores = *run_task(*model, task, DType::kF32, candidates);
  EXPECT_EQ(scores[0].cells, 0);
  EXPECT_EQ(scores[0].dropped, 1);
  EXPECT_EQ(scores[0].known, 1);
}

TEST_F(Tasks, QuestionsDoNotSeeEachOther) {
  const Task all = honest_task(*model, 5);
  const std::vector<Candidate> candidates{test::policy(*model, "oracle", 30)};
  const auto together = *run_task(*model, all, DType::kF32, candidates);
  std::int64_t passed = 0, cells = 0;
  for (const Question& question : all.documents[0].questions) {
    const Task one{"own", {{all.documents[0].ids, {question}}}};
    const auto alone = *run_task(*model, one, DType::kF32, candidates);
    passed += alone[0].passed;
    cells += alone[0].cells;
  }
  EXPECT_EQ(together[0].passed, passed);
  EXPECT_EQ(together[0].cells, cells);
}

TEST_F(Tasks, DocumentsThatShareTheirBeginningGiveTheSameScores) {
  // h2o judges every key by every query of the reading: also of those that were not read again.
  Task task = honest_task(*model, 3);
  Ids second = task.documents[0].ids;
  for (std::size_t i = 70; i < second.size(); ++i) second[i] = (second[i] + 7) % 320;
  TaskDocument other{second, {}};
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Ids ask = test::random_ids(6, 320, 50 + i);
    other.questions.push_back({ask, continuation(*model, joined(second, ask), 3), 0.5});
  }
  task.documents.push_back(other);
  const std::vector<Candidate> candidates{test::policy(*model, "h2o", 60),
                                          test::policy(*model, "snapkv", 100)};
  const auto together = *run_task(*model, task, DType::kF32, candidates);
  const auto first = *run_task(*model, {"own", {task.documents[0]}}, DType::kF32, candidates);
  const auto last = *run_task(*model, {"own", {task.documents[1]}}, DType::kF32, candidates);
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    EXPECT_EQ(together[i].passed, first[i].passed + last[i].passed);
    EXPECT_EQ(together[i].cells, first[i].cells + last[i].cells);
  }
}

TEST_F(Tasks, CountsItsWorkAndStops) {
  const Task task = honest_task(*model, 2);
  const std::vector<Candidate> candidates{test::contiguous(*model),
                                          test::policy(*model, "window", 9)};
  std::int64_t most = 0;
  EXPECT_TRUE(run_task(*model, task, DType::kF32, candidates, [&](std::int64_t done) {
                EXPECT_GE(done, most);
                most = done;
                return true;
              }).has_value());
  EXPECT_EQ(most, task_work(task, 2));
  EXPECT_EQ(most, 120 * 3);
  EXPECT_FALSE(run_task(*model, task, DType::kF32, candidates, [](std::int64_t) {
                 return false;
               }).has_value());
}

TEST_F(Tasks, ADocumentThatDoesNotFitTheModelIsRefused) {
  Task task{"own", {{test::random_ids(250, 320), {{{1, 2, 3}, {4, 5, 6, 7}, 0}}}}};
  const std::vector<Candidate> candidates{test::contiguous(*model)};
  EXPECT_THAT(
      test::message_of<ArgumentError>([&] { run_task(*model, task, DType::kF32, candidates); }),
      HasSubstr("has 250 tokens and its questions 7, but this model's context is 256"));
}

}  // namespace
}  // namespace quire::eval

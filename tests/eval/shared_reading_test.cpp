#include "quire/eval/shared_reading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "quire/model/reread.h"
#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

using Ids = std::vector<std::int32_t>;

class Shared : public testing::Test {
 protected:
  std::unique_ptr<RecordingCache> record(const Ids& text) const {
    auto out = std::make_unique<RecordingCache>(model->paged_spec(DType::kF32).layers, 100,
                                                DType::kF32, 0);
    model->forward(text, *out);
    return out;
  }
  /// The logits of a token that `cache` is fed with next.
  std::vector<float> next(cache::KvCache& cache) const {
    const std::int32_t id = 17;
    const Tensor logits_1V = model->logits(model->forward({&id, 1}, cache));
    return {logits_1V.data<float>(), logits_1V.data<float>() + logits_1V.elements()};
  }
  /// The same of a candidate that has read the text itself.
  std::vector<float> by_itself(const Candidate& candidate, const Ids& text) const {
    const auto cache = candidate.make(static_cast<std::int64_t>(text.size()), 100);
    model->forward(text, *cache);
    cache->end_reading();
    return next(*cache);
  }

  /// Its bits are those of a candidate that has read the text itself; where keys are weighed by the
  /// attention of the whole reading, but for the last digits: it is summed piece by piece.
  void expect_read(const Candidate& candidate, cache::KvCache& given, const Ids& text) const {
    const std::vector<float> got = next(given), expected = by_itself(candidate, text);
    if (candidate.cache != "merged") {
      EXPECT_EQ(got, expected) << candidate.cache;
      return;
    }
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-4) << i;
  }

  std::unique_ptr<model::Model> model = test::tiny_llama();
  Ids ids = test::random_ids(90, 320);
  std::vector<Candidate> candidates{
      test::contiguous(*model),
      test::policy(*model, "window", 20),
      test::policy(*model, "quest", 64),
      test::policy(*model, "h2o", 20),
      test::policy(*model, "h2o", 40),
      test::policy(*model, "snapkv", 70),
      test::policy(*model, "expected_attention", 30),
      test::policy(*model, "merged", 80),
      test::policy(*model, "asymkv", 75),
  };
};

TEST_F(Shared, GivesEveryCacheWhatItWouldHaveRead) {
  const auto held = record(ids);
  const RecordingCache& recording = *held;
  SharedReading shared(recording, candidates, 100);
  ASSERT_TRUE(shared.read(90));
  for (const Candidate& candidate : candidates) {
    const auto given = shared.give(candidate);
    EXPECT_EQ(given->length(), 90);
    EXPECT_EQ(next(*given), by_itself(candidate, ids)) << candidate.cache;
  }
}

TEST_F(Shared, GoesOnFromWhereDocumentsPart) {
  Ids second = ids;
  for (std::size_t i = 40; i < second.size(); ++i) second[i] = (second[i] + 9) % 320;
  Ids third = second;
  third.resize(80);
  third[60] = (third[60] + 1) % 320;
  const auto held = record(ids);
  RecordingCache& recording = *held;
  SharedReading shared(recording, candidates, 100);
  ASSERT_TRUE(shared.read(90, 40));
  recording.truncate(40);
  model->forward(std::span(second).subspan(40), recording);
  ASSERT_TRUE(shared.read(90, 60));
  for (const Candidate& candidate : candidates)
    expect_read(candidate, *shared.give(candidate), second);
  recording.truncate(60);
  model->forward(std::span(third).subspan(60), recording);
  ASSERT_TRUE(shared.read(80));
  for (const Candidate& candidate : candidates)
    expect_read(candidate, *shared.give(candidate), third);
  // A text of its own: nothing of the ones before is in it.
  const Ids other = test::random_ids(70, 320, 8);
  recording.truncate(0);
  model->forward(other, recording);
  ASSERT_TRUE(shared.read(70));
  for (const Candidate& candidate : candidates)
    expect_read(candidate, *shared.give(candidate), other);
}

TEST_F(Shared, HandsOnWhatWasReadASecondTime) {
  const std::vector<Candidate> twice{test::policy(*model, "merged", 75),
                                     test::policy(*model, "kvzip", 20),
                                     test::policy(*model, "window", 20)};
  EXPECT_EQ(reread_wanted(twice, 90), 1024);
  EXPECT_EQ(reread_wanted(std::span(twice).last(1), 90), 0);
  RecordingCache recording(model->paged_spec(DType::kF32).layers, 100, DType::kF32, 0, 1024);
  model->forward(ids, recording);
  ASSERT_TRUE(model::reread(*model, model::piece_to_reread(recording, ids, true), recording));
  ASSERT_EQ(recording.again().size(), 1u);
  EXPECT_EQ(recording.again()[0].tokens, 90);
  EXPECT_EQ(recording.length(), 90);
  SharedReading shared(recording, twice, 100);
  ASSERT_TRUE(shared.read(90));
  const auto read = [&](const Candidate& candidate, bool second) {
    const auto cache = candidate.make(90, 300);
    model->forward(ids, *cache);
    if (second) model::reread(*model, model::piece_to_reread(*cache, ids, true), *cache);
    cache->end_reading();
    EXPECT_EQ(cache->report().reread > 0, second && candidate.cache != "window");
    return next(*cache);
  };
  for (const Candidate& candidate : twice) {
    const std::vector<float> given = next(*shared.give(candidate));
    EXPECT_EQ(given, read(candidate, true)) << candidate.cache;
    const bool differs = given != read(candidate, false);
    EXPECT_EQ(differs, candidate.cache != "window") << candidate.cache;
  }
  recording.truncate(89);
  EXPECT_TRUE(recording.again().empty()) << "a piece that ended later";
}

TEST_F(Shared, StopsAndRefuses) {
  const auto held = record(ids);
  const RecordingCache& recording = *held;
  SharedReading shared(recording, candidates, 100);
  EXPECT_THROW(shared.read(91), ArgumentError);
  EXPECT_THROW(shared.read(90, 91), ArgumentError);
  const Progress stop = [](std::int64_t) { return false; };
  EXPECT_FALSE(shared.read(90, 0, stop));
  ASSERT_TRUE(shared.read(90));
  EXPECT_EQ(shared.give(candidates[0], stop), nullptr);
  EXPECT_EQ(shared.give(candidates[3], stop), nullptr);
}

}  // namespace
}  // namespace quire::eval

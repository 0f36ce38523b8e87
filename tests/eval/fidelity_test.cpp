#include "quire/eval/fidelity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

class Faithful : public testing::Test {
 protected:
  std::unique_ptr<model::Model> model = test::tiny_llama();
  Reading reading = *read_text(*model, test::random_ids(150, 320), 40, DType::kF32, 0);

  Fidelity of(const Candidate& candidate, std::int64_t stride = 1) const {
    return *fidelity(reading, DType::kF32, candidate, stride);
  }
};

TEST_F(Faithful, TheFullCacheIsExact) {
  for (const Candidate& candidate :
       {test::contiguous(*model), test::policy(*model, "full", 1000)}) {
    const Fidelity full = of(candidate);
    EXPECT_EQ(full.error_mean, 0);
    EXPECT_EQ(full.error_p95, 0);
    EXPECT_EQ(full.error_worst_head, 0);
    EXPECT_NEAR(full.mass_mean, 1, 1e-6);
    EXPECT_NEAR(full.mass_worst_head, 1, 1e-6);
  }
}

TEST_F(Faithful, OrdersCachesByWhatTheySee) {
  const Fidelity window = of(test::policy(*model, "window", 16));
  const Fidelity oracle = of(test::policy(*model, "oracle", 16));
  const Fidelity wide = of(test::policy(*model, "window", 90));
  EXPECT_GT(window.error_mean, 0);
  EXPECT_GT(oracle.mass_mean, window.mass_mean) << "the ceiling of selection";
  EXPECT_GT(wide.mass_mean, window.mass_mean);
  EXPECT_LT(wide.error_mean, window.error_mean);
  EXPECT_LE(window.error_mean, window.error_worst_head);
  EXPECT_GE(window.mass_mean, window.mass_worst_head);
  EXPECT_LT(window.mass_mean, 1);
  EXPECT_GE(window.mass_p5, 0);
}

TEST_F(Faithful, MassIsThatOfTheKeysAnEvictionKept) {
  // The same, the long way: softmax over all keys in double precision, for the last position.
  const Candidate candidate = test::policy(*model, "window", 16);
  Reading last = *read_text(*model, reading.ids, 1, DType::kF32, 0);
  const Fidelity got = *fidelity(last, DType::kF32, candidate, 1);
  const RecordingCache& recording = *last.recording;
  double sum = 0;
  std::int64_t heads = 0;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const Tensor q = recording.q_NHK(layer, 148, 149).contiguous_copy();
    const Tensor k = recording.k_NGK(layer, 0, 149).contiguous_copy();
    for (std::int64_t h = 0; h < 4; ++h, ++heads) {
      double all = 0, seen = 0;
      for (std::int64_t s = 0; s < 149; ++s) {
        double dot = 0;
        for (std::int64_t x = 0; x < 16; ++x)
          dot += double{q.data<float>()[h * 16 + x]} *
                 double{k.data<float>()[(s * 2 + h / 2) * 16 + x]};
        const double weight = std::exp(dot / 4);
        all += weight;
        if (s < 4 || s >= 148 - 12) seen += weight;  // 4 sinks and the last 12 of 148
      }
      sum += seen / all;
    }
  }
  EXPECT_NEAR(got.mass_mean, sum / static_cast<double>(heads), 1e-5);
}

TEST_F(Faithful, AnUnknownCacheHasNoMassButAnError) {
  const Candidate other{"recording", "", [&](std::int64_t, std::int64_t capacity) {
                          return std::make_unique<RecordingCache>(
                              model->paged_spec(DType::kF32).layers, capacity, DType::kF32, 0);
                        }};
  const Fidelity got = of(other);
  EXPECT_EQ(got.error_mean, 0);
  EXPECT_TRUE(std::isnan(got.mass_mean));
  EXPECT_TRUE(std::isnan(got.mass_worst_head));
}

TEST_F(Faithful, SeveralTogetherGiveWhatEachGivesAlone) {
  const std::vector<Candidate> candidates{test::policy(*model, "window", 16),
                                          test::contiguous(*model),
                                          test::policy(*model, "oracle", 16)};
  std::vector<std::unique_ptr<cache::KvCache>> owned;
  std::vector<cache::KvCache*> caches;
  for (const Candidate& candidate : candidates) {
    owned.push_back(candidate.make(109, 149));
    replay(*reading.recording, 109, *owned.back(), 109);
    owned.back()->end_reading();
    caches.push_back(owned.back().get());
  }
  const auto together = *fidelity(reading, DType::kF32, caches, 3);
  ASSERT_EQ(together.size(), 3u);
  for (std::size_t c = 0; c < 3; ++c) {
    const Fidelity alone = of(candidates[c], 3);
    EXPECT_EQ(together[c].error_mean, alone.error_mean) << candidates[c].cache;
    EXPECT_EQ(together[c].error_p95, alone.error_p95);
    EXPECT_EQ(together[c].mass_mean, alone.mass_mean);
    EXPECT_EQ(together[c].mass_worst_head, alone.mass_worst_head);
    EXPECT_EQ(caches[c]->length(), 109);
  }
}

TEST_F(Faithful, StopsAndRefuses) {
  const Candidate full = test::contiguous(*model);
  EXPECT_THROW(fidelity(reading, DType::kF32, full, 0), ArgumentError);
  EXPECT_FALSE(fidelity(reading, DType::kF32, full, 1, [](std::int64_t done) {
                 return done < 130;
               }).has_value());
}

}  // namespace
}  // namespace quire::eval

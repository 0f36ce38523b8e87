#include <gtest/gtest.h>

#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/nearest_anchor.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/tensor/tensor.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/allocation_counter.h"

namespace quire::test {
namespace {

TEST(MergeMemory, KVM_02_NeitherSimilaritiesNorWeightedKeysAreHeld) {
  const std::int64_t G = 2, S = 8192, M = 256, K = 64;
  const Tensor k = random_tensor({G, S, K}, 1, DType::kF32),
               anchors = random_tensor({G, M, K}, 2, DType::kF32);
  const SequenceView view(k);
  const auto merge = [&] {
    const NearestAnchor near = nearest_anchor(view.kv(), 0, anchors);
    GroupMeanSpec spec;
    spec.weights = GroupWeights::kCosine;
    KeyNumbers numbers;
    numbers.cosine_GS = near.cosine_GS;
    const MergedKeys merged = group_mean(view.kv(), 0, near.group_GS, M, numbers, spec);
    EXPECT_EQ(merged.k_GMK.shape(), (Shape{G, M, K}));
  };
  merge();  // what threads keep for later is not counted
  const std::int64_t results = 4 * G * M * (2 * K + 3) + 12 * G * S, product = 4 * G * S * K;
  // Tensors do not come from operator new.
  reset_peak_allocated_bytes();
  const std::int64_t before = allocated_bytes(), others = peak_bytes(merge),
                     peak = others + peak_allocated_bytes() - before;
  EXPECT_GE(peak, results / 2) << "the counter counts";
  EXPECT_LT(peak, results + product / 2) << "the notebook holds " << 4 * G * S * M + product;
}

}  // namespace
}  // namespace quire::test

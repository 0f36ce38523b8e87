#include "quire/ops/merge/sequence_view.h"

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

TEST(SequenceView, ReadsAnyStridesWithoutCopying) {
  const Tensor k_SGK = random_tensor({7, 2, 6}, 1, DType::kF32),
               v_GSU = random_tensor({2, 9, 3}, 2, DType::kF32).slice(1, 2, 9);
  const SequenceView view(k_SGK.transpose(0, 1), v_GSU);
  const KvView kv = view.kv();
  EXPECT_EQ(kv.k_pages, k_SGK.data<void>());
  EXPECT_EQ(kv.v_pages, v_GSU.data<void>());
  EXPECT_EQ(kv.length_BG[0], 7);
  for (const std::int64_t g : {0, 1}) {
    EXPECT_EQ(rows_of(kv, 0, g, false), values(k_SGK.slice(1, g, g + 1)));
    EXPECT_EQ(rows_of(kv, 0, g, true), values(v_GSU.slice(0, g, g + 1)));
  }
}

TEST(SequenceView, CopiesWhereRowsHaveGaps) {
  const Tensor k_GKS = random_tensor({2, 6, 7}, 3, DType::kF32);
  const SequenceView view(k_GKS.transpose(1, 2));
  EXPECT_EQ(rows_of(view.kv(), 0, 1, false), values(k_GKS.transpose(1, 2).slice(0, 1, 2)));
}

TEST(SequenceView, Errors) {
  const Tensor k = random_tensor({2, 7, 6}, 1, DType::kF32);
  EXPECT_NE(message_of([&] { SequenceView(k, k.slice(1, 0, 6)); }).find("S"), std::string::npos);
  EXPECT_NE(message_of([&] { SequenceView(k, k.to(DType::kF64)); }).find("v_GSU is f64"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              SequenceView(Tensor::zeros({1, 2, 3}, DType::kI64));
            }).find("k_GSK is i64"),
            std::string::npos);
}

}  // namespace
}  // namespace quire::test

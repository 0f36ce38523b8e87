#include "quire/ops/attention/attention_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/attention/backward_case.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::string name(const PagedForm& form) {
  return concat(to_string(form.dtype), ", pages of ", form.Z, ", G ", form.G, ", K ", form.K,
                ", U ", form.U, form.layout == KLayout::kBlocks ? ", blocks" : ", rows",
                form.head_first ? ", head first" : "");
}

TEST(AttentionBackward, PAG_08_EqualsTheNaiveLoopsInEveryStorage) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    for (const std::int64_t Z : {1, 7, 16, 64, 256}) {
      for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
        if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
        PagedForm form;
        form.dtype = dtype;
        form.layout = layout;
        form.Z = Z;
        form.G = 2;
        form.K = 32;
        form.U = Z == 7 ? 20 : 32;
        form.head_first = Z % 2 == 0;
        const PagedCase kv(form, {0, 1, 63, 64, 65, 300});
        const Queries queries({2, 1, 70, 1, 3, 130}, 4, 32);
        expect_reference(BackwardCase(queries, kv.view(), causal()), name(form));
      }
    }
  }
}

}  // namespace
}  // namespace quire::test

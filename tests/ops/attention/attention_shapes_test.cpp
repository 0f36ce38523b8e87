// The lengths and head sizes that flash-attention's own tests run through, forward and backward, in
// every storage, causal and not: each length meets three head sizes, each head size several
// lengths.

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "quire/base/error.h"
#include "tests/ops/attention/backward_case.h"
#include "tests/ops/attention/forward_case.h"

namespace quire::test {
namespace {

struct Lengths {
  std::int64_t T, S;
};
const std::vector<Lengths> kLengths = {{1, 147},     {113, 203},   {128, 217},  {113, 211},
                                       {108, 256},   {256, 512},   {512, 256},  {1024, 1024},
                                       {1023, 1024}, {1024, 1023}, {2048, 2048}};
const std::vector<std::int64_t> kSizes = {32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256};

TEST(AttentionShapes, FLA_01_FlashAttentionsLengthsAndHeadSizes) {
  constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  for (std::size_t i = 0; i < kLengths.size(); ++i) {
    const auto [T, S] = kLengths[i];
    // Two query heads on one key head, but for the lengths whose naive loops take seconds.
    const std::int64_t heads = T * S < 500'000 ? 2 : 1;
    for (std::size_t j = 0; j < 3; ++j) {
      PagedForm form;
      form.dtype = kDTypes[(i + j) % 3];
      form.Z = 64;
      form.K = form.U = kSizes[(3 * i + j) % kSizes.size()];
      AttentionSpec spec = causal();
      if ((i + j / 2) % 2 == 1) spec.window_right = kUnlimited;
      const PagedCase kv(form, {S});
      const Queries queries({T}, heads, form.K);
      const std::string what = concat(to_string(form.dtype), ", T ", T, ", S ", S, ", K ", form.K,
                                      spec.window_right == kUnlimited ? ", all keys" : ", causal");
      expect_forward(queries, kv.view(), spec, what);
      expect_reference(BackwardCase(queries, kv.view(), spec), what);
    }
  }
}

}  // namespace
}  // namespace quire::test

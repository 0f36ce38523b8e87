// Every path of the kernels (one query, a few, many; keys in rows and in blocks; groups of heads;
// each instruction set, by running this program under it), forward and backward: results, lse and
// all gradients beside the naive loops.

#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "tests/ops/attention/backward_case.h"
#include "tests/ops/attention/forward_case.h"

namespace quire::test {
namespace {

AttentionSpec everything() {
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  return spec;
}

void expect_path(const PagedForm& form, std::int64_t T, std::int64_t H, const AttentionSpec& spec,
                 const std::string& what) {
  const PagedCase kv(form, {270, 33});
  const Queries queries({T, 1}, H, form.K);
  const std::string name = concat(what, ", ", to_string(form.dtype), ", T ", T, ", H ", H, ", G ",
                                  form.G, ", K ", form.K);
  expect_forward(queries, kv.view(), spec, name);
  expect_reference(BackwardCase(queries, kv.view(), spec), name);
}

TEST(AttentionPaths, PAG_06_PAG_08_PAG_11_B20_T17_EveryPathForwardAndBackward) {
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    for (const std::int64_t K : {32, 128}) {
      for (const auto& [H, G] : {std::pair{2, 2}, {4, 1}, {6, 2}}) {
        if (K == 128 && G != 2) continue;  // the naive loops are slow
        for (const std::int64_t T : {1, 5, 40}) {
          PagedForm form;
          form.layout = layout;
          form.K = form.U = K;
          form.G = G;
          form.dtype = (H + T) % 2 == 0 ? DType::kF32 : DType::kBF16;
          expect_path(form, T, H, causal(), "causal");
          expect_path(form, T, H, everything(), "all keys");
        }
      }
    }
  }
}

TEST(AttentionPaths, PAG_07_B7_B20_T17_OneQueryHonoursItsAlignmentAndItsWindow) {
  for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
    PagedForm form;
    form.layout = layout;
    form.K = form.U = 32;
    form.G = 2;
    expect_path(form, 1, 8, causal(Alignment::kTopLeft), "top-left");
    AttentionSpec window = causal();
    window.window_left = 100;
    expect_path(form, 1, 8, window, "the last 101 keys");
  }
}

}  // namespace
}  // namespace quire::test

#include "quire/grad/rope.h"

#include <gtest/gtest.h>

#include "quire/base/thread_pool.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_second_gradients;
using test::expect_tape_gradients;
using test::random_tensor;

constexpr std::int64_t kPacked[] = {0, 1, 2, 0, 1};

std::vector<RopeTable> tables() {
  std::vector<RopeTable> out;
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    for (const std::int64_t rotary : {0, 2, 6, 8}) {
      out.emplace_back(RopeSpec{.pairing = pairing, .rotary = rotary, .theta = 100});
      out.emplace_back(RopeSpec{.pairing = pairing,
                                .rotary = rotary,
                                .theta = 100,
                                .scaling = RopeScaling::kYarn,
                                .factor = 4,
                                .original_context = 16});
    }
  }
  return out;
}

TEST(GradRope, FLA_10_T24_Gradients) {
  for (const RopeTable& table : tables()) {
    const auto f = [&](const std::vector<Var>& in) { return rope(in[0], table, kPacked); };
    const auto back = [&](const std::vector<Var>& in) {
      return rope_backward(in[0], table, kPacked);
    };
    expect_tape_gradients(f, {random_tensor({5, 2, 8}, 1)});
    expect_tape_gradients(back, {random_tensor({5, 2, 8}, 2)});
    expect_second_gradients(f, {random_tensor({5, 2, 8}, 3)});
  }
}

TEST(GradRope, FLA_10_TheTapeNeedsNeitherTheTableNorThePositions) {
  const Var x(random_tensor({2, 1, 4}, 4), Needs::kGradient);
  Var out;
  {
    const RopeTable table({.rotary = 4});
    const std::vector<std::int64_t> positions = {3, 9};
    out = rope(x, table, positions);
  }
  const Tensor dout = random_tensor({2, 1, 4}, 5);
  backward(out, dout);
  const std::int64_t again[] = {3, 9};
  EXPECT_EQ(test::values(x.gradient()),
            test::values(quire::rope_backward(dout, RopeTable({.rotary = 4}), again)));
}

TEST(GradRope, FLA_10_GradientsHaveTheSameBitsWithAnyThreads) {
  const RopeTable table({.rotary = 64});
  std::vector<std::int64_t> positions(500);
  for (std::size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<std::int64_t>(i * i % 997);
  const Tensor value = random_tensor({500, 4, 64}, 6, DType::kF32),
               dout = random_tensor({500, 4, 64}, 7, DType::kF32);
  std::vector<double> expected;
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    const Var x(value, Needs::kGradient);
    backward(rope(x, table, positions), dout);
    const std::vector<double> found = test::values(x.gradient());
    if (expected.empty()) expected = found;
    EXPECT_EQ(found, expected) << threads;
  }
  set_threads(1);
}

}  // namespace
}  // namespace quire::grad

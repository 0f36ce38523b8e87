#include "quire/grad/index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quire/base/error.h"
#include "quire/grad/math.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_close;
using test::expect_second_gradients;
using test::expect_tape_gradients;
using test::index_of;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;

constexpr Reduce kReduces[] = {Reduce::kSum, Reduce::kProd, Reduce::kMean, Reduce::kAmax,
                               Reduce::kAmin};
constexpr IncludeSelf kIncludes[] = {IncludeSelf::kYes, IncludeSelf::kNo};

// Duplicates, a place that nothing names, and fewer rows than self.
Tensor duplicates() { return index_of({0, 2, 0, 2, 0, 0, 3, 3, 3}, {3, 3}); }

TEST(GradIndex, IDX_18_GatherAddsUpDuplicates) {
  const Var x(random_tensor({2, 3}, 1), Needs::kGradient);
  const Tensor index = index_of({0, 0, 0, 1, 1, 2}, {2, 3});
  backward(gather(x, 1, index), tensor_of({1, 1, 1, 1, 1, 1}, {2, 3}));
  EXPECT_THAT(values(x.gradient()), ElementsAre(3, 0, 0, 0, 2, 1));
}

TEST(GradIndex, Gathers) {
  const Tensor x = random_tensor({4, 3}, 2);
  expect_tape_gradients([](const auto& in) { return gather(in[0], 0, duplicates()); }, {x});
  expect_tape_gradients(
      [](const auto& in) {
        return gather(in[0], -1, index_of({2, 0}, {1, 2}).expand({4, 2}));
      },
      {x});
  expect_tape_gradients(
      [](const auto& in) {
        return index_select(in[0], 1, index_of({2, 2, 0}, {3}));
      },
      {x});
  expect_tape_gradients(
      [](const auto& in) {
        return take_along_dim(in[0], index_of({3, 0, 3}, {3, 1}), 0);
      },
      {x});
  expect_tape_gradients(
      [](const auto& in) {
        return take_along_dim(in[0], index_of({7, 11, 7}, {3}));
      },
      {x});
}

TEST(GradIndex, IDX_20_RepeatInterleave) {
  const Tensor x = random_tensor({2, 3}, 3);
  expect_tape_gradients([](const auto& in) { return repeat_interleave(in[0], 3, 1); }, {x});
  expect_tape_gradients([](const auto& in) { return repeat_interleave(in[0], 2); }, {x});
  expect_tape_gradients(
      [](const auto& in) {
        return repeat_interleave(in[0], index_of({2, 0, 1}, {3}), 1);
      },
      {x});
}

TEST(GradIndex, SortAndSegments) {
  const Tensor x = random_tensor({6, 2}, 4);
  for (const SortOrder order : {SortOrder::kAscending, SortOrder::kDescending})
    expect_tape_gradients([&](const auto& in) { return sort(in[0], 0, order).values; }, {x});
  for (const Reduce reduce : kReduces) {
    SCOPED_TRACE(static_cast<int>(reduce));
    expect_tape_gradients(
        [&](const auto& in) {
          return segment_reduce(in[0], index_of({0, 2, 3, 6}, {4}), reduce);
        },
        {x});
    expect_tape_gradients(
        [&](const auto& in) {
          return segment_reduce(in[0], index_of({0, 1, 3, 0, 3, 3}, {2, 3}), reduce, 0.5, 1);
        },
        {random_tensor({2, 3, 2}, 5)});
  }
}

TEST(GradIndex, Scatters) {
  const Tensor self = random_tensor({4, 3}, 5), src = random_tensor({3, 3}, 6);
  const Tensor once = index_of({0, 2, 1, 3, 1, 0}, {2, 3});
  expect_tape_gradients([&](const auto& in) { return scatter(in[0], 0, once, in[1]); },
                        {self, random_tensor({2, 3}, 7)});
  expect_tape_gradients([](const auto& in) { return scatter_add(in[0], 0, duplicates(), in[1]); },
                        {self, src});
  expect_tape_gradients(
      [](const auto& in) {
        return index_add(in[0], 0, index_of({3, 1, 3}, {3}), in[1], -2.5);
      },
      {self, src});
}

TEST(GradIndex, IDX_15_EveryReduction) {
  const Tensor self = random_tensor({4, 3}, 8), src = random_tensor({3, 3}, 9);
  for (const Reduce reduce : kReduces) {
    for (const IncludeSelf include : kIncludes) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(reduce) << static_cast<int>(include));
      expect_tape_gradients(
          [&](const auto& in) {
            return scatter_reduce(in[0], 0, duplicates(), in[1], reduce, include);
          },
          {self, src});
      if (reduce == Reduce::kSum) continue;
      expect_tape_gradients(
          [&](const auto& in) {
            return index_reduce(in[0], 0, index_of({3, 1, 3}, {3}), in[1], reduce, include);
          },
          {self, src});
    }
  }
}

TEST(GradIndex, IDX_17_AnIndexSmallerThanSrc) {
  const Tensor self = random_tensor({4, 3}, 10), src = random_tensor({5, 4}, 11);
  for (const Reduce reduce : kReduces) {
    SCOPED_TRACE(static_cast<int>(reduce));
    expect_tape_gradients(
        [&](const auto& in) { return scatter_reduce(in[0], 0, duplicates(), in[1], reduce); },
        {self, src});
  }
  expect_tape_gradients([](const auto& in) { return scatter_add(in[0], 0, duplicates(), in[1]); },
                        {self, src});
}

TEST(GradIndex, IDX_16_TiesByBothPolicies) {
  const Tensor index = index_of({0, 0, 0}, {3}), src = tensor_of({2, 2, 1}, {3});
  for (const Ties ties : {Ties::kTorch, Ties::kConserving}) {
    const Var self(tensor_of({2}, {1}), Needs::kGradient), var(src, Needs::kGradient);
    backward(scatter_reduce(self, 0, index, var, Reduce::kAmax, IncludeSelf::kNo, ties));
    const double share = ties == Ties::kTorch ? 1.0 / 3 : 0.5;
    expect_close(values(var.gradient()), {share, share, 0}, "src", 1e-15);
    EXPECT_THAT(values(self.gradient()), ElementsAre(0));
  }
}

TEST(GradIndex, IDX_24_SlopesOfSlopes) {
  const Tensor self = random_tensor({4, 3}, 12), src = random_tensor({3, 3}, 13);
  const auto squared = [](const Var& x) { return mul(x, x); };
  expect_second_gradients([&](const auto& in) { return gather(squared(in[0]), 0, duplicates()); },
                          {self});
  expect_second_gradients(
      [&](const auto& in) {
        return index_select(squared(in[0]), 1, index_of({2, 2, 0}, {3}));
      },
      {self});
  expect_second_gradients(
      [&](const auto& in) { return scatter_add(squared(in[0]), 0, duplicates(), squared(in[1])); },
      {self, src});
  expect_second_gradients(
      [&](const auto& in) { return scatter_add(in[1], 0, duplicates(), squared(in[0])); },
      {src, self});
  expect_second_gradients(
      [&](const auto& in) {
        return index_add(squared(in[0]), 0, index_of({3, 1, 3}, {3}), squared(in[1]), 1.5);
      },
      {self, src});
  for (const Reduce reduce : {Reduce::kSum, Reduce::kMean}) {
    for (const IncludeSelf include : kIncludes) {
      expect_second_gradients(
          [&](const auto& in) {
            return scatter_reduce(squared(in[0]), 0, duplicates(), squared(in[1]), reduce, include);
          },
          {self, src});
      expect_second_gradients(
          [&](const auto& in) {
            return scatter_reduce(in[1], 0, duplicates(), squared(in[0]), reduce, include);
          },
          {src, self});
    }
  }
}

TEST(GradIndex, IDX_24_AProductRefusesItsSecondDerivative) {
  const Tensor self = random_tensor({4, 3}, 14), src = random_tensor({3, 3}, 15);
  const std::vector<Var> vars = test::leaves({self, src});
  const Var out = scatter_reduce(vars[0], 0, duplicates(), vars[1], Reduce::kProd);
  const Var dout(random_tensor({4, 3}, 16), Needs::kGradient);
  const Var first = gradients(out, dout, vars, Graph::kCreate)[1];
  EXPECT_THROW(backward(sum(first)), ArgumentError);
}

TEST(GradIndex, ShortTypes) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Var self(random_tensor({4, 3}, 17, dtype), Needs::kGradient),
        src(random_tensor({3, 3}, 18, dtype), Needs::kGradient);
    for (const Reduce reduce : kReduces)
      backward(sum(scatter_reduce(self, 0, duplicates(), src, reduce)));
    EXPECT_EQ(src.gradient().dtype(), dtype);
    EXPECT_EQ(self.gradient().dtype(), dtype);
  }
}

TEST(GradIndex, B16_GatherAddsUpTheGradientsOfDuplicates) {
  const Var x(test::tensor_of({1, 2, 3}, {3}), Needs::kGradient);
  backward(gather(x, 0, test::index_of({2, 0, 2, 2}, {4})),
           test::tensor_of({1, 10, 100, 1000}, {4}));
  EXPECT_EQ(test::values(x.gradient()), (std::vector<double>{10, 0, 1101}));
}

}  // namespace
}  // namespace quire::grad

#include "quire/ops/index/index_reduce.h"

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(IndexReduce, IDX_19_HandWorked) {
  const Tensor self = floats({1, 2, 3, 4, 5, 6}, {3, 2}),
               source = floats({2, 3, 4, 9, 6, 1}, {3, 2});
  const Tensor index = ints({2, 0, 2}, {3});
  const auto run = [&](Reduce reduce, IncludeSelf include) {
    return numbers(index_reduce(self, 0, index, source, reduce, include));
  };
  EXPECT_THAT(run(Reduce::kProd, IncludeSelf::kYes), ElementsAre(4, 18, 3, 4, 60, 18));
  EXPECT_THAT(run(Reduce::kProd, IncludeSelf::kNo), ElementsAre(4, 9, 3, 4, 12, 3));
  EXPECT_THAT(run(Reduce::kMean, IncludeSelf::kNo), ElementsAre(4, 9, 3, 4, 4, 2));
  EXPECT_THAT(run(Reduce::kAmax, IncludeSelf::kYes), ElementsAre(4, 9, 3, 4, 6, 6));
  EXPECT_THAT(run(Reduce::kAmin, IncludeSelf::kYes), ElementsAre(1, 2, 3, 4, 2, 1));
  Tensor place = floats({1, 2, 3, 4, 5, 6}, {3, 2}), out = Tensor::zeros({3, 2}, DType::kF32);
  index_reduce_(place, 0, index, source, Reduce::kProd);
  index_reduce_out(out, self, 0, index, source, Reduce::kProd);
  EXPECT_THAT(numbers(place), ElementsAre(4, 18, 3, 4, 60, 18));
  EXPECT_THAT(numbers(out), ElementsAre(4, 18, 3, 4, 60, 18));
}

TEST(IndexReduce, IDX_13_Errors) {
  const Tensor self = floats({1, 2}, {2}), index = ints({0}, {1}), source = floats({1}, {1});
  expect_refused([&] { index_reduce(self, 0, index, source, Reduce::kSum); }, "index_add sums");
  expect_refused(
      [&] {
        index_reduce(Tensor::zeros({2}, DType::kBool), 0, index, Tensor::zeros({1}, DType::kBool),
                     Reduce::kProd);
      },
      "self is bool");
  expect_refused([&] { index_reduce(self, 0, ints({2}, {1}), source, Reduce::kProd); },
                 "is 2, allowed are 0 to 1");
  expect_refused(
      [&] {
        index_reduce(self, 0, ints({0, 0}, {2}), source, Reduce::kProd);
      },
      "source: size is 1 at dim 0, but index has 2 there");
}

// The same op as scatter_reduce with the index written out.
TEST(IndexReduce, IDX_19_EqualsScatterReduce) {
  const Tensor self = test::random({5, 8, 3}, 1, DType::kF64),
               dy = test::random({5, 8, 3}, 2, DType::kF64);
  for (const int dim : {0, 1, 2}) {
    Shape shape = self.shape();
    shape[static_cast<std::size_t>(dim)] = 30;
    const Tensor source = test::random(shape, 3, DType::kF64);
    const Tensor index = test::random_index({30}, self.size(dim), 4);
    Shape ones(3, 1);
    ones[static_cast<std::size_t>(dim)] = 30;
    const Tensor full = index.view(ones).expand(shape).to(DType::kI64);
    for (const Reduce reduce : {Reduce::kProd, Reduce::kMean, Reduce::kAmax, Reduce::kAmin}) {
      for (const IncludeSelf include : {IncludeSelf::kYes, IncludeSelf::kNo}) {
        EXPECT_EQ(numbers(index_reduce(self, dim, index, source, reduce, include)),
                  numbers(scatter_reduce(self, dim, full, source, reduce, include)));
        const ScatterReduceOptions options{reduce, include, Ties::kTorch};
        const ScatterReduceGrads ours =
            index_reduce_backward(dy, self, dim, index, source, options);
        const ScatterReduceGrads theirs =
            scatter_reduce_backward(dy, self, dim, full, source, options);
        EXPECT_EQ(numbers(ours.dself), numbers(theirs.dself));
        EXPECT_EQ(numbers(ours.dsrc), numbers(theirs.dsrc));
      }
    }
  }
}

TEST(IndexReduce, IDX_21_SameBitsWithAnyNumberOfThreads) {
  const Tensor self = test::random({60, 48}, 5), source = test::random({5000, 48}, 6);
  const Tensor index = test::random_index({5000}, 60, 7);
  for (const Reduce reduce : {Reduce::kProd, Reduce::kMean, Reduce::kAmax, Reduce::kAmin})
    test::expect_same_bits([&] { return index_reduce(self, 0, index, source, reduce); });
}

}  // namespace
}  // namespace quire

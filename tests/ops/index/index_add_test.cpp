#include "quire/ops/index/index_add.h"

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::bytes;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(IndexAdd, IDX_19_HandWorked) {
  const Tensor self = floats({1, 1, 1, 1, 1, 1}, {3, 2}),
               source = floats({1, 2, 3, 4, 5, 6}, {3, 2});
  const Tensor index = ints({2, 0, 2}, {3});
  EXPECT_THAT(numbers(index_add(self, 0, index, source)), ElementsAre(4, 5, 1, 1, 7, 9));
  EXPECT_THAT(numbers(index_add(self, 0, index, source, -0.5)),
              ElementsAre(-0.5, -1, 1, 1, -2, -3));
  Tensor place = floats({1, 1, 1, 1, 1, 1}, {3, 2});
  index_add_(place, -2, index, source, 2);
  EXPECT_THAT(numbers(place), ElementsAre(7, 9, 1, 1, 13, 17));
  Tensor out = Tensor::zeros({3, 2}, DType::kF32);
  index_add_out(out, self, 0, index, source);
  EXPECT_THAT(numbers(out), ElementsAre(4, 5, 1, 1, 7, 9));
}

TEST(IndexAdd, AlphaOfEveryDtype) {
  for (const DType dtype : test::kAllTypes) {
    const bool is_bool = dtype == DType::kBool;
    const Tensor self = test::whole({1, 0}, {2}, dtype), source = test::whole({1, 1}, {2}, dtype);
    EXPECT_THAT(numbers(index_add(self, 0, ints({1, 1}, {2}), source, is_bool ? 0 : 3)),
                ElementsAre(1, is_bool ? 0 : 6))
        << to_string(dtype);
    if (is_floating(dtype)) continue;
    expect_refused([&] { index_add(self, 0, ints({1, 1}, {2}), source, 1.5); }, "alpha is 1.5");
  }
  expect_refused(
      [] {
        index_add(Tensor::zeros({1}, DType::kBool), 0, ints({0}, {1}),
                  Tensor::zeros({1}, DType::kBool), 2);
      },
      "alpha is 2, but self is bool");
}

TEST(IndexAdd, NegativeAlphaOfUnsigned) {
  const Tensor out = index_add(test::whole({10}, {1}, DType::kU8), 0, ints({0}, {1}),
                               test::whole({2}, {1}, DType::kU8), -3);
  EXPECT_THAT(numbers(out), ElementsAre(4));
}

// alpha · source is rounded before it is added, on the paths of single floats, rows and any stride.
TEST(IndexAdd, AlphaEqualsThePlainLoop) {
  for (const std::int64_t D : {1, 5, 64}) {
    const Tensor self = test::random({30, D}, 1), source = test::random({4000, D}, 2);
    const Tensor index = test::random_index({4000}, 30, 3);
    std::vector<float> truth = test::values<float>(self);
    for (std::int64_t n = 0; n < 4000; ++n) {
      for (std::int64_t d = 0; d < D; ++d)
        truth[static_cast<std::size_t>(index.data<std::int64_t>()[n] * D + d)] +=
            0.3f * source.data<float>()[n * D + d];
    }
    const Tensor out = index_add(self, 0, index, source, static_cast<double>(0.3f));
    EXPECT_TRUE(test::values<float>(out) == truth) << D;
    const Tensor turned = index_add(self.transpose(0, 1), 1, index, source.transpose(0, 1),
                                    static_cast<double>(0.3f));
    EXPECT_TRUE(test::values<float>(turned.transpose(0, 1)) == truth);
    test::expect_same_bits([&] { return index_add(self, 0, index, source, 0.25); });
  }
}

TEST(IndexAdd, IDX_07_IDX_11_Errors) {
  Tensor self = floats({1, 2, 3, 4, 5, 6}, {3, 2});
  const auto before = bytes(self);
  const Tensor source = floats({1, 2, 3, 4}, {2, 2});
  expect_refused(
      [&] {
        index_add_(self, 0, ints({0, 3}, {2}), source);
      },
      "is 3, allowed are 0 to 2");
  expect_refused([&] { index_add_(self, 0, ints({0, -1}, {2}), source); }, "is -1");
  expect_refused([&] { index_add_(self, 0, ints({0}, {1}), source); },
                 "source: size is 2 at dim 0, but index has 1 there");
  expect_refused(
      [&] {
        index_add_(self, 0, ints({0, 1}, {2}), floats({1, 2}, {2}));
      },
      "source: rank is 1");
  expect_refused(
      [&] {
        index_add_(self, 0, ints({0, 1}, {2}), floats({1, 2}, {2, 1}));
      },
      "source: size is 1 at dim 1, but self has 2 there");
  expect_refused(
      [&] {
        index_add_(self, 0, ints({0, 1, 2}, {3}), self);
      },
      "source shares memory with self");
  expect_refused(
      [&] {
        index_add_(self, 0, ints({0, 0, 1, 1}, {2, 2}), source);
      },
      "index: rank is 2");
  Tensor expanded = Tensor::zeros({1, 2}, DType::kF32).expand({3, 2});
  expect_refused(
      [&] {
        index_add_(expanded, 0, ints({0, 1}, {2}), source);
      },
      "self is expanded at dim 0");
  EXPECT_TRUE(bytes(self) == before);
}

TEST(IndexAdd, IDX_09_Scalars) {
  const Tensor five = floats({5}, {1}).view({}), three = floats({3}, {1}).view({});
  EXPECT_THAT(numbers(index_add(five, 0, ints({0}, {1}), three, 2)), ElementsAre(11));
  EXPECT_THAT(numbers(index_add(floats({1, 2}, {2}), 0, Tensor::empty({0}, DType::kI64),
                                Tensor::empty({0}, DType::kF32))),
              ElementsAre(1, 2));
}

TEST(IndexAddBackward, SlicesTimesAlpha) {
  const Tensor dout = floats({1, 2, 3, 4, 5, 6}, {3, 2});
  const IndexAddGrads grads = index_add_backward(dout, 0, ints({2, 0, 2}, {3}), 3);
  EXPECT_THAT(numbers(grads.dself), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(numbers(grads.dsource), ElementsAre(15, 18, 3, 6, 15, 18));
  EXPECT_THAT(numbers(index_add_backward(dout, 1, ints({1}, {1})).dsource), ElementsAre(2, 4, 6));
}

}  // namespace
}  // namespace quire

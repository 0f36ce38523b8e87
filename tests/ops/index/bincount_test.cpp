#include "quire/ops/index/bincount.h"

#include <limits>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::doubles;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(Bincount, OTH_02_HandWorked) {
  const Tensor x = ints({1, 3, 1, 0}, {4});
  EXPECT_THAT(numbers(bincount(x)), ElementsAre(1, 2, 0, 1));
  EXPECT_THAT(numbers(bincount(x, 6)), ElementsAre(1, 2, 0, 1, 0, 0));
  EXPECT_EQ(bincount(x).dtype(), DType::kI64);
  EXPECT_THAT(bincount(Tensor::empty({0}, DType::kI32)).shape(), ElementsAre(0));
  EXPECT_THAT(numbers(bincount(Tensor::empty({0}, DType::kI32), 2)), ElementsAre(0, 0));
}

TEST(Bincount, OTH_02_Weights) {
  const Tensor x = ints({1, 0, 1}, {3}, DType::kU8);
  const Tensor sums = bincount(x, floats({0.5, 2, 3}, {3}));
  EXPECT_EQ(sums.dtype(), DType::kF32);
  EXPECT_THAT(numbers(sums), ElementsAre(2, 3.5));
  EXPECT_EQ(bincount(x, ints({1, 2, 3}, {3})).dtype(), DType::kF64);
  EXPECT_THAT(numbers(bincount(x, ints({1, 2, 3}, {3}), 3)), ElementsAre(2, 4, 0));
}

TEST(Bincount, OTH_02_Errors) {
  expect_refused([] { bincount(ints({1, -2}, {2})); }, "x[1] is -2, expected at least 0");
  expect_refused([] { bincount(ints({1}, {1, 1})); }, "x: rank is 2");
  expect_refused([] { bincount(floats({1}, {1})); }, "x is f32, expected an integer dtype");
  expect_refused([] { bincount(ints({1}, {1}), -1); }, "min_length is -1");
  expect_refused(
      [] {
        bincount(ints({1}, {1}), floats({1, 2}, {2}));
      },
      "weights: size is 2 at dim 0, but x has 1");
  expect_refused([] { bincount(ints({std::numeric_limits<std::int64_t>::max()}, {1})); },
                 "one more would be");
}

TEST(ContinuousCount, OTH_02_OthersAreIgnored) {
  for (const DType dtype : {DType::kI64, DType::kI32, DType::kI16, DType::kI8}) {
    const Tensor x = test::whole({0, 2, 2, -1, 7, 3, 2, -128}, {2, 4}, dtype);
    EXPECT_THAT(numbers(continuous_count(x, 4)), ElementsAre(1, 0, 3, 1)) << to_string(dtype);
  }
  EXPECT_THAT(numbers(continuous_count(test::whole({0, 255}, {2}, DType::kU8), 2)),
              ElementsAre(1, 0));
  EXPECT_THAT(continuous_count(ints({0}, {1}), 0).shape(), ElementsAre(0));
  const Tensor x = test::random_index({100, 70}, 9, 1);
  EXPECT_EQ(numbers(continuous_count(x.transpose(0, 1), 9)), numbers(bincount(x.view({7000}))));
  expect_refused([] { continuous_count(floats({1}, {1}), 3); }, "x is f32");
  expect_refused([] { continuous_count(ints({1}, {1}), -3); }, "size is -3");
}

TEST(Histc, OTH_02_HandWorked) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Tensor x =
        doubles({1, 2, 1, 0, 3, -0.1, 3.1, std::numeric_limits<double>::quiet_NaN()}, {8}, dtype);
    const Tensor out = histc(x, 3, 0, 3);
    EXPECT_EQ(out.dtype(), dtype);
    EXPECT_THAT(numbers(out), ElementsAre(1, 2, 2));  // the last part is closed
  }
  EXPECT_THAT(numbers(histc(floats({1, 2, 5}, {3}), 2)), ElementsAre(2, 1));
  EXPECT_THAT(numbers(histc(floats({4, 4}, {2}), 2)), ElementsAre(0, 2));        // 3 to 5
  EXPECT_THAT(numbers(histc(floats({1, 2}, {2}), 2, 1, 1)), ElementsAre(0, 2));  // 0 to 2
  EXPECT_THAT(numbers(histc(Tensor::empty({0}, DType::kF32), 2)), ElementsAre(0, 0));
}

TEST(Histc, OTH_02_Errors) {
  expect_refused([] { histc(floats({1}, {1}), 0); }, "bins is 0");
  expect_refused([] { histc(floats({1}, {1}), 2, 3, 1); }, "low is 3 and high 1");
  expect_refused([] { histc(ints({1}, {1}), 2); }, "x is i64, expected f32 or f64");
  expect_refused([] { histc(floats({std::numeric_limits<float>::infinity()}, {1}), 2); },
                 "infinities or NaN");
}

}  // namespace
}  // namespace quire

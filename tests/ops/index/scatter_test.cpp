#include "quire/ops/index/scatter.h"

#include <sys/mman.h>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::bytes;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(Scatter, HandWorked) {
  const Tensor self = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor index = ints({2, 0, 1, 1}, {2, 2});
  const Tensor src = floats({10, 20, 30, 40}, {2, 2});
  EXPECT_THAT(numbers(scatter(self, 1, index, src)), ElementsAre(20, 2, 10, 4, 40, 6));
  EXPECT_THAT(numbers(scatter(self, 1, index, 9.0)), ElementsAre(9, 2, 9, 4, 9, 6));
  EXPECT_THAT(numbers(self), ElementsAre(1, 2, 3, 4, 5, 6));
  Tensor place = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  scatter_(place, -1, index, src);
  EXPECT_THAT(numbers(place), ElementsAre(20, 2, 10, 4, 40, 6));
  scatter_(place, 0, ints({1, 0}, {1, 2}), 0.5);
  EXPECT_THAT(numbers(place), ElementsAre(20, 0.5, 10, 0.5, 40, 6));
  Tensor out = Tensor::zeros({2, 3}, DType::kF32);
  scatter_out(out, self, 1, index, src);
  EXPECT_THAT(numbers(out), ElementsAre(20, 2, 10, 4, 40, 6));
}

TEST(Scatter, ValuesOfEveryDtype) {
  for (const DType dtype : test::kAllTypes) {
    const Tensor out = scatter(Tensor::zeros({3}, dtype), 0, ints({1}, {1}), 1.0);
    EXPECT_EQ(out.dtype(), dtype);
    EXPECT_THAT(numbers(out), ElementsAre(0, 1, 0));
  }
  EXPECT_THAT(numbers(scatter(Tensor::zeros({2}, DType::kBool), 0, ints({0}, {1}), 2.5)),
              ElementsAre(1, 0));
  EXPECT_THAT(numbers(scatter(ints({0, 0}, {2}), 0, ints({0}, {1}), -2.5)), ElementsAre(-2, 0));
  expect_refused([] { scatter(Tensor::zeros({2}, DType::kU8), 0, ints({0}, {1}), 256.0); }, "256");
}

// Of several writes to one place the last stays, on every path.
TEST(Scatter, TheLastWriteStays) {
  for (const std::int64_t D : {1, 2, 17, 64}) {
    const std::int64_t N = 5000, M = 37;
    const Tensor self = test::random({M, D}, 1), src = test::random({N, D}, 2);
    const Tensor index = test::expanded_index({N, D}, 0, M, 3);
    std::vector<double> truth = numbers(self);
    const std::vector<double> from = numbers(src);
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t place = index.data<std::int64_t>()[n];
      for (std::int64_t d = 0; d < D; ++d)
        truth[static_cast<std::size_t>(place * D + d)] = from[static_cast<std::size_t>(n * D + d)];
    }
    EXPECT_EQ(numbers(scatter(self, 0, index, src)), truth) << D;
    EXPECT_EQ(numbers(scatter(self, 0, index.to(DType::kI64), src)), truth) << D;
    EXPECT_EQ(numbers(scatter(self.transpose(0, 1), 1, index.transpose(0, 1), src.transpose(0, 1))
                          .transpose(0, 1)),
              truth);
    test::expect_same_bits([&] { return scatter(self, 0, index, src); });
  }
}

TEST(Scatter, IDX_07_BadValuesLeaveSelfAlone) {
  Tensor self = test::random({40, 8}, 4);
  const auto before = bytes(self);
  Tensor index = test::random_index({9000, 1}, 40, 5);
  index.mutable_data<std::int64_t>()[8999] = -3;
  const Tensor src = test::random({9000, 8}, 6);
  const Tensor rows = index.expand({9000, 8});
  expect_refused([&] { scatter_(self, 0, rows, src); }, "index[8999, 0] is -3");
  expect_refused([&] { scatter_add_(self, 0, rows, src); }, "index[8999, 0] is -3");
  expect_refused([&] { scatter_(self, 0, rows, 1.0); }, "index[8999, 0] is -3");
  Tensor out = test::random({40, 8}, 4);
  expect_refused([&] { scatter_add_out(out, self, 0, rows, src); }, "allowed are 0 to 39");
  EXPECT_TRUE(bytes(self) == before);
  EXPECT_TRUE(bytes(out) == before);
}

TEST(Scatter, ShapesAndDtypesAreChecked) {
  const Tensor self = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor index = ints({0, 0, 0, 0}, {2, 2});
  expect_refused(
      [&] {
        scatter(self, 1, index, floats({1, 2}, {1, 2}));
      },
      "index: size is 2 at dim 0, but src has only 1 there");
  expect_refused(
      [&] {
        scatter(self, 1, ints({0, 0, 0}, {3, 1}), Tensor::zeros({3, 3}, DType::kF32));
      },
      "index: size is 3 at dim 0, but self has only 2 there");
  expect_refused([&] { scatter(self, 1, index, Tensor::zeros({2}, DType::kF32)); },
                 "index: rank is 2, but src has rank 1");
  expect_refused(
      [&] {
        scatter(self, 1, index, Tensor::zeros({2, 2}, DType::kF64));
      },
      "src is f64, but self is f32");
  expect_refused([&] { scatter(self, 2, index, 1.0); }, "dim is 2, allowed are -2 to 1");
  expect_refused(
      [&] {
        scatter(self, 0, Tensor::zeros({1, 1}, DType::kF32), 1.0);
      },
      "index is f32");
}

TEST(Scatter, IDX_09_ScalarsAndEmpties) {
  const Tensor five = floats({5}, {1}).view({});
  EXPECT_THAT(numbers(scatter(five, 0, ints({0}, {1}), floats({7}, {1}))), ElementsAre(7));
  EXPECT_EQ(scatter(five, 0, ints({0}, {1}).view({}), 7.0).rank(), 0);
  const Tensor self = floats({1, 2}, {2});
  const Tensor nothing = Tensor::empty({0}, DType::kU8);
  const Tensor same = scatter(self, 0, nothing, floats({3}, {1}));
  EXPECT_THAT(numbers(same), ElementsAre(1, 2));
  EXPECT_NE(same.data<float>(), self.data<float>());
}

TEST(Scatter, IDX_11_OverlapsAreRefused) {
  Tensor expanded = Tensor::zeros({1, 3}, DType::kF32).expand({2, 3});
  const Tensor index = ints({0, 1}, {2, 1}), src = floats({1, 2}, {2, 1});
  expect_refused([&] { scatter_(expanded, 1, index, src); }, "self is expanded at dim 0 (size 2)");
  EXPECT_THAT(numbers(scatter(expanded, 1, index, src)), ElementsAre(1, 0, 0, 0, 2, 0));
  Tensor self = floats({1, 2, 3, 4}, {2, 2});
  expect_refused(
      [&] {
        scatter_(self, 0, ints({0, 0, 1, 1}, {2, 2}), self);
      },
      "src shares memory with self");
  Tensor whole = ints({0, 1, 0, 1}, {4});
  expect_refused(
      [&] {
        scatter_(whole, 0, whole, ints({1, 1, 1, 1}, {4}));
      },
      "index shares memory with self");
}

TEST(ScatterAdd, IDX_13_EveryDtype) {
  for (const DType dtype : test::kAllTypes) {
    const bool is_bool = dtype == DType::kBool;
    const Tensor out = scatter_add(test::whole({1, 0, 0}, {3}, dtype), 0, ints({0, 0, 1}, {3}),
                                   test::whole({1, 1, 1}, {3}, dtype));
    EXPECT_THAT(numbers(out), ElementsAre(is_bool ? 1 : 3, 1, 0)) << to_string(dtype);
  }
  const Tensor wraps = scatter_add(test::whole({250}, {1}, DType::kU8), 0, ints({0}, {1}),
                                   test::whole({10}, {1}, DType::kU8));
  EXPECT_THAT(numbers(wraps), ElementsAre(4));
}

TEST(ScatterAdd, IDX_26_OffsetsBeyond32Bits) {
  // The stride along dim takes the third place past 2^32 bytes: memory in between is never touched.
  constexpr std::int64_t kStride = 1'500'000'000;
  void* room = ::mmap(nullptr, 3 * kStride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  const std::shared_ptr<void> owner(room, [](void* p) { ::munmap(p, 3 * kStride); });
  Tensor big = Tensor::wrap(room, {3, kStride}, DType::kU8, owner).slice(1, 0, 1);
  for (std::int64_t i = 0; i < 3; ++i) *big.slice(0, i, i + 1).mutable_data<std::uint8_t>() = 1;
  scatter_add_(big, 0, ints({2, 2, 1}, {3, 1}), test::whole({5, 6, 7}, {3, 1}, DType::kU8));
  EXPECT_THAT(numbers(big), ElementsAre(1, 8, 12));
}

TEST(ScatterBackward, GradientsByHand) {
  const Tensor dout = floats({1, 2, 3, 4}, {4});
  const Tensor index = ints({2, 2, 0}, {3});
  const ScatterGrads put = scatter_backward(dout, 0, index, {3});
  EXPECT_THAT(numbers(put.dself), ElementsAre(0, 2, 0, 4));
  EXPECT_THAT(numbers(put.dsrc), ElementsAre(3, 3, 1));
  const ScatterGrads added = scatter_add_backward(dout, 0, index, {3});
  EXPECT_THAT(numbers(added.dself), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(numbers(added.dsrc), ElementsAre(3, 3, 1));
}

TEST(ScatterBackward, IDX_17_ZerosOutsideTheIndex) {
  const Tensor dout = floats({1, 2, 3, 4}, {2, 2});
  const Tensor index = ints({1}, {1, 1});
  EXPECT_THAT(numbers(scatter_add_backward(dout, 1, index, {2, 3}).dsrc),
              ElementsAre(2, 0, 0, 0, 0, 0));
  EXPECT_THAT(numbers(scatter_backward(dout, 0, index, {2, 3}).dsrc),
              ElementsAre(3, 0, 0, 0, 0, 0));
  expect_refused(
      [&] {
        scatter_backward(dout, 0, ints({0, 0}, {1, 2}), {1, 1});
      },
      "index: size is 2 at dim 1, but src_shape has only 1 there");
}

TEST(ScatterBackward, TwiceIsDouble) {
  const Tensor dout = test::random({6, 5}, 7, DType::kF64);
  const Tensor index = test::random_index({9, 5}, 6, 8);
  const auto once = numbers(scatter_add_backward(dout, 0, index, {9, 5}).dsrc);
  const auto twice =
      numbers(scatter_add_backward(
                  scatter_add(dout, 0, test::ints({0, 1, 2, 3, 4, 5}, {6, 1}).expand({6, 5}), dout),
                  0, index, {9, 5})
                  .dsrc);
  for (std::size_t i = 0; i < once.size(); ++i) EXPECT_EQ(twice[i], 2 * once[i]);
}

}  // namespace
}  // namespace quire

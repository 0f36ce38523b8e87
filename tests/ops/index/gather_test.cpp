#include "quire/ops/index/gather.h"

#include <sys/mman.h>

#include <limits>

#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

using test::bytes;
using test::expect_refused;
using test::floats;
using test::ints;
using test::numbers;
using testing::ElementsAre;

TEST(Gather, IDX_02_NotebookMatrix) {
  const Tensor x = ints({10, 20, 30, 40, 50, 60}, {2, 3});
  const Tensor out = gather(x, 1, ints({2, 1, 0, 0, 2, 1}, {2, 3}));
  EXPECT_THAT(numbers(out), ElementsAre(30, 20, 10, 40, 60, 50));
  EXPECT_EQ(out.dtype(), DType::kI64);
}

TEST(Gather, IDX_06_IndexMayBeLargerAlongDimAndSmallerElsewhere) {
  const Tensor x = floats({1, 2, 3, 4}, {2, 2});
  EXPECT_THAT(numbers(gather(x, 0, ints({0, 1, 1, 0, 1, 1}, {3, 2}))),
              ElementsAre(1, 4, 3, 2, 3, 4));
  EXPECT_THAT(numbers(gather(x, 0, ints({1, 0, 1}, {3, 1}))), ElementsAre(3, 1, 3));
  expect_refused(
      [&] {
        gather(x, 0, ints({0, 0, 0}, {1, 3}));
      },
      "index: size is 3 at dim 1, but self has only 2 there");
  expect_refused(
      [&] {
        gather(x, 1, ints({0, 0, 0}, {3, 1}));
      },
      "index: size is 3 at dim 0, but self has only 2 there");
  expect_refused([&] { gather(x, 0, ints({0}, {1})); }, "index: rank is 1, but self has rank 2");
}

TEST(Gather, IDX_07_BadValuesAreNamedAndNothingIsWritten) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  Tensor out = floats({7, 7, 7, 7}, {2, 2});
  const auto before = bytes(out);
  const Tensor negative = ints({0, 1, 2, -1}, {2, 2}), large = ints({0, 1, 3, 0}, {2, 2});
  expect_refused([&] { gather(x, 1, negative); },
                 "index[1, 1] is -1, allowed are 0 to 2 (size 3 at dim 1)");
  expect_refused([&] { gather_out(out, x, 1, negative); }, "index[1, 1] is -1");
  expect_refused([&] { gather_out(out, x, 1, large); }, "index[1, 0] is 3");
  expect_refused([&] { gather(x, 1, large.transpose(0, 1)); }, "index[0, 1] is 3");
  const auto least = std::numeric_limits<std::int64_t>::min();
  expect_refused(
      [&] {
        gather(x, 1, ints({least}, {1, 1}));
      },
      "index[0, 0] is -9223372036854775808");
  EXPECT_TRUE(bytes(out) == before);
  expect_refused(
      [&] {
        gather(Tensor::zeros({0, 3}, DType::kF32), 0, ints({0}, {1, 1}));
      },
      "index[0, 0] is 0");
}

// The bad value lies far from the beginning, behind the blocks and pieces of the fast path.
TEST(Gather, IDX_07_BadValueInALongIndex) {
  const Tensor x = test::random({50, 32}, 1);
  Tensor index = test::random_index({20000, 1}, 50, 2);
  index.mutable_data<std::int64_t>()[19998] = 50;
  Tensor out = Tensor::zeros({20000, 32}, DType::kF32);
  const auto before = bytes(out);
  const Tensor rows = index.expand({20000, 32});
  expect_refused([&] { gather(x, 0, rows); }, "index[19998, 0] is 50");
  expect_refused([&] { gather_out(out, x, 0, rows); }, "index[19998, 0] is 50");
  expect_refused([&] { gather(x, 0, index); }, "index[19998, 0] is 50");
  EXPECT_TRUE(bytes(out) == before);
}

TEST(Gather, IDX_08_IndexDtypes) {
  const Tensor x = floats({1, 2, 3}, {3});
  EXPECT_THAT(numbers(gather(x, 0, ints({2, 0}, {2}, DType::kI32))), ElementsAre(3, 1));
  for (const DType dtype : test::kAllTypes) {
    const Tensor empty = Tensor::empty({0}, dtype);
    EXPECT_THAT(gather(x, 0, empty).shape(), ElementsAre(0));
    if (dtype == DType::kI64 || dtype == DType::kI32) continue;
    const Tensor index = Tensor::zeros({1}, dtype);
    expect_refused([&] { gather(x, 0, index); }, "expected i64 or i32");
  }
  // An expanded i32 index stays expanded when it is widened.
  const Tensor wide = test::random({40, 64}, 3);
  const Tensor flat = test::random_index({5000, 1}, 40, 4, DType::kI32);
  EXPECT_TRUE(bytes(gather(wide, 0, flat.expand({5000, 64}))) ==
              bytes(gather(wide, 0, flat.to(DType::kI64).expand({5000, 64}))));
}

TEST(Gather, IDX_09_ScalarsAndEmpties) {
  const Tensor five = floats({5}, {1}).view({});
  EXPECT_EQ(gather(five, 0, ints({0}, {1}).view({})).rank(), 0);
  EXPECT_THAT(numbers(gather(five, 0, ints({0, 0}, {2}))), ElementsAre(5, 5));
  EXPECT_THAT(numbers(gather(five, -1, ints({0, 0}, {2}))), ElementsAre(5, 5));
  EXPECT_EQ(gather(floats({5, 6}, {2}), 0, ints({1}, {1}).view({})).rank(), 0);
  EXPECT_THAT(
      gather(Tensor::zeros({0, 3}, DType::kF32), 1, Tensor::zeros({0, 7}, DType::kI64)).shape(),
      ElementsAre(0, 7));
  EXPECT_THAT(
      gather(Tensor::zeros({3, 0}, DType::kF32), 0, Tensor::zeros({2, 0}, DType::kI64)).shape(),
      ElementsAre(2, 0));
  expect_refused([&] { gather(five, 1, ints({0}, {1})); }, "dim is 1, allowed are -1 to 0");
  expect_refused([&] { gather(floats({1}, {1}), -2, ints({0}, {1})); }, "dim is -2");
}

TEST(Gather, IDX_10_EveryDimDtypeAndStride) {
  for (const DType dtype : test::kAllTypes) {
    const Tensor x = test::random_whole({3, 17, 5}, 0, 1, 5, dtype);
    const Tensor distinct =
        dtype == DType::kBool ? x : test::random_whole({3, 17, 5}, 0, 100, 6, dtype);
    for (const int dim : {0, 1, 2, -1}) {
      const auto at = static_cast<std::size_t>(dim < 0 ? dim + 3 : dim);
      Shape shape = distinct.shape();
      shape[at] = 33;
      const Tensor index = test::random_index(shape, distinct.size(dim), 7);
      const std::vector<double> truth =
          ref::gather(numbers(distinct), distinct.shape(), at, test::values<std::int64_t>(index),
                      index.shape());
      EXPECT_EQ(numbers(gather(distinct, dim, index)), truth) << to_string(dtype) << dim;
      EXPECT_EQ(numbers(gather(test::awkward(distinct), dim, test::awkward(index))), truth);
      Tensor out = test::awkward(Tensor::zeros(shape, dtype));
      gather_out(out, distinct, dim, index);
      EXPECT_EQ(numbers(out), truth);
    }
  }
}

// A stride of 0 in the index selects whole rows: the same bits as the index written out.
TEST(Gather, IDX_23_RowPathEqualsElementPath) {
  for (const std::int64_t D : {1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 300}) {
    for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kI8}) {
      const Tensor x = test::random_whole({29, D}, 0, 100, 8, dtype);
      for (const std::int64_t N : {1, 7, 9, 1025, 3000}) {
        const Tensor index = test::expanded_index({N, D}, 0, 29, 9);
        const Tensor full = index.to(DType::kI64);
        ASSERT_TRUE(bytes(gather(x, 0, index)) == bytes(gather(x, 0, full))) << D << " " << N;
      }
    }
  }
  // Rows in the middle of a higher rank, an expanded source, and an index expanded in front.
  const Tensor x = test::random({4, 9, 6, 8}, 10);
  for (const int dim : {0, 1, 2, 3}) {
    const Tensor index = test::expanded_index({4, 9, 6, 8}, dim, 4, 11);
    EXPECT_TRUE(bytes(gather(x, dim, index)) == bytes(gather(x, dim, index.to(DType::kI64))));
    const Tensor row = x.slice(1, 2, 3).expand({4, 9, 6, 8});
    EXPECT_TRUE(bytes(gather(row, dim, index)) == bytes(gather(row.to(DType::kF32), dim, index)));
  }
}

// Output beyond the caches is written around them, with the same bits.
TEST(Gather, LargeOutput) {
  const Tensor x = test::random({100, 64}, 12);
  const Tensor index = test::expanded_index({140000, 64}, 0, 100, 13);
  const Tensor out = gather(x, 0, index);
  for (std::int64_t n = 0; n < 140000; n += 997) {
    const float* from = x.data<float>() + index.data<std::int64_t>()[n] * 64;
    ASSERT_EQ(std::memcmp(out.data<float>() + n * 64, from, 256), 0) << n;
  }
}

TEST(Gather, IDX_11_OutMayNotOverlap) {
  Tensor x = floats({1, 2, 3, 4}, {4});
  const Tensor index = ints({0, 1}, {2});
  Tensor part = x.slice(0, 0, 2);
  expect_refused([&] { gather_out(part, x, 0, index); }, "self shares memory with out");
  Tensor expanded = Tensor::zeros({1}, DType::kF32).expand({2});
  expect_refused([&] { gather_out(expanded, x, 0, index); }, "out is expanded at dim 0");
  Tensor wrong = Tensor::zeros({3}, DType::kF32);
  expect_refused([&] { gather_out(wrong, x, 0, index); }, "out: size is 3 at dim 0, expected 2");
  Tensor other = Tensor::zeros({2}, DType::kF64);
  expect_refused([&] { gather_out(other, x, 0, index); }, "out is f64, but self is f32");
  // Two halves of one matrix interleave without sharing an element.
  Tensor both = floats({0, 1, 0, 2}, {2, 2});
  Tensor left = both.slice(1, 0, 1);
  gather_out(left, both.slice(1, 1, 2), 0, ints({1, 0}, {2, 1}));
  EXPECT_THAT(numbers(both), ElementsAre(2, 1, 1, 2));
}

TEST(Gather, SparseGradIsRefusedByName) {
  expect_refused([] { gather(floats({1}, {1}), 0, ints({0}, {1}), SparseGrad::kYes); },
                 "sparse_grad");
}

TEST(Gather, IDX_18_BackwardSumsDuplicates) {
  const Tensor dout = floats({1, 1, 1, 1, 1, 1}, {2, 3});
  const Tensor index = ints({0, 0, 0, 1, 1, 2}, {2, 3});
  EXPECT_THAT(numbers(gather_backward(dout, {2, 3}, 1, index)), ElementsAre(3, 0, 0, 0, 2, 1));
  EXPECT_THAT(numbers(gather_backward(Tensor::zeros({0, 3}, DType::kF32), {2, 3}, 0,
                                      Tensor::zeros({0, 3}, DType::kI64))),
              ElementsAre(0, 0, 0, 0, 0, 0));
  expect_refused([] { gather_backward(ints({1}, {1}), {1}, 0, ints({0}, {1})); },
                 "dout is i64, only floating dtypes");
}

// Linear in dout: <gather(x), dy> = <x, backward(dy)>.
TEST(Gather, BackwardIsTheTranspose) {
  for (const int dim : {0, 1, 2}) {
    const Tensor x = test::random({5, 6, 7}, 14, DType::kF64);
    Shape shape = x.shape();
    shape[static_cast<std::size_t>(dim)] = 40;
    const Tensor index = test::random_index(shape, x.size(dim), 15);
    const Tensor dy = test::random(shape, 16, DType::kF64);
    const auto y = numbers(gather(x, dim, index)), v = numbers(dy), at = numbers(x);
    const auto dx = numbers(gather_backward(dy, x.shape(), dim, index));
    double left = 0, right = 0;
    for (std::size_t i = 0; i < y.size(); ++i) left += y[i] * v[i];
    for (std::size_t i = 0; i < at.size(); ++i) right += at[i] * dx[i];
    EXPECT_NEAR(left, right, 1e-10);
  }
}

TEST(Gather, IDX_21_SameBitsWithAnyNumberOfThreads) {
  const Tensor x = test::random({300, 64}, 17), dy = test::random({9000, 64}, 18);
  const Tensor index = test::expanded_index({9000, 64}, 0, 300, 19);
  test::expect_same_bits([&] { return gather(x, 0, index); });
  test::expect_same_bits([&] { return gather_backward(dy, {300, 64}, 0, index); });
  const Tensor full = test::random_index({300, 900}, 64, 20);
  test::expect_same_bits([&] { return gather(x, 1, full); });
  test::expect_same_bits([&] { return gather_backward(gather(x, 1, full), {300, 64}, 1, full); });
}

// Five billion places of which the system gives memory to the touched pages alone.
TEST(Gather, IDX_26_OffsetsBeyond32Bits) {
  constexpr std::int64_t kSize = 5'000'000'000;
  void* room = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  const std::shared_ptr<void> owner(room, [](void* p) { ::munmap(p, kSize); });
  auto* at = static_cast<std::uint8_t*>(room);
  at[3'000'000'000] = 3;
  at[kSize - 1] = 9;
  const Tensor x = Tensor::wrap(room, {kSize}, DType::kU8, owner);
  EXPECT_THAT(numbers(gather(x, 0, ints({kSize - 1, 3'000'000'000, 0}, {3}))),
              ElementsAre(9, 3, 0));
  const Tensor rows = x.view({kSize / 2, 2});
  EXPECT_THAT(numbers(gather(rows, 0, ints({kSize / 2 - 1}, {1, 1}).expand({1, 2}))),
              ElementsAre(0, 9));
  EXPECT_THAT(numbers(gather(rows.transpose(0, 1), 1, ints({1'500'000'000}, {1, 1}))),
              ElementsAre(3));
}

}  // namespace
}  // namespace quire

#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <span>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/index/reduce.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"
#include "tests/reference/index_scatter.h"

// What the tests of ops/index share.

namespace quire::test {

inline Tensor ints(const std::vector<std::int64_t>& values, Shape shape,
                   DType dtype = DType::kI64) {
  return Tensor::of(std::span<const std::int64_t>(values), std::move(shape)).to(dtype);
}
inline Tensor floats(const std::vector<float>& values, Shape shape) {
  return Tensor::of(std::span<const float>(values), std::move(shape));
}
inline Tensor doubles(const std::vector<double>& values, Shape shape, DType dtype = DType::kF64) {
  return Tensor::of(std::span<const double>(values), std::move(shape)).to(dtype);
}

/// Whole numbers, as any dtype.
inline Tensor whole(const std::vector<std::int64_t>& values, Shape shape, DType dtype) {
  return ints(values, std::move(shape)).to(dtype);
}

/// The elements, row-major, whatever the strides; T is the dtype's type.
template <class T>
std::vector<T> values(const Tensor& x) {
  const Tensor dense = x.contiguous_copy();
  const T* data = dense.data<T>();
  return std::vector<T>(data, data + dense.elements());
}
/// The elements as doubles, whatever the dtype.
inline std::vector<double> numbers(const Tensor& x) { return values<double>(x.to(DType::kF64)); }

inline std::vector<std::byte> bytes(const Tensor& x) {
  const Tensor dense = x.contiguous_copy();
  std::vector<std::byte> out(static_cast<std::size_t>(dense.bytes()));
  if (!out.empty()) std::memcpy(out.data(), dense.data<void>(), out.size());
  return out;
}

inline std::int64_t elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

inline Tensor random(Shape shape, std::uint64_t seed, DType dtype = DType::kF32) {
  Rng rng(seed);
  std::vector<double> out(static_cast<std::size_t>(elements(shape)));
  for (double& x : out) x = static_cast<double>(rng.normal());
  return doubles(out, std::move(shape), dtype);
}

/// Whole numbers in [low, high].
inline Tensor random_whole(Shape shape, std::int64_t low, std::int64_t high, std::uint64_t seed,
                           DType dtype = DType::kI64) {
  Rng rng(seed);
  std::vector<std::int64_t> out(static_cast<std::size_t>(elements(shape)));
  for (std::int64_t& x : out)
    x = low + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(high - low + 1)));
  return whole(out, std::move(shape), dtype);
}

inline Tensor random_index(Shape shape, std::int64_t size, std::uint64_t seed,
                           DType dtype = DType::kI64) {
  return random_whole(std::move(shape), 0, size - 1, seed, dtype);
}

/// An index of `length` along dim, expanded to shape's other dimensions.
inline Tensor expanded_index(const Shape& shape, int dim, std::int64_t size, std::uint64_t seed) {
  Shape ones(shape.size(), 1);
  ones[static_cast<std::size_t>(dim)] = shape[static_cast<std::size_t>(dim)];
  return random_index(ones, size, seed).expand(shape);
}

/// The same numbers in memory with gaps, transposed, and beginning in the middle.
inline Tensor awkward(const Tensor& x) {
  if (x.rank() == 0) return x;
  Shape shape = x.shape();
  for (std::int64_t& size : shape) size += 2;
  std::swap(shape.front(), shape.back());
  Tensor room = Tensor::empty(shape, x.dtype());
  std::memset(room.mutable_data<void>(), 0x7f, static_cast<std::size_t>(room.bytes()));
  Tensor out = room.transpose(0, x.rank() - 1);
  for (int d = 0; d < x.rank(); ++d) out = out.slice(d, 1, 1 + x.size(d));
  const std::size_t size = size_of(x.dtype());
  const Tensor dense = x.contiguous_copy();
  const auto* from = static_cast<const std::byte*>(dense.data<void>());
  auto* to = x.elements() == 0 ? nullptr : static_cast<std::byte*>(out.mutable_data<void>());
  ref::for_each_coordinate(x.shape(), [&](const ref::Sizes& at) {
    std::int64_t offset = 0;
    for (std::size_t d = 0; d < at.size(); ++d) offset += at[d] * out.strides()[d];
    std::memcpy(to + offset * static_cast<std::int64_t>(size), from, size);
    from += size;
  });
  return out;
}

inline constexpr Reduce kReduces[] = {Reduce::kSum, Reduce::kProd, Reduce::kMean, Reduce::kAmax,
                                      Reduce::kAmin};
inline constexpr IncludeSelf kIncludes[] = {IncludeSelf::kYes, IncludeSelf::kNo};

/// The reduction as the reference names it.
inline ref::Op op(Reduce reduce) {
  constexpr ref::Op kOps[] = {ref::Op::kSum, ref::Op::kProd, ref::Op::kMean, ref::Op::kAmax,
                              ref::Op::kAmin};
  return kOps[static_cast<std::size_t>(reduce)];
}

inline constexpr DType kAllTypes[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16,
                                      DType::kI64, DType::kI32, DType::kI16,  DType::kI8,
                                      DType::kU8,  DType::kBool};

/// The bits of call() with 1, 2 and 7 threads, twice each, are the same.
template <class Call>
void expect_same_bits(const Call& call) {
  const int before = thread_pool().threads();
  std::vector<std::byte> first;
  for (const int threads : {1, 2, 7}) {
    set_threads(threads);
    for (int run = 0; run < 2; ++run) {
      const std::vector<std::byte> now = bytes(call());
      if (threads == 1 && run == 0) first = now;
      EXPECT_TRUE(now == first) << threads << " threads, run " << run;
    }
  }
  set_threads(before);
}

/// call() throws ArgumentError with this text in it.
template <class Call>
void expect_refused(const Call& call, const std::string& text) {
  EXPECT_THAT(call, testing::ThrowsMessage<ArgumentError>(testing::HasSubstr(text)));
}

}  // namespace quire::test

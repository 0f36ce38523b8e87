#include "quire/tensor/storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <vector>

#include "quire/base/error.h"
#include "quire/tensor/tensor.h"

namespace quire {
namespace {

std::uintptr_t address(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.data<void>()); }

TEST(Storage, IsAligned) {
  for (const std::int64_t bytes : {1, 63, 64, 65, 4096, 65535, 65536, 65537, (4 << 20) - 1}) {
    EXPECT_EQ(address(Tensor::empty({bytes}, DType::kU8)) % 64, 0u) << bytes;
  }
  EXPECT_EQ(address(Tensor::empty({4 << 20}, DType::kU8)) % (2 << 20), 0u);
  EXPECT_EQ(address(Tensor::empty({(5 << 20) + 1}, DType::kU8)) % (2 << 20), 0u);
}

TEST(Storage, CountsVersionsAcrossViews) {
  Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  const std::uint64_t before = x.version();
  Tensor row = x.slice(0, 1, 2);
  (void)x.data<float>();
  EXPECT_EQ(x.version(), before);
  (void)row.mutable_data<float>();
  EXPECT_EQ(x.version(), before + 1);
  EXPECT_EQ(row.version(), before + 1);
}

TEST(Storage, CountsLivingBytesAndTheirPeak) {
  const std::int64_t before = allocated_bytes();
  reset_peak_allocated_bytes();
  {
    const Tensor a = Tensor::empty({1000}, DType::kF32);
    {
      const Tensor b = Tensor::empty({100001}, DType::kU8);
      EXPECT_EQ(allocated_bytes() - before, 104001);
    }
    const Tensor view = a.slice(0, 1, 5);
    EXPECT_EQ(allocated_bytes() - before, 4000);
  }
  EXPECT_EQ(allocated_bytes(), before);
  EXPECT_EQ(peak_allocated_bytes() - before, 104001);
  reset_peak_allocated_bytes();
  EXPECT_EQ(peak_allocated_bytes(), before);
}

TEST(Storage, WrappedMemoryIsNotCounted) {
  std::vector<float> values(1000);
  const std::int64_t before = allocated_bytes();
  const Tensor x = Tensor::wrap(values.data(), {1000}, DType::kF32);
  EXPECT_EQ(allocated_bytes(), before);
}

TEST(Storage, FreedBlocksWaitInABoundedCache) {
  release_cached_bytes();
  EXPECT_EQ(cached_bytes(), 0);
  { const Tensor small = Tensor::empty({1000}, DType::kU8); }
  EXPECT_EQ(cached_bytes(), 0);
  for (int i = 0; i < 3; ++i) {
    const Tensor big = Tensor::empty({1 << 20}, DType::kU8);
    EXPECT_EQ(cached_bytes(), 0) << "the block in use is not in the cache";
  }
  {
    std::vector<Tensor> many;
    for (int i = 0; i < 300; ++i) many.push_back(Tensor::empty({1 << 20}, DType::kU8));
  }
  EXPECT_LE(cached_bytes(), 128 << 20);
  const std::int64_t full = cached_bytes();
  { const Tensor huge = Tensor::empty({129 << 20}, DType::kU8); }
  EXPECT_EQ(cached_bytes(), full) << "a block larger than the cache does not empty it";
  release_cached_bytes();
  EXPECT_EQ(cached_bytes(), 0);
}

TEST(Storage, WhatGrowsByALittleFindsItsOldBlock) {
  release_cached_bytes();
  // 4 MiB and a little more each time: the first block serves until it is an eighth larger.
  for (int i = 1; i < 100; ++i) {
    const Tensor x = Tensor::empty({(4 << 20) + i * 4000}, DType::kU8);
  }
  EXPECT_LE(cached_bytes(), 5 << 20) << "one block served them all";
  release_cached_bytes();
}

TEST(Storage, OneBlockIsNeverHandedOutTwice) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 300; ++i) {
        Tensor x = Tensor::empty({70000 + 1000 * (i % 7)}, DType::kU8);
        std::uint8_t* data = x.mutable_data<std::uint8_t>();
        const std::int64_t n = x.elements();
        for (std::int64_t j = 0; j < n; j += 1000) data[j] = static_cast<std::uint8_t>(t);
        for (std::int64_t j = 0; j < n; j += 1000) ASSERT_EQ(data[j], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Storage, MemoryThatIsNotThereIsOutOfMemory) {
  EXPECT_THROW(Tensor::empty({std::int64_t{1} << 61}, DType::kU8), OutOfMemory);
  EXPECT_THROW(Tensor::empty({std::numeric_limits<std::int64_t>::max()}, DType::kU8), OutOfMemory);
}

TEST(Storage, TheNthAllocationFailsOnceWhenArmed) {
  const std::int64_t before = allocated_bytes();
  fail_allocation(2);
  const Tensor first = Tensor::empty({4}, DType::kF32);
  EXPECT_THROW(Tensor::empty({4}, DType::kF32), OutOfMemory);
  EXPECT_EQ(allocated_bytes(), before + 16);
  EXPECT_NO_THROW(Tensor::empty({4}, DType::kF32));
  fail_allocation(1);
  fail_allocation(0);
  EXPECT_NO_THROW(Tensor::empty({4}, DType::kF32));
}

}  // namespace
}  // namespace quire

#include "quire/ops/matmul/weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/io/safetensors.h"
#include "tests/ops/matmul/weight_case.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<float> row(const Weight& weight, std::int64_t m) {
  std::vector<float> out(static_cast<std::size_t>(weight.columns()), 1e30f);
  weight.row(m, out.data());
  return out;
}

bool same_bits(const std::vector<float>& a, const float* b) {
  return a.empty() || std::memcmp(a.data(), b, a.size() * sizeof(float)) == 0;
}

TEST(Weight, RowsAreBitForBitWhatTheGgufPackageSays) {
  const io::SafetensorsFile goldens(QUIRE_SOURCE_DIR "/tests/goldens/quants.safetensors");
  for (const WeightType type : kTypes) {
    if (type == WeightType::kF32) continue;
    const std::string name(to_string(type));
    const Tensor blocks = goldens.read(name + ".blocks"), values = goldens.read(name + ".values");
    const auto* bytes = static_cast<const std::byte*>(blocks.data<void>());
    ASSERT_EQ(blocks.size(1), 512 / info(type).block * info(type).block_bytes) << name;
    // 8 rows fill half a panel; 40 rows, the same 8 again and again, two and a half.
    for (const std::int64_t M : {1, 8, 40}) {
      std::vector<std::byte> file;
      for (std::int64_t m = 0; m < M; ++m)
        file.insert(file.end(), bytes + m % 8 * blocks.size(1),
                    bytes + (m % 8 + 1) * blocks.size(1));
      const Weight weight = pack(type, M, 512, file);
      for (std::int64_t m = 0; m < M; ++m)
        EXPECT_TRUE(same_bits(row(weight, m), values.data<float>() + m % 8 * 512))
            << name << ", row " << m << " of " << M;
    }
  }
}

TEST(Weight, RowsAreWhatPlainLoopsSay) {
  for (const WeightType type : kTypes) {
    for (const std::int64_t M : {1, 15, 16, 17, 33}) {
      for (const std::int64_t D : {0, 32, 96}) {
        const WeightCase w(type, M, D);
        for (std::int64_t m = 0; m < M; ++m)
          EXPECT_TRUE(same_bits(row(w.weight, m), w.values.data() + m * D))
              << to_string(type) << ", row " << m << " of " << M << ", D " << D;
      }
    }
  }
  for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
    const WeightCase w(type, 19, 7);
    for (std::int64_t m = 0; m < 19; ++m)
      EXPECT_TRUE(same_bits(row(w.weight, m), w.values.data() + m * 7)) << to_string(type);
  }
}

TEST(Weight, EveryHalfAndEveryBfloat) {
  std::vector<std::byte> file(2 * 65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(&file[2 * i], &bits, 2);
  }
  const Weight halves = pack(WeightType::kF16, 64, 1024, file);
  const Weight bfloats = pack(WeightType::kBF16, 64, 1024, file);
  for (std::int64_t m = 0; m < 64; ++m) {
    const std::vector<float> half_row = row(halves, m), bfloat_row = row(bfloats, m);
    for (std::size_t d = 0; d < 1024; ++d) {
      const auto bits = static_cast<std::uint16_t>(static_cast<std::size_t>(m) * 1024 + d);
      const float half = to_float(Half{bits}), bfloat = to_float(BFloat16{bits});
      if (std::isnan(half)) {
        ASSERT_TRUE(std::isnan(half_row[d])) << bits;
      } else {
        ASSERT_EQ(std::memcmp(&half, &half_row[d], 4), 0) << bits;
      }
      ASSERT_EQ(std::memcmp(&bfloat, &bfloat_row[d], 4), 0) << bits;
    }
  }
}

TEST(Weight, ReadsWholeRowsInOrderAFewAtATime) {
  // 700 rows of 4 KiB: more than is read at once.
  constexpr std::int64_t kRows = 700, kColumns = 1024;
  std::int64_t next = 0, calls = 0;
  const Weight weight =
      Weight::pack(WeightType::kF32, kRows, kColumns,
                   [&](std::int64_t first, std::int64_t count, std::span<std::byte> out) {
                     EXPECT_EQ(first, next);
                     EXPECT_EQ(out.size(), static_cast<std::size_t>(count) * kColumns * 4);
                     EXPECT_LE(out.size(), std::size_t{4} << 20);
                     for (std::int64_t i = 0; i < count * kColumns; ++i) {
                       const auto x = static_cast<float>(first * kColumns + i);
                       std::memcpy(&out[static_cast<std::size_t>(4 * i)], &x, 4);
                     }
                     next = first + count;
                     ++calls;
                   });
  EXPECT_EQ(next, kRows);
  EXPECT_GT(calls, 1);
  for (const std::int64_t m : {std::int64_t{0}, std::int64_t{255}, std::int64_t{256}, kRows - 1}) {
    const std::vector<float> out = row(weight, m);
    for (std::int64_t d = 0; d < kColumns; ++d)
      ASSERT_EQ(out[static_cast<std::size_t>(d)], static_cast<float>(m * kColumns + d));
  }
}

TEST(Weight, SizesAndNames) {
  EXPECT_EQ(to_string(WeightType::kF32), "F32");
  EXPECT_EQ(to_string(WeightType::kF16), "F16");
  EXPECT_EQ(to_string(WeightType::kBF16), "BF16");
  EXPECT_EQ(to_string(WeightType::kQ4_1), "Q4_1");
  EXPECT_EQ(to_string(WeightType::kQ8_0), "Q8_0");
  EXPECT_EQ(info(WeightType::kF32).block_bytes, 4);
  EXPECT_EQ(info(WeightType::kQ4_1).block, 32);
  EXPECT_EQ(info(WeightType::kQ4_1).block_bytes, 20);
  EXPECT_EQ(info(WeightType::kQ8_0).block_bytes, 34);
  const WeightCase w(WeightType::kQ4_1, 17, 64);
  EXPECT_EQ(w.weight.type(), WeightType::kQ4_1);
  EXPECT_EQ(w.weight.rows(), 17);
  EXPECT_EQ(w.weight.columns(), 64);
  EXPECT_EQ(w.weight.bytes(), 2 * 16 * 2 * 20) << "as many bytes as in the file, for whole panels";
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(w.weight.panels()) % 64, 0u);
  EXPECT_EQ(Weight().rows(), 0);
  EXPECT_EQ(pack(WeightType::kQ8_0, 0, 64, {}).bytes(), 0);
}

TEST(Weight, CopiesShareThePanels) {
  const WeightCase w(WeightType::kF16, 4, 8);
  const Weight copy = w.weight;
  EXPECT_EQ(copy.panels(), w.weight.panels());
}

TEST(Weight, Errors) {
  EXPECT_THAT(
      [] { (void)pack(WeightType::kQ4_1, 1, 48, {}); },
      ThrowsMessage<ArgumentError>("a Q4_1 weight has 48 columns; they must be a multiple of 32"));
  EXPECT_THROW((void)pack(WeightType::kF32, -1, 1, {}), ArgumentError);
  EXPECT_THROW((void)pack(WeightType::kF32, 1, -1, {}), ArgumentError);
  for (const std::int64_t rows : {INT64_MAX, INT64_MAX - 15, std::int64_t{1} << 60}) {
    EXPECT_THAT([&] { (void)pack(WeightType::kF32, rows, 1024, {}); },
                ThrowsMessage<ArgumentError>(HasSubstr("beyond the address space")));
  }
  EXPECT_THAT([&] { (void)pack(WeightType::kF32, 1, std::int64_t{1} << 60, {}); },
              ThrowsMessage<ArgumentError>(HasSubstr("beyond the address space")));
  EXPECT_THROW((void)pack(WeightType::kF32, std::int64_t{1} << 50, 1024, {}), OutOfMemory);
  const WeightCase w(WeightType::kF32, 3, 2);
  float out[2];
  EXPECT_THROW(w.weight.row(3, out), ArgumentError);
  EXPECT_THROW(w.weight.row(-1, out), ArgumentError);
  EXPECT_THROW(Weight().row(0, out), ArgumentError);
  EXPECT_THROW((void)Weight::pack(WeightType::kF32, 2, 2,
                                  [](std::int64_t, std::int64_t, std::span<std::byte>) {
                                    throw IoError("weights", "read", 5);
                                  }),
               IoError);
}

}  // namespace
}  // namespace quire::test

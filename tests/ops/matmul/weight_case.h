#pragma once

// Random weights in their file form, and the numbers that they stand for.

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "quire/base/half.h"
#include "quire/ops/matmul/weight.h"
#include "quire/tensor/rng.h"
#include "tests/reference/matmul.h"

namespace quire::test {

inline constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kF16, WeightType::kBF16,
                                        WeightType::kQ4_1, WeightType::kQ8_0};

inline std::vector<float> normals(std::int64_t count, std::uint64_t seed, float scale = 1) {
  Rng rng(seed);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = scale * rng.normal();
  return out;
}

inline Tensor of(const std::vector<float>& values, Shape shape) {
  return Tensor::of(std::span<const float>(values), std::move(shape));
}

/// Packs rows that stand in memory.
inline Weight pack(WeightType type, std::int64_t rows, std::int64_t columns,
                   const std::vector<std::byte>& file) {
  const WeightTypeInfo form = info(type);
  const std::int64_t row_bytes = columns / form.block * form.block_bytes;
  return Weight::pack(type, rows, columns,
                      [&](std::int64_t first, std::int64_t count, std::span<std::byte> out) {
                        if (count * row_bytes == 0) return;
                        std::memcpy(out.data(), file.data() + first * row_bytes,
                                    static_cast<std::size_t>(count * row_bytes));
                      });
}

struct WeightCase {
  WeightCase(WeightType of_type, std::int64_t rows, std::int64_t columns, std::uint64_t seed = 1)
      : type(of_type), M(rows), D(columns), rng(seed) {
    for (std::int64_t m = 0; m < M; ++m)
      for (std::int64_t d = 0; d < D; d += info(type).block) add_block();
    weight = pack(type, M, D, file);
  }

  template <class T>
  void bytes(const T& x) {
    const auto* p = reinterpret_cast<const std::byte*>(&x);
    file.insert(file.end(), p, p + sizeof(T));
  }
  float half() {
    const Half x = to_half(0.02f * rng.normal());
    bytes(x);
    return to_float(x);
  }
  void add_block() {
    switch (type) {
      case WeightType::kF32: {
        const float x = 0.1f * rng.normal();
        bytes(x);
        values.push_back(x);
        return;
      }
      case WeightType::kF16: {
        values.push_back(half());
        return;
      }
      case WeightType::kBF16: {
        const BFloat16 x = to_bfloat16(0.1f * rng.normal());
        bytes(x);
        values.push_back(to_float(x));
        return;
      }
      case WeightType::kQ4_1: {
        const float scale = half(), minimum = half();
        int q[32];
        for (int j = 0; j < 16; ++j) {
          const auto byte = static_cast<std::uint8_t>(rng.below(256));
          bytes(byte);
          q[j] = byte % 16;
          q[j + 16] = byte / 16;
        }
        add_integers(q, scale, minimum);
        return;
      }
      case WeightType::kQ8_0: {
        const float scale = half();
        int q[32];
        for (int& x : q) {
          x = static_cast<int>(rng.below(256)) - 128;
          bytes(static_cast<std::int8_t>(x));
        }
        add_integers(q, scale, 0);
        return;
      }
    }
  }
  void add_integers(const int (&q)[32], float scale, float minimum) {
    for (const int x : q) {
      const float product = scale * static_cast<float>(x);
      values.push_back(type == WeightType::kQ4_1 ? product + minimum : product);
      integers.q.push_back(x);
    }
    integers.scale.push_back(scale);
    integers.minimum.push_back(minimum);
  }

  WeightType type;
  std::int64_t M, D;
  Rng rng;
  std::vector<std::byte> file;
  std::vector<float> values;    // [M, D]
  ref::IntegerWeight integers;  // of Q4_1 and Q8_0
  Weight weight;
};

}  // namespace quire::test

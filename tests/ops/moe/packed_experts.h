#pragma once

// Random packed weights, and the dense tensor of what they stand for.

#include <cstring>
#include <vector>

#include "quire/base/half.h"
#include "quire/ops/moe/expert_weights.h"
#include "quire/tensor/rng.h"

namespace quire::test {

struct PackedExperts {
  ExpertWeights weights;
  Tensor dense_EDF;  // f32, exactly the values of the blocks
};

inline Weight random_weight(WeightType type, std::int64_t F, std::int64_t D, Rng& rng) {
  return Weight::pack(type, F, D, [&](std::int64_t, std::int64_t count, std::span<std::byte> rows) {
    for (std::byte& byte : rows) byte = static_cast<std::byte>(rng.below(256));
    const WeightTypeInfo blocks = info(type);
    for (std::int64_t i = 0; i < count * D / blocks.block; ++i) {
      std::byte* block = rows.data() + i * blocks.block_bytes;
      // Scales (and minima) near 1/16, so that sums stay of order one.
      const int halves = type == WeightType::kQ4_1 ? 2 : type == WeightType::kQ8_0 ? 1 : 0;
      for (int h = 0; h < halves; ++h) {
        const Half value = to_half(static_cast<float>(rng.uniform() - 0.5) / 16);
        std::memcpy(block + 2 * h, &value, 2);
      }
      if (type == WeightType::kF32) {
        const float value = rng.normal();
        std::memcpy(block, &value, 4);
      } else if (type == WeightType::kF16) {
        const Half value = to_half(rng.normal());
        std::memcpy(block, &value, 2);
      } else if (type == WeightType::kBF16) {
        const BFloat16 value = to_bfloat16(rng.normal());
        std::memcpy(block, &value, 2);
      }
    }
  });
}

inline PackedExperts random_packed(WeightType type, std::int64_t E, std::int64_t D, std::int64_t F,
                                   std::uint64_t seed) {
  Rng rng(seed);
  std::vector<Weight> all;
  Tensor dense = Tensor::empty({E, D, F}, DType::kF32);
  float* to = dense.mutable_data<float>();
  std::vector<float> row(static_cast<std::size_t>(D));
  for (std::int64_t e = 0; e < E; ++e) {
    all.push_back(random_weight(type, F, D, rng));
    for (std::int64_t f = 0; f < F; ++f) {
      all.back().row(f, row.data());
      for (std::int64_t d = 0; d < D; ++d)
        to[(e * D + d) * F + f] = row[static_cast<std::size_t>(d)];
    }
  }
  return {ExpertWeights(std::move(all)), dense};
}

inline constexpr WeightType kWeightTypes[] = {WeightType::kF32, WeightType::kF16, WeightType::kBF16,
                                              WeightType::kQ4_1, WeightType::kQ8_0};

}  // namespace quire::test

#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

/// select_clusters() with everything checked and made plain.
struct SelectClusters {
  const float* rank_GM;
  const std::int64_t* size_GM;
  std::uint8_t* taken_GM;
  std::int64_t* tokens_G;
  std::int64_t G, M, budget;
};
void select_clusters_cpu(const SelectClusters& args);
void select_best_cpu(const float* rank, std::int64_t n, std::int64_t count, std::uint8_t* taken);

/// The sizes of all whose rank is at least `least`, added up: exact below 2^24. n is a multiple of
/// 64; no rank is NaN.
QUIRE_DECLARE_KERNEL(float, size_from_rank, const float* rank, const float* size, std::int64_t n,
                     float least)
/// Ranks without NaN, for which −inf stands, filled up with −inf to a multiple of 16. Returns the
/// highest.
QUIRE_DECLARE_KERNEL(float, plain_ranks, const float* from, std::int64_t n, float* rank)

/// Ranks above `below` are taken; those from `least` on that are not are near.
struct RankBorders {
  float least, below;
};
/// Marks what is taken and lists what is near, clusters without members aside. Returns how many are
/// near. n is a multiple of 16.
QUIRE_DECLARE_KERNEL(std::int64_t, mark_ranks, const RankBorders& borders, const float* rank,
                     const float* size, std::int64_t n, std::uint8_t* taken, std::int32_t* near)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

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

}  // namespace quire::kernel

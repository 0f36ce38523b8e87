#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/select_clusters_kernel.h"

namespace quire::kernel {
namespace {

struct Ranked {
  std::uint32_t key;
  std::int64_t cluster;
};

/// A number in the order of the ranks; NaN comes last.
std::uint32_t key_of(float rank) {
  if (rank != rank) rank = -std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<std::uint32_t>(rank + 0.0f);  // one zero, not two
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

constexpr int kShift = 20;  // sign, exponent and three more bits tell ranks apart at first

void select_head(const SelectClusters& args, std::int64_t g) {
  const float* rank = args.rank_GM + g * args.M;
  const std::int64_t* size = args.size_GM + g * args.M;
  std::uint8_t* taken = args.taken_GM + g * args.M;
  // The members of all clusters whose ranks begin alike: what is above the stretch where the budget
  // ends is taken whole, and only that stretch must be sorted.
  thread_local std::vector<std::int64_t> tokens;
  thread_local std::vector<std::uint32_t> keys;
  const auto M = static_cast<std::size_t>(args.M);
  tokens.assign(std::size_t{1} << (32 - kShift), 0);
  keys.resize(M);
  std::uint32_t highest = 0;
  for (std::size_t m = 0; m < M; ++m) highest = std::max(highest, keys[m] = key_of(rank[m]));
  std::int64_t* const at = tokens.data();
  for (std::size_t m = 0; m < M; ++m) at[keys[m] >> kShift] += size[m];
  std::int64_t left = args.budget;
  std::size_t border = (highest >> kShift) + 1;
  while (border > 0 && at[border - 1] <= left) left -= at[--border];
  for (std::size_t m = 0; m < M; ++m)
    taken[m] = static_cast<std::uint8_t>((size[m] > 0) & ((keys[m] >> kShift) >= border));
  std::vector<Ranked> near;
  for (std::size_t m = 0; m < M; ++m)
    if ((keys[m] >> kShift) + 1 == border && size[m] > 0)
      near.push_back({keys[m], static_cast<std::int64_t>(m)});
  std::sort(near.begin(), near.end(), [](const Ranked& a, const Ranked& b) {
    return a.key != b.key ? a.key > b.key : a.cluster < b.cluster;
  });
  for (const Ranked& next : near) {
    if (size[next.cluster] > left) break;
    taken[next.cluster] = 1;
    left -= size[next.cluster];
  }
  args.tokens_G[g] = args.budget - left;
}

}  // namespace

void select_clusters_cpu(const SelectClusters& args) {
  thread_pool().run(args.G, [&](std::int64_t g) { select_head(args, g); });
}

}  // namespace quire::kernel

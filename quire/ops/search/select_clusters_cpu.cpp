#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/select_clusters_kernel.h"

namespace quire::kernel {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Sizes are added up as floats; more of them than a float can count are told apart another way.
constexpr std::int64_t kMostCounted = std::int64_t{1} << 24;
// Ranks that differ by less than a thirtieth are sorted.
constexpr std::uint32_t kNear = 1u << 18;
// Most budgets end within so many powers of two below the highest rank.
constexpr std::uint32_t kFirstRange = 24u << 23;

struct Ranked {
  std::uint32_t key;
  std::int64_t cluster;
};

/// A number in the order of the ranks; NaN comes last.
std::uint32_t key_of(float rank) {
  if (rank != rank) rank = kLowest;
  const auto bits = std::bit_cast<std::uint32_t>(rank + 0.0f);  // one zero, not two
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
float rank_of(std::uint32_t key) {
  return std::bit_cast<float>(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

/// Of what the best clusters have left of a budget, as many of `near`, by rank, as fit; size: 1 of
/// each where it is null. Returns what is left then.
std::int64_t take_near(std::vector<Ranked>& near, const std::int64_t* size, std::int64_t left,
                       std::uint8_t* taken) {
  std::sort(near.begin(), near.end(), [](const Ranked& a, const Ranked& b) {
    return a.key != b.key ? a.key > b.key : a.cluster < b.cluster;
  });
  for (const Ranked& next : near) {
    const std::int64_t members = size == nullptr ? 1 : size[next.cluster];
    if (members > left) break;
    taken[next.cluster] = 1;
    left -= members;
  }
  return left;
}

/// n ranks with their sizes, as `count` has them too: whole vectors of 64 with zeros behind them.
struct ToHalve {
  const float *rank, *count;
  const std::int64_t* size;
  std::int64_t n, budget;
};

/// By halving the ranks in which the budget ends. Returns what is left of it.
std::int64_t select_by_halves(const ToHalve& args, std::uint8_t* taken) {
  const std::int64_t M = args.n, whole = (M + 63) / 64 * 64;
  thread_local std::vector<float> ranks;
  thread_local std::vector<std::uint8_t> flags;
  thread_local std::vector<std::int32_t> close;
  ranks.assign(static_cast<std::size_t>(whole), kLowest);
  flags.resize(static_cast<std::size_t>(whole));
  close.resize(static_cast<std::size_t>(whole));
  float* const rank = ranks.data();
  const float highest = QUIRE_FOR_ISA(plain_ranks)(args.rank, M, rank);
  // The sizes from `low` on are more than the budget, those from `high` on are not.
  const auto sum = QUIRE_FOR_ISA(size_from_rank);
  std::uint32_t low = key_of(kLowest), high = key_of(highest) + 1;
  std::int64_t left = args.budget;
  bool is_first = true;
  while (high - low > kNear) {
    const bool is_wide = is_first && high - low > 2 * kFirstRange;
    const std::uint32_t middle = is_wide ? high - kFirstRange : low + (high - low) / 2;
    is_first = false;
    const auto tokens = static_cast<std::int64_t>(sum(rank, args.count, whole, rank_of(middle)));
    if (tokens > args.budget) {
      low = middle;
    } else {
      high = middle;
      left = args.budget - tokens;
    }
  }
  const std::int64_t n = QUIRE_FOR_ISA(mark_ranks)({rank_of(low), rank_of(high - 1)}, rank,
                                                   args.count, whole, flags.data(), close.data());
  std::copy_n(flags.data(), M, taken);
  std::vector<Ranked> near;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t m = close[static_cast<std::size_t>(i)];
    near.push_back({key_of(rank[m]), m});
  }
  return take_near(near, args.size, left, taken);
}

std::int64_t select_by_halves(const SelectClusters& args, std::int64_t g) {
  const std::int64_t* size = args.size_GM + g * args.M;
  thread_local std::vector<float> sizes;
  sizes.assign(static_cast<std::size_t>((args.M + 63) / 64 * 64), 0.0f);
  for (std::int64_t m = 0; m < args.M; ++m)
    sizes[static_cast<std::size_t>(m)] = static_cast<float>(size[m]);
  return select_by_halves({args.rank_GM + g * args.M, sizes.data(), size, args.M, args.budget},
                          args.taken_GM + g * args.M);
}

constexpr int kShift = 20;  // sign, exponent and three more bits tell ranks apart at first

/// By counting the members of all clusters whose ranks begin alike: what is above the stretch where
/// the budget ends is taken whole, and only that stretch must be sorted.
std::int64_t select_by_counts(const SelectClusters& args, std::int64_t g) {
  const float* rank = args.rank_GM + g * args.M;
  const std::int64_t* size = args.size_GM + g * args.M;
  std::uint8_t* taken = args.taken_GM + g * args.M;
  std::vector<std::int64_t> tokens(std::size_t{1} << (32 - kShift));
  for (std::int64_t m = 0; m < args.M; ++m) tokens[key_of(rank[m]) >> kShift] += size[m];
  std::int64_t left = args.budget;
  std::size_t border = tokens.size();
  while (border > 0 && tokens[border - 1] <= left) left -= tokens[--border];
  std::vector<Ranked> near;
  for (std::int64_t m = 0; m < args.M; ++m) {
    const std::uint32_t key = key_of(rank[m]);
    taken[m] = size[m] > 0 && (key >> kShift) >= border ? 1 : 0;
    if (size[m] > 0 && (key >> kShift) + 1 == border) near.push_back({key, m});
  }
  return take_near(near, size, left, taken);
}

void select_head(const SelectClusters& args, std::int64_t g) {
  const std::int64_t* size = args.size_GM + g * args.M;
  std::int64_t all = 0;
  for (std::int64_t m = 0; m < args.M; ++m) all += size[m];
  if (all <= args.budget) {
    for (std::int64_t m = 0; m < args.M; ++m) args.taken_GM[g * args.M + m] = size[m] > 0 ? 1 : 0;
    args.tokens_G[g] = all;
    return;
  }
  args.tokens_G[g] =
      args.budget - (all < kMostCounted ? select_by_halves(args, g) : select_by_counts(args, g));
}

}  // namespace

void select_clusters_cpu(const SelectClusters& args) {
  thread_pool().run(args.G, [&](std::int64_t g) { select_head(args, g); });
}

void select_best_cpu(const float* rank, std::int64_t n, std::int64_t count, std::uint8_t* taken) {
  if (count >= n) {
    std::fill_n(taken, n, std::uint8_t{1});
    return;
  }
  thread_local std::vector<float> ones;
  ones.assign(static_cast<std::size_t>((n + 63) / 64 * 64), 0.0f);
  std::fill_n(ones.begin(), n, 1.0f);
  static_cast<void>(select_by_halves({rank, ones.data(), nullptr, n, count}, taken));
}

}  // namespace quire::kernel

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/cluster_mass_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kTile = 64;
// A handful of tiles for each piece: one alone is not worth handing to a thread.
constexpr std::int64_t kTilesOfPiece = 4;

void run_tiles(const ClusterMass& args, std::int64_t g, std::int64_t begin, std::int64_t end) {
  const auto tile = QUIRE_FOR_ISA(cluster_mass_tile);
  thread_local std::vector<float> scratch;
  scratch.resize(static_cast<std::size_t>(kTile * 2 * args.centroids.K));
  for (std::int64_t t = begin; t < end; ++t) tile(args, g, t, scratch.data());
}

}  // namespace

void cluster_mass_cpu(const ClusterMass& args) {
  const std::int64_t tiles = (args.M + kTile - 1) / kTile;
  const std::int64_t parts = (tiles + kTilesOfPiece - 1) / kTilesOfPiece;
  thread_pool().run(args.centroids.G * parts, [&](std::int64_t piece) {
    const std::int64_t first = piece % parts * kTilesOfPiece;
    run_tiles(args, piece / parts, first, std::min(tiles, first + kTilesOfPiece));
  });
}

void cluster_mass_head_cpu(const ClusterMass& args, std::int64_t g) {
  run_tiles(args, g, 0, (args.M + kTile - 1) / kTile);
}

double log_sum_exp_cpu(const float* x, std::int64_t n) {
  return QUIRE_FOR_ISA(row_lse)(x, n, -std::numeric_limits<float>::infinity());
}

void log_sum_exp_of_16_cpu(const float* x, const float* mask, std::int64_t n, float* out) {
  QUIRE_FOR_ISA(lse_of_16)(x, mask, n, out);
}

void cluster_rank_cpu(const ClusterRank& args) {
  const std::int64_t M = args.M, group = args.H / args.G;
  const auto lse = QUIRE_FOR_ISA(row_lse);
  const auto rank = QUIRE_FOR_ISA(rank_row);
  thread_pool().run(args.N * args.G, [&](std::int64_t piece) {
    const std::int64_t n = piece / args.G, g = piece % args.G;
    float* out = args.rank_NGM + piece * M;
    std::fill(out, out + M, 0.0f);
    for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
      const std::int64_t row = n * args.H + h;
      const double total = lse(args.mass_NHM + row * M, M, args.hot_NH[row]);
      args.lse_NH[row] = total;
      // A head that sees nothing at all does not vote.
      if (total == -std::numeric_limits<double>::infinity()) continue;
      rank(args.mass_NHM + (n * args.H + h) * M, args.bias_GM + g * M, static_cast<float>(total), M,
           args.largest, out);
    }
  });
}

}  // namespace quire::kernel

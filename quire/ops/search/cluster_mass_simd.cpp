// What clusters receive from queries, compiled once per instruction set: 64 centroids are the
// columns of a register tile, all queries of the group its rows, so each centroid is read once.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/search/cluster_mass_kernel.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

/// A tile of centroids or variances: where the cache has it, or gathered.
QUIRE_INLINE Tile columns_of(const KvView& kv, std::int64_t b, std::int64_t g, std::int64_t slot,
                             int count, float* scratch) {
  Tile tile{};
  tile.begin = 0;
  tile.end = count;
  if (kv.k_layout == KLayout::kBlocks && borrow(kv, b, g, slot, {g, slot, 0}, tile)) return tile;
  load_key_columns(kv, {b, g, slot, count}, scratch);
  use_keys(tile, scratch);
  return tile;
}

template <int T>
QUIRE_INLINE void product(Accumulators<T, 4>& acc, const Array<const float*, T>& q,
                          const Tile& tile, std::int64_t K) {
  with_load(tile.k_dtype, [&](auto load) {
    panel_product<decltype(load), T, 4>(acc, q, tile.k, tile.k_step_bytes, K, nullptr);
  });
}

struct Columns {
  Tile centroids, variance;
  const float *bias, *stored;  // of 64 clusters
};

/// T rows of queries and heads: row r is query r / group, head g · group + r % group.
template <int T>
QUIRE_INLINE void mass_rows(const ClusterMass& a, std::int64_t g, std::int64_t row,
                            const Columns& columns, std::int64_t slot, int count) {
  const std::int64_t group = a.H / a.centroids.G, K = a.centroids.K;
  std::int64_t flat[static_cast<std::size_t>(T)];
  Array<const float*, T> q, square;
  for (int t = 0; t < T; ++t) {
    flat[t] = (row + t) / group * a.H + g * group + (row + t) % group;
    q[t] = a.q_NHK + flat[t] * K;
    square[t] = a.q_square_NHK == nullptr ? nullptr : a.q_square_NHK + flat[t] * K;
  }
  Accumulators<T, 4> acc;
  clear<T, 4>(acc);
  product<T>(acc, q, columns.centroids, K);
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < 4; ++p) {
      const int left = count - 16 * p;
      if (left <= 0) break;
      const F32 scale = mul(set1(a.scale), load(columns.stored + 16 * p));
      store_first(a.mass_NHM + flat[t] * a.M + slot + 16 * p,
                  fma(acc[t][p], scale, load(columns.bias + 16 * p)), left < 16 ? left : 16);
    }
  }
  if (a.q_square_NHK == nullptr) return;
  clear<T, 4>(acc);
  product<T>(acc, square, columns.variance, K);
  const F32 factor = set1(0.5f * a.scale * a.scale);
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < 4; ++p) {
      const int left = count - 16 * p;
      if (left <= 0) break;
      float* mass = a.mass_NHM + flat[t] * a.M + slot + 16 * p;
      const int n = left < 16 ? left : 16;
      store_first(mass, add(load_first(mass, n), min(set1(3.0f), mul(acc[t][p], factor))), n);
    }
  }
}

/// What belongs to each centroid, page by page.
QUIRE_INLINE void gather_floats(const KvView& kv, const KeySpan& span, float* stored, float* bias) {
  const std::int64_t heads = kv.bias_heads, head = heads == 1 ? 0 : span.g;
  Place at{0, kv.Z};
  for (int i = 0; i < span.count; ++i, ++at.slot) {
    if (at.slot == kv.Z) at = place_of(kv, span.b, span.g, span.slot + i);
    const std::int64_t key = at.page * kv.Z + at.slot;
    stored[i] = kv.k_scale_PZG == nullptr ? 1.0f : kv.k_scale_PZG[key * kv.G + span.g];
    if (kv.bias != nullptr) bias[i] = kv.bias[key * heads + head];
  }
}

}  // namespace

void cluster_mass_tile(const ClusterMass& args, std::int64_t g, std::int64_t tile, float* scratch) {
  const KvView& kv = args.centroids;
  const std::int64_t slot = tile * kTileKeys;
  const int count = static_cast<int>(args.M - slot < kTileKeys ? args.M - slot : kTileKeys);
  alignas(64) float bias[kTileKeys] = {}, stored[kTileKeys] = {};
  gather_floats(kv, {args.b, g, slot, count}, stored, bias);
  Columns columns{columns_of(kv, args.b, g, slot, count, scratch), {}, bias, stored};
  if (args.q_square_NHK != nullptr)
    columns.variance =
        columns_of(args.variance, args.b, g, slot, count, scratch + kTileKeys * kv.K);
  const std::int64_t rows = args.N * (args.H / kv.G);
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) mass_rows<4>(args, g, row, columns, slot, count);
  if (rows - row == 3) mass_rows<3>(args, g, row, columns, slot, count);
  if (rows - row == 2) mass_rows<2>(args, g, row, columns, slot, count);
  if (rows - row == 1) mass_rows<1>(args, g, row, columns, slot, count);
}

double row_lse(const float* row, std::int64_t n, float hot) {
  F32 highest = set1(hot);
  std::int64_t whole = 0;
  for (; whole + 16 <= n; whole += 16) highest = max(load(row + whole), highest);
  float largest = reduce_max(highest);
  for (std::int64_t i = whole; i < n; ++i) largest = row[i] > largest ? row[i] : largest;
  if (largest == -__builtin_inff()) return static_cast<double>(largest);
  F32 sums = zero();
  double sum = 0;
  const F32 base = set1(largest);
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = n - i < 16 ? static_cast<int>(n - i) : 16;
    const F32 x = keep_lanes(load_first(row + i, left), 0, left, set1(-__builtin_inff()));
    sums = add(sums, exp(sub(x, base)));
    // Few enough at a time for f32.
    if (i % 1024 == 1008) {
      sum += static_cast<double>(reduce_add(sums));
      sums = zero();
    }
  }
  sum += static_cast<double>(reduce_add(sums));
  sum += __builtin_exp(static_cast<double>(hot) - static_cast<double>(largest));
  return static_cast<double>(largest) + __builtin_log(sum);
}

void lse_of_16(const float* x, const float* mask, std::int64_t n, float* out) {
  const F32 none = set1(-__builtin_inff());
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = n - i < 16 ? static_cast<int>(n - i) : 16;
    const F32 masked = add(load_first(x + i, left), load_first(mask + i, left));
    const F32 kept = keep_lanes(masked, 0, left, none);
    const float largest = reduce_max(kept);
    if (largest == -__builtin_inff()) {
      out[i / 16] = largest;
      continue;
    }
    const float sum = reduce_add(exp(sub(kept, set1(largest))));
    out[i / 16] = largest + __builtin_logf(sum);
  }
}

void rank_row(const float* mass_M, const float* bias_M, float lse, std::int64_t M, bool largest,
              float* rank_M) {
  const F32 none = set1(-__builtin_inff()), base = set1(lse);
  for (std::int64_t m = 0; m < M; m += 16) {
    const int left = M - m < 16 ? static_cast<int>(M - m) : 16;
    const F32 bias = load_first(bias_M + m, left);
    const F32 token = sub(sub(load_first(mass_M + m, left), bias), base);
    // Without a cluster the difference is NaN.
    const F32 share = select_less(none, bias, exp(token), zero());
    const F32 so_far = load_first(rank_M + m, left);
    store_first(rank_M + m, largest ? max(so_far, share) : add(so_far, share), left);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

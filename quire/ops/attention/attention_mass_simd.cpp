// What each key received, compiled once per instruction set. Scores are those of attention(), bit
// for bit, unless queries and keys are bf16: attention() then adds in another order.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_mass_kernel.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/visible.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr std::int64_t kPart = 96;  // rows of one partial sum

/// One sequence and kv head.
struct Job {
  const AttentionMass& a;
  std::int64_t b, g, group, T;
  KeyRange keys;

  ScoreRow row_at(std::int64_t row) const {
    const std::int64_t t = row / group;
    return {b, g, g * group + row % group, t, query_position(a.spec, keys, t, T), keys};
  }
  std::int64_t flat(std::int64_t row) const {
    return (a.start_J[b] + row / group) * a.H + g * group + row % group;
  }
};

/// Sums, or takes the larger ones.
template <bool kLargest>
QUIRE_INLINE F32 fold(F32 a, F32 b) {
  if constexpr (kLargest) return max(a, b);
  return add(a, b);
}

/// Adds the weights of R rows to those of 64 keys.
template <bool kLargest, int R>
QUIRE_INLINE void add_rows(const Job& job, const Tile& tile, std::int64_t row, F32* sum) {
  Array<const float*, R> q;
  for (int r = 0; r < R; ++r) q[r] = job.a.q_NHK + job.flat(row + r) * job.a.kv.K;
  Accumulators<R, 4> acc;
  clear<R, 4>(acc);
  panel_product<LoadF32, R, 4>(acc, q, tile.k, tile.k_step_bytes, job.a.kv.K, nullptr);
  for (int r = 0; r < R; ++r) {
    const ScoreRow at = job.row_at(row + r);
    finish_scores(acc[r], job.a.spec, job.a.kv, tile, at,
                  lanes(visible(job.a.spec, job.keys, at.position), tile));
    // A row that sees nothing has lse −inf, and no weights.
    const float lse = job.a.lse_NH[job.flat(row + r)];
    const F32 base = set1(lse == kMinusInfinity ? -kMinusInfinity : lse);
    for (int p = 0; p < 4; ++p) sum[p] = fold<kLargest>(sum[p], exp(sub(acc[r][p], base)));
  }
}

/// What the 64 keys of a tile received.
template <bool kLargest>
void add_tile(const Job& job, const Tile& tile, float* mass64) {
  const std::int64_t count = job.T * job.group;
  std::int64_t row = 0;
  // Later queries see later keys: those that end before the tile are passed over, by whole parts,
  // so that the parts are the same for every tile.
  while (row + kPart <= count &&
         visible(job.a.spec, job.keys, job.row_at(row + kPart - 1).position).end <= tile.position)
    row += kPart;
  for (; row < count; row += kPart) {
    const std::int64_t end = count - row < kPart ? count : row + kPart;
    F32 sum[4] = {zero(), zero(), zero(), zero()};
    std::int64_t r = row;
    for (; r + 4 <= end; r += 4) add_rows<kLargest, 4>(job, tile, r, sum);
    for (; r < end; ++r) add_rows<kLargest, 1>(job, tile, r, sum);
    for (int p = 0; p < 4; ++p)
      store(mass64 + 16 * p, fold<kLargest>(load(mass64 + 16 * p), sum[p]));
  }
}

}  // namespace

void attention_mass_chunk(const AttentionMass& args, std::int64_t b, std::int64_t g,
                          std::int64_t chunk, float* mass256, float* scratch) {
  const KvView& kv = args.kv;
  const std::int64_t start = view_first(kv, b, g), end = start + view_length(kv, b, g);
  const Job job{args, b, g, args.H / kv.G, args.start_J[b + 1] - args.start_J[b], {start, end}};
  float* floats = scratch + kTileKeys * kv.K;
  const TileMemory memory{scratch, floats, floats + kTileKeys, floats + 2 * kTileKeys};
  __builtin_memset(mass256, 0, static_cast<std::size_t>(kChunkKeys) * sizeof(float));
  for (std::int64_t at = 0; at < kChunkKeys; at += kTileKeys) {
    Tile tile{};
    tile.position = chunk * kChunkKeys + at;
    if (start >= tile.position + kTileKeys || end <= tile.position) continue;
    tile.begin = static_cast<int>(start > tile.position ? start - tile.position : 0);
    tile.end = static_cast<int>(end - tile.position < kTileKeys ? end - tile.position : kTileKeys);
    const std::int64_t first_slot = tile.position - start;
    gather_key_floats(kv, b, g, first_slot, tile, memory);
    with_stored(kv.dtype, [&](auto load) {
      using Load = decltype(load);
      TileRows rows;
      find_rows<Load>(kv, b, g, first_slot, tile, rows);
      gather_keys<Load>(kv, first_slot, tile, rows, memory.tile);
    });
    use_keys(tile, memory.tile);
    if (args.largest)
      add_tile<true>(job, tile, mass256 + at);
    else
      add_tile<false>(job, tile, mass256 + at);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// The attention kernels, compiled once per instruction set.
//
// A row is one query with one head; the rows of a kv head's whole group share every tile of 64
// keys. A score is one chain of FMAs over the head size, an output one chain over the keys of a
// chunk, and chunks are merged in order: how many rows come together and who computes which chunk
// never changes a bit. Masked keys get the weight 0, and 0 · v adds nothing, so tiles that some
// rows see only in part need no special case as long as the values are finite; where one is not,
// `weigh_values_one_by_one` skips them.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/visible.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr int kStrip = 6;  // rows of a register tile: 6 × 4 accumulators
constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLargest = 0x1.fffffep127f;

/// One call of attention_chunk: what all tiles share.
struct Job {
  const AttentionForward& a;
  const AttentionRows& rows;
  SoftmaxState state;
  TileMemory memory;
  float* scores;   // [rows, 64]: scores, then weights
  float* rescale;  // [rows]: what the earlier output is multiplied by
  std::int64_t group, count, width;
  KeyRange keys;   // positions of the sequence's keys
  std::int64_t T;  // queries of the sequence

  std::int64_t head(std::int64_t row) const { return rows.g * group + row % group; }
  std::int64_t query(std::int64_t row) const { return rows.first + row / group; }
  const float* q(std::int64_t row) const {
    return a.q_NHK + ((a.start_J[rows.b] + query(row)) * a.H + head(row)) * a.kv.K;
  }
  std::int64_t position(std::int64_t row) const {
    return query_position(a.spec, keys, query(row), T);
  }
  KeyRange seen(std::int64_t row) const { return visible(a.spec, keys, position(row)); }
};

/// The lanes of a tile that a range of positions covers.
struct LaneRange {
  int begin, end;
};

QUIRE_INLINE LaneRange lanes(KeyRange range, const Tile& tile) {
  std::int64_t begin = range.begin - tile.position, end = range.end - tile.position;
  if (begin < tile.begin) begin = tile.begin;
  if (end > tile.end) end = tile.end;
  return begin < end ? LaneRange{static_cast<int>(begin), static_cast<int>(end)} : LaneRange{0, 0};
}

/// c · tanh(x / c); a series where 1 − 2/(e^2y + 1) would cancel.
QUIRE_INLINE F32 softcap(F32 x, float c) {
  const F32 y = div(x, set1(c));
  const F32 y2 = mul(y, y);
  F32 series = fma(y2, set1(-17.0f / 315.0f), set1(2.0f / 15.0f));
  series = fma(series, y2, set1(-1.0f / 3.0f));
  series = fma(mul(series, y2), y, y);
  const F32 wide = sub(set1(1.0f), div(set1(2.0f), add(exp(add(y, y)), set1(1.0f))));
  return mul(set1(c), select_less(abs(y), set1(0.15f), series, wide));
}

template <class Load, int R>
void score_strip(const Job& job, const Tile& tile, std::int64_t row) {
  Array<const float*, R> q;
  for (int r = 0; r < R; ++r) q[r] = job.q(row + r);
  Accumulators<R, 4> acc;
  clear<R, 4>(acc);
  panel_product<Load, R, 4>(acc, q, tile.k, tile.k_block_bytes, tile.k_step_bytes, 0, job.a.kv.K,
                            tile.borrowed ? 4 * tile.k_block_bytes : 0);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < 4; ++p) store(job.scores + (row + r) * kTileKeys + 16 * p, acc[r][p]);
}

/// Adds a bias to a score; one of −inf masks the key, whatever the score is.
QUIRE_INLINE void add_bias(float& score, float bias) {
  score = bias == kMinusInfinity ? kMinusInfinity : score + bias;
}

/// Raw products to scores: scale, cap, slope, bias, mask; −inf where the row sees nothing.
void finish_scores(const Job& job, const Tile& tile, std::int64_t row, LaneRange seen) {
  const AttentionSpec& spec = job.a.spec;
  const KvView& kv = job.a.kv;
  float* s = job.scores + row * kTileKeys;
  const F32 scale = set1(static_cast<float>(spec.scale));
  for (int p = 0; p < 4; ++p) {
    F32 x = load(s + 16 * p);
    if (tile.k_scale != nullptr) x = mul(x, load(tile.k_scale + 16 * p));
    x = mul(x, scale);
    if (spec.softcap > 0) x = softcap(x, static_cast<float>(spec.softcap));
    if (tile.bias != nullptr) {
      // A bias of −inf masks its key, whatever the key holds.
      const F32 bias = load(tile.bias + 16 * p);
      x = select_less(bias, set1(-kLargest), set1(kMinusInfinity), add(x, bias));
    }
    const int begin = seen.begin - 16 * p, end = seen.end - 16 * p;
    x = keep_lanes(x,
                   begin < 0    ? 0
                   : begin > 16 ? 16
                                : begin,
                   end < 0    ? 0
                   : end > 16 ? 16
                              : end,
                   set1(kMinusInfinity));
    store(s + 16 * p, x);
  }
  const bool per_head = kv.bias != nullptr && kv.bias_heads > kv.G;
  if (spec.slope_H == nullptr && spec.mask_TS == nullptr && !per_head) return;
  const std::int64_t h = job.head(row), position = job.position(row);
  for (int lane = seen.begin; lane < seen.end; ++lane) {
    const std::int64_t key = tile.position + lane;
    if (spec.slope_H != nullptr) s[lane] += spec.slope_H[h] * static_cast<float>(key - position);
    if (per_head) {
      const Place at = place_of(kv, job.rows.b, job.rows.g, key - job.keys.begin);
      add_bias(s[lane], kv.bias[(at.page * kv.Z + at.slot) * kv.bias_heads + h]);
    }
    if (spec.mask_TS != nullptr) {
      add_bias(s[lane], spec.mask_TS[job.query(row) * spec.mask_stride + key - job.keys.begin]);
    }
  }
}

/// Scores to weights e^(s − max), the running maximum and sum, and the factor for what was summed
/// before.
void weights(const Job& job, const Tile& tile, std::int64_t row) {
  float* s = job.scores + row * kTileKeys;
  const F32 x[4] = {load(s), load(s + 16), load(s + 32), load(s + 48)};
  const float here = reduce_max(max(max(x[0], x[1]), max(x[2], x[3])));
  float& largest = job.state.max_R[row];
  job.rescale[row] = 1.0f;
  if (here > largest) {
    float factor[16];
    store(factor, exp(set1(largest - here)));
    job.rescale[row] = factor[0];
    largest = here;
  }
  // While nothing was seen every score is −inf, and −inf − 0 weighs nothing. (A NaN stays a NaN.)
  const F32 base = set1(largest == kMinusInfinity ? 0.0f : largest);
  F32 w[4], sum = zero();
  for (int p = 0; p < 4; ++p) {
    w[p] = exp(sub(x[p], base));
    sum = add(sum, w[p]);
    if (tile.v_scale != nullptr) {
      // Only where there is weight: the scale of a masked key may be anything.
      w[p] = select_less(zero(), w[p], mul(w[p], load(tile.v_scale + 16 * p)), w[p]);
    }
    store(s + 16 * p, w[p]);
  }
  job.state.sum_R[row] = job.state.sum_R[row] * job.rescale[row] + reduce_add(sum);
}

template <class Load, int R, int P>
void weigh_columns(const Job& job, const Tile& tile, std::int64_t row, LaneRange range,
                   std::int64_t u) {
  Array<const float*, R> w;
  Accumulators<R, P> acc;
  for (int r = 0; r < R; ++r) {
    w[r] = job.scores + (row + r) * kTileKeys;
    const float* out = job.state.out_RU + (row + r) * job.width + u;
    const F32 factor = set1(job.rescale[row + r]);
    for (int p = 0; p < P; ++p) acc[r][p] = mul(load(out + 16 * p), factor);
  }
  panel_product<Load, R, P>(acc, w, tile.v + u * Load::kBytes, 16 * Load::kBytes, tile.v_step_bytes,
                            range.begin, range.end,
                            tile.borrowed ? kTileKeys * tile.v_step_bytes : 0);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p)
      store(job.state.out_RU + (row + r) * job.width + u + 16 * p, acc[r][p]);
}

template <class Load, int R>
void weigh_strip(const Job& job, const Tile& tile, std::int64_t row, LaneRange range) {
  std::int64_t u = 0;
  for (; u + 64 <= job.width; u += 64) weigh_columns<Load, R, 4>(job, tile, row, range, u);
  for (; u < job.width; u += 16) weigh_columns<Load, R, 1>(job, tile, row, range, u);
}

/// The same sums for a row whose tile holds values that are not finite. Where a bias or a mask may
/// have masked keys, those of weight 0 are passed over.
template <class Load>
void weigh_values_one_by_one(const Job& job, const Tile& tile, std::int64_t row, LaneRange range,
                             bool masked) {
  const float* w = job.scores + row * kTileKeys;
  for (std::int64_t u = 0; u < job.width; u += 16) {
    float* out = job.state.out_RU + row * job.width + u;
    F32 acc = mul(load(out), set1(job.rescale[row]));
    for (int lane = range.begin; lane < range.end; ++lane) {
      if (masked && w[lane] == 0.0f) continue;
      acc = fma(Load::at(tile.v + u * Load::kBytes + lane * tile.v_step_bytes), set1(w[lane]), acc);
    }
    store(out, acc);
  }
}

/// Calls f with R rows at a time as a constant, from `row` to job.count.
template <class F>
QUIRE_INLINE void strips(std::int64_t row, std::int64_t count, F&& f) {
  for (; row + kStrip <= count; row += kStrip) f(row, Constant<kStrip>{});
  if (row + 3 <= count) {
    f(row, Constant<3>{});
    row += 3;
  }
  for (; row < count; ++row) f(row, Constant<1>{});
}

/// Scores and weights of all rows while the keys are near, then the weighted sums while the values
/// are.
template <class Load>
void process_tile(const Job& job, const Tile& tile, std::int64_t from_row) {
  strips(from_row, job.count, [&](std::int64_t row, auto rows) {
    constexpr int R = decltype(rows)::kValue;
    score_strip<Load, R>(job, tile, row);
    for (int r = 0; r < R; ++r) {
      finish_scores(job, tile, row + r, lanes(job.seen(row + r), tile));
      weights(job, tile, row + r);
    }
  });
  strips(from_row, job.count, [&](std::int64_t row, auto rows) {
    constexpr int R = decltype(rows)::kValue;
    // Rows of one strip are neighbours: together they see from the first begin to the last end.
    const LaneRange first = lanes(job.seen(row), tile), last = lanes(job.seen(row + R - 1), tile);
    // (Both may see nothing of the tile, one before it and one after it, and a row between them
    // does.)
    const bool same = first.begin == last.begin && first.end == last.end && first.begin < first.end;
    const bool masked = job.a.spec.mask_TS != nullptr || job.a.kv.bias != nullptr;
    if (same && (tile.finite || !masked)) {
      weigh_strip<Load, R>(job, tile, row, first);
    } else if (tile.finite) {
      weigh_strip<Load, R>(job, tile, row, {tile.begin, last.end > 0 ? last.end : tile.end});
    } else {
      for (int r = 0; r < R; ++r)
        weigh_values_one_by_one<Load>(job, tile, row + r, lanes(job.seen(row + r), tile), masked);
    }
  });
}

/// The first row that sees anything at or after position `begin`, in steps of one query; rows that
/// end earlier need not be computed.
std::int64_t first_row(const Job& job, std::int64_t begin) {
  std::int64_t row = 0;
  while (row < job.count && job.seen(row).end <= begin) row += job.group;
  return row;
}

}  // namespace

bool attention_chunk(const AttentionForward& args, const AttentionRows& rows, std::int64_t chunk,
                     const SoftmaxState& state, float* scratch) {
  const KvView& kv = args.kv;
  const std::int64_t group = args.H / kv.G, count = (rows.last - rows.first) * group,
                     width = (kv.U + 15) / 16 * 16;
  const std::int64_t start = view_first(kv, rows.b, rows.g),
                     length = view_length(kv, rows.b, rows.g);
  float* at = scratch;
  const auto take = [&](std::int64_t n) {
    float* out = at;
    at += n;
    return out;
  };
  const TileMemory memory{take(kTileKeys * kv.K), take(kTileKeys * width), take(kTileKeys),
                          take(kTileKeys), take(kTileKeys)};
  float* scores = take(kTileKeys * count);
  Job job{args,
          rows,
          state,
          memory,
          scores,
          take(count),
          group,
          count,
          width,
          {start, start + length},
          args.start_J[rows.b + 1] - args.start_J[rows.b]};

  for (std::int64_t r = 0; r < count; ++r) {
    state.max_R[r] = kMinusInfinity;
    state.sum_R[r] = 0;
  }
  __builtin_memset(state.out_RU, 0, static_cast<std::size_t>(count * width) * sizeof(float));

  // Later queries see later keys, at both ends of their range.
  const KeyRange first = job.seen(0), last = job.seen(count - 1);
  bool any = false;
  for (std::int64_t position = chunk * kChunkKeys; position < (chunk + 1) * kChunkKeys;
       position += kTileKeys) {
    const std::int64_t begin = first.begin > position ? first.begin : position;
    const std::int64_t end = last.end < position + kTileKeys ? last.end : position + kTileKeys;
    if (begin >= end) continue;
    any = true;
    Tile tile{};
    tile.position = position;
    tile.begin = static_cast<int>((start > position ? start : position) - position);
    tile.end = static_cast<int>(end - position);
    const std::int64_t first_slot = position - start;
    gather_key_floats(kv, rows.b, rows.g, first_slot, tile, memory);
    const bool borrowed =
        rows.last - rows.first == 1 && borrow(kv, rows.b, rows.g, first_slot, tile);
    if (!borrowed) {
      with_load(kv.dtype, [&](auto load) {
        gather<decltype(load)>(kv, rows.b, rows.g, first_slot, tile, memory, width);
      });
    }
    const std::int64_t from_row = first_row(job, position);
    with_load(tile.dtype, [&](auto load) { process_tile<decltype(load)>(job, tile, from_row); });
  }
  return any;
}

void merge_states(const SoftmaxState& into, const SoftmaxState& later, std::int64_t rows,
                  std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float old = into.max_R[r], add_max = later.max_R[r];
    if (later.sum_R[r] == 0.0f) continue;  // the row saw nothing there
    const float largest = old > add_max ? old : add_max;
    float factors[16];
    alignas(64) float differences[16] = {old - largest, add_max - largest};
    store(factors, exp(load(differences)));
    const F32 a = set1(factors[0]), b = set1(factors[1]);
    into.max_R[r] = largest;
    into.sum_R[r] = into.sum_R[r] * factors[0] + later.sum_R[r] * factors[1];
    for (std::int64_t u = 0; u < width; u += 16) {
      float* out = into.out_RU + r * width + u;
      store(out, fma(load(later.out_RU + r * width + u), b, mul(load(out), a)));
    }
  }
}

void finish_row(const float* state_U, float sum, std::int64_t U, float* out) {
  const bool empty = sum == 0.0f;
  for (std::int64_t u = 0; u < U; u += 16) {
    const int n = U - u < 16 ? static_cast<int>(U - u) : 16;
    store_first(out + u, empty ? zero() : div(load(state_U + u), set1(sum)), n);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

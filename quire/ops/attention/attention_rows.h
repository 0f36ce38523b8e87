#pragma once

// The scores, weights and weighted sums of some rows over one tile of keys and values.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_job.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/attention_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {

template <int R>
QUIRE_INLINE void store_scores(const Job& job, std::int64_t row, const Accumulators<R, 4>& acc) {
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) store(job.scores + (row + r) * kTileKeys + 16 * p, acc[r][p]);
}

/// Scores of R rows, and the highest of each row's in each of 16 lanes.
template <class Form, int R>
QUIRE_INLINE void score_strip(const Job& job, const Tile& tile, const Sight& sight,
                              std::int64_t row, Array<F32, R>& highest) {
  Array<const float*, R> q;
  for (int r = 0; r < R; ++r) q[r] = job.q(row + r);
  Accumulators<R, 4> acc;
  clear<R, 4>(acc);
  if (tile.k_next[0] != nullptr) {
    Form::template keys<R, 4>(acc, q, tile.k, tile.k_step_bytes, job.a.kv.K, tile.k_next);
  } else {
    Form::template keys<R, 4>(acc, q, tile.k, tile.k_step_bytes, job.a.kv.K, nullptr);
  }
  if (job.plain && (sight.whole || sight.sees_all(row, row + R - 1))) {
    const F32 scale = set1(static_cast<float>(job.a.spec.scale));
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) acc[r][p] = mul(acc[r][p], scale);
      highest[r] = max(max(acc[r][0], acc[r][1]), max(acc[r][2], acc[r][3]));
    }
    store_scores<R>(job, row, acc);
    return;
  }
  store_scores<R>(job, row, acc);
  for (int r = 0; r < R; ++r) {
    float* s = job.scores + (row + r) * kTileKeys;
    F32 x[4] = {load(s), load(s + 16), load(s + 32), load(s + 48)};
    const ScoreRow at = job.row_at(row + r);
    finish_scores(x, job.a.spec, job.a.kv, tile, at,
                  lanes(visible(job.a.spec, job.keys, at.position), tile));
    for (int p = 0; p < 4; ++p) store(s + 16 * p, x[p]);
    highest[r] = max(max(x[0], x[1]), max(x[2], x[3]));
  }
}

/// The running maximum of each row, and the factor for what was summed before.
template <int R>
QUIRE_INLINE void raise_maxima(const Job& job, std::int64_t row, const Array<F32, R>& highest) {
  alignas(64) float here[16] = {};
  for (int r = 0; r < R; ++r) here[r] = reduce_max(highest[r]);
  const F32 now = load(here), old = load_first(job.state.max_R + row, R);
  store_first(job.state.max_R + row, select_less(old, now, now, old), R);
  store_first(job.rescale + row, select_less(old, now, exp(sub(old, now)), set1(1.0f)), R);
}

/// Four vectors of weights, as the values want them.
template <Weights kKind>
QUIRE_INLINE void store_weights(float* to, const F32* w) {
  if constexpr (kKind == Weights::kPairs) {
    store_pairs(to, round_pairs(w[0], w[1]));
    store_pairs(to + 16, round_pairs(w[2], w[3]));
  } else if constexpr (kKind == Weights::kRounded) {
    alignas(64) std::byte narrow[32];
    for (int p = 0; p < 4; ++p) {
      store_bf16(narrow, w[p]);
      store(to + 16 * p, load_bf16(narrow));
    }
  } else {
    for (int p = 0; p < 4; ++p) store(to + 16 * p, w[p]);
  }
}

/// Scores less `largest` to weights e^x, and their sum in each of 16 lanes.
template <Weights kKind>
QUIRE_INLINE F32 weigh_row(float* scores, float largest, const Tile& tile) {
  const F32 base = set1(largest);
  F32 w[4], sum = zero();
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
    const F32 x = sub(load(scores + 16 * p), base);
    w[p] = kKind == Weights::kAsTheyAre ? exp(x) : exp_to_round(x);
    sum = add(sum, w[p]);
    if (tile.v_scale != nullptr) {
      // Only where there is weight: the scale of a masked key may be anything.
      w[p] = select_less(zero(), w[p], mul(w[p], load(tile.v_scale + 16 * p)), w[p]);
    }
  }
  store_weights<kKind>(scores, w);
  return sum;
}

/// Scores to weights e^(s − max) and their running sum.
template <Weights kKind, int R>
QUIRE_INLINE void weigh(const Job& job, const Tile& tile, std::int64_t row) {
  Array<F32, R> sums;
  for (int r = 0; r < R; ++r) {
    const float largest = job.state.max_R[row + r];
    // While nothing was seen every score is −inf, and −inf − 0 weighs nothing. (A NaN stays one.)
    sums[r] = weigh_row<kKind>(job.scores + (row + r) * kTileKeys,
                               largest == kMinusInfinity ? 0.0f : largest, tile);
  }
  for (int r = 0; r < R; ++r) {
    float& sum = job.state.sum_R[row + r];
    sum = sum * job.rescale[row + r] + reduce_add(sums[r]);
  }
}

/// Adds the tile's values of columns [u, u + 16·P) to the outputs of R rows.
template <class Form, int R, int P>
static void weigh_columns(const Job& job, const Tile& tile, std::int64_t row, LaneRange range,
                          std::int64_t u) {
  Array<const float*, R> w;
  Accumulators<R, P> acc;
  for (int r = 0; r < R; ++r) {
    w[r] = job.scores + (row + r) * kTileKeys;
    const float* out = job.state.out_RU + (row + r) * job.width + u;
    const F32 factor = set1(job.rescale[row + r]);
    for (int p = 0; p < P; ++p) acc[r][p] = mul(load(out + 16 * p), factor);
  }
  const std::int64_t step = tile.v_step_bytes,
                     column = u / 64 * tile.v_block_bytes + u % 64 * Form::kColumnBytes;
  for (int lane = range.begin; lane < range.end;) {
    const int run = lane / 16,
              stop = tile.v_joined || range.end < 16 * run + 16 ? range.end : 16 * run + 16;
    const std::byte* v = tile.v[run] - Form::row_offset(16 * run, step) + column;
    if (tile.v_next[0] != nullptr) {
      Form::template values<R, P>(acc, w, v, step, lane, stop, tile.v_next[run] - tile.v[run]);
    } else {
      Form::template values<R, P>(acc, w, v, step, lane, stop, 0);
    }
    lane = stop;
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p)
      store(job.state.out_RU + (row + r) * job.width + u + 16 * p, acc[r][p]);
}

/// acc and the sum of a row over values of which some are not finite, in columns [u, u + 16). Where
/// a bias or a mask may have masked keys, those of weight 0 are passed over.
template <class Form>
static F32 add_one_by_one(F32 acc, const float* w, const Tile& tile, LaneRange range, bool masked,
                          std::int64_t u) {
  const std::int64_t step = tile.v_step_bytes,
                     column = u / 64 * tile.v_block_bytes + u % 64 * Form::kColumnBytes;
  for (int i = range.begin / 2 * 2; i < (range.end + 1) / 2 * 2; ++i) {
    const int lane = i ^ Form::kFirst;
    if (lane < range.begin || lane >= range.end) continue;
    if (masked && Form::weight(w, lane) == 0.0f) continue;
    const std::byte* v = tile.v[lane / 16] - Form::row_offset(lane / 16 * 16, step) + column;
    acc = Form::one(acc, w, v, step, lane);
  }
  return acc;
}

/// Scores and weights of all rows while the keys are near.
template <class Form>
static void score_tile(const Job& job, const Tile& tile, std::int64_t from_row, Ahead& keys,
                       Ahead& values) {
  const Sight sight(job, tile, from_row);
  strips(from_row, job.count, [&](std::int64_t row, auto rows) {
    constexpr int R = decltype(rows)::kValue;
    Array<F32, R> highest;
    score_strip<Form, R>(job, tile, sight, row, highest);
    raise_maxima<R>(job, row, highest);
    weigh<Form::kWeights, R>(job, tile, row);
    keys.fetch();
    values.fetch();
  });
}

constexpr LaneRange kOneByOne{0, -1};

/// The lanes of a tile whose values are added to `rows` rows from `row` on, weights of 0 included;
/// kOneByOne where some of those must not meet values that are not finite. `whole`: the rows see
/// all of the tile.
QUIRE_INLINE LaneRange lanes_added(const Job& job, const Tile& tile, bool whole, std::int64_t row,
                                   int rows) {
  const bool may_add = tile.finite || !may_mask(job.a);
  if (whole) return may_add ? LaneRange{0, kTileKeys} : kOneByOne;
  // Rows of one strip are neighbours: together they see from the first begin to the last end.
  const LaneRange first = lanes(job.seen(row), tile), last = lanes(job.seen(row + rows - 1), tile);
  // (Both may see nothing of the tile, one before it and one after it, and a row between them
  // does.)
  const bool same = first.begin == last.begin && first.end == last.end && first.begin < first.end;
  if (same && may_add) return first;
  return tile.finite ? LaneRange{tile.begin, last.end > 0 ? last.end : tile.end} : kOneByOne;
}

/// Adds the values' columns from u on to the sums of R rows.
template <class Form, int R, int P>
QUIRE_INLINE void weigh_strip(const Job& job, const Tile& tile, const Sight& sight,
                              std::int64_t row, std::int64_t u) {
  const LaneRange range = lanes_added(job, tile, sight.whole, row, R);
  if (range.end >= 0) return weigh_columns<Form, R, P>(job, tile, row, range, u);
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      float* out = job.state.out_RU + (row + r) * job.width + u + 16 * p;
      const F32 acc = mul(load(out), set1(job.rescale[row + r]));
      store(out, add_one_by_one<Form>(acc, job.scores + (row + r) * kTileKeys, tile,
                                      sight.of(row + r), may_mask(job.a), u + 16 * p));
    }
  }
}

/// The weighted sums of all rows while the values are near.
template <class Form>
static void weigh_tile(const Job& job, const Tile& tile, std::int64_t from_row) {
  const Sight sight(job, tile, from_row);
  const auto columns = [&](std::int64_t u, auto vectors) {
    strips(from_row, job.count, [&](std::int64_t row, auto rows) {
      constexpr int R = decltype(rows)::kValue, P = decltype(vectors)::kValue;
      weigh_strip<Form, R, P>(job, tile, sight, row, u);
    });
  };
  std::int64_t u = 0;
  for (; u + 64 <= job.width; u += 64) columns(u, Constant<4>{});
  for (; u + 32 <= job.width; u += 32) columns(u, Constant<2>{});
  for (; u < job.width; u += 16) columns(u, Constant<1>{});
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// A chunk of keys for many rows, in the bits of attention_heads() and merge_states(): the same
// chains, but each step is taken for all rows before the next one begins. So a tile is found once
// for all of them, neither a maximum nor a sum across lanes keeps the products waiting, and the
// sums of the values stay in registers for the whole chunk and are merged from there.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_job.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_rows.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/attention_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr int kTiles = kChunkKeys / kTileKeys;

// Columns of values that are gathered, and summed over the chunk, at a time.
constexpr std::int64_t kColumns = 64;

/// 64 positions of the chunk.
struct Part {
  Tile tile;  // no lanes: no row sees any
  TileRows rows;
  std::int64_t from_row;  // rows before it see nothing of it
  bool whole;             // and the others all of it
  bool lies_in_rows;      // its values are read in the cache
};

struct Work {
  const AttentionChunk& of;
  Job job;                // of the first tile
  std::int64_t sixteens;  // rows, whole sixteens of them and one more
  float* values;          // of each tile [64, 64]
  float* sixteen;         // [rows, 16]: highest scores, then sums of weights, lane by lane
  float* base;            // [rows]: what is taken off the scores
  float *old_factors, *new_factors;  // [rows]: what is merged is multiplied by
  Part parts[kTiles];

  Job job_of(int tile) const {
    Job out = job;
    out.scores += tile * kTileKeys * job.count;
    out.rescale += tile * sixteens;
    return out;
  }
};

/// The 16 numbers of each of 16 rows as one, in the tree of reduce_add() and reduce_max().
template <class Op>
QUIRE_INLINE F32 reduce_rows(const float* rows, Op op) {
  F32 x[16];
  for (int i = 0; i < 16; ++i) x[i] = load(rows + 16 * i);
  transpose(x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = op(x[i], x[i + half]);
  return x[0];
}

/// The running maxima of up to 16 rows, the factors for what was summed before, and what is taken
/// off the scores.
QUIRE_INLINE void raise_sixteen(const Work& work, const Job& job, std::int64_t row, int n) {
  const F32 now = reduce_rows(work.sixteen + 16 * row, [](F32 a, F32 b) { return max(a, b); });
  const F32 old = load_first(job.state.max_R + row, n);
  const F32 largest = select_less(old, now, now, old);
  store_first(job.state.max_R + row, largest, n);
  store_first(job.rescale + row, select_less(old, now, exp(sub(old, now)), set1(1.0f)), n);
  // While nothing was seen every score is −inf, and −inf − 0 weighs nothing. (A NaN stays one.)
  store_first(work.base + row, select_less(largest, set1(-kLargest), zero(), largest), n);
}

/// Scores to weights e^(s − max) and their running sums, of up to 16 rows.
template <Weights kKind>
QUIRE_INLINE void weigh_sixteen(const Work& work, const Job& job, const Tile& tile,
                                std::int64_t row, int n) {
  raise_sixteen(work, job, row, n);
  for (std::int64_t r = row; r < row + n; ++r)
    store(work.sixteen + 16 * r, weigh_row<kKind>(job.scores + r * kTileKeys, work.base[r], tile));
  const F32 here = reduce_rows(work.sixteen + 16 * row, [](F32 a, F32 b) { return add(a, b); });
  float* sum_R = job.state.sum_R + row;
  const F32 before = mul(load_first(sum_R, n), load_first(job.rescale + row, n));
  store_first(sum_R, add(before, here), n);
}

/// Scores and weights of all rows over one tile.
template <class Form>
void score_part(const Work& work, const Job& job, Part& part, Ahead& keys, Ahead& values) {
  const Sight sight(job, part.tile, part.from_row);
  part.whole = sight.whole;
  strips(part.from_row, job.count, [&](std::int64_t row, auto rows) {
    constexpr int R = decltype(rows)::kValue;
    Array<F32, R> highest;
    score_strip<Form, R>(job, part.tile, sight, row, highest);
    for (int r = 0; r < R; ++r) store(work.sixteen + 16 * (row + r), highest[r]);
    keys.fetch();
    values.fetch();
  });
  for (std::int64_t row = part.from_row; row < job.count; row += 16) {
    const std::int64_t left = job.count - row;
    weigh_sixteen<Form::kWeights>(work, job, part.tile, row,
                                  left < 16 ? static_cast<int>(left) : 16);
  }
}

/// acc · factor of each row, where one is not 1.
template <int R, int P>
QUIRE_INLINE void rescale(Accumulators<R, P>& acc, const float* factors) {
  bool raised = false;
  for (int r = 0; r < R; ++r) raised |= factors[r] != 1.0f;
  if (!raised) return;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const F32 factor = set1(factors[r]);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) acc[r][p] = mul(acc[r][p], factor);
  }
}

/// Stores or merges the chunk's weighted sums: 16 columns of a row.
QUIRE_INLINE void put(const Work& work, std::int64_t row, std::int64_t column, F32 sum) {
  float* out = work.of.into.out_RU + row * work.job.width + column;
  if (work.of.fresh) return store(out, sum);
  store(out, fma(sum, set1(work.new_factors[row]), mul(load(out), set1(work.old_factors[row]))));
}

/// What weigh_rows() computes, of one row and 16 columns, where values are not finite.
template <class Form>
[[gnu::noinline]] void weigh_one_by_one(const Work& work, std::int64_t row, std::int64_t u,
                                        std::int64_t to) {
  const Job& job = work.job;
  F32 acc = zero();
  for (int t = 0; t < kTiles; ++t) {
    const Part& part = work.parts[t];
    if (part.tile.end == 0 || row < part.from_row) continue;
    acc = mul(acc, set1(job.rescale[t * work.sixteens + row]));
    acc = add_one_by_one<Form>(acc, job.scores + (t * job.count + row) * kTileKeys, part.tile,
                               lanes(job.seen(row), part.tile), may_mask(job.a), u);
  }
  put(work, row, to, acc);
}

/// Of R rows: the values of the chunk, P vectors from the u-th of the gathered columns on, weighted
/// and summed, into the state's columns from `to` on.
template <class Form, int R, int P>
QUIRE_INLINE void weigh_rows(const Work& work, std::int64_t row, std::int64_t u, std::int64_t to) {
  const Job& job = work.job;
  LaneRange ranges[kTiles];
  for (int t = 0; t < kTiles; ++t) {
    const Part& part = work.parts[t];
    ranges[t] = {0, 0};
    if (part.tile.end == 0 || row < part.from_row) continue;
    ranges[t] = lanes_added(job, part.tile, part.whole, row, R);
    if (ranges[t].end >= 0) continue;
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) weigh_one_by_one<Form>(work, row + r, u + 16 * p, to + 16 * p);
    return;
  }
  Accumulators<R, P> acc;
  clear<R, P>(acc);
  for (int t = 0; t < kTiles; ++t) {
    if (ranges[t].end == 0) continue;
    const Tile& tile = work.parts[t].tile;
    rescale<R, P>(acc, job.rescale + t * work.sixteens + row);
    Array<const float*, R> w;
    for (int r = 0; r < R; ++r) w[r] = job.scores + (t * job.count + row + r) * kTileKeys;
    const std::byte* v = tile.v[0] + u * Form::kColumnBytes;
    Form::template values<R, P>(acc, w, v, tile.v_step_bytes, ranges[t].begin, ranges[t].end, 0);
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) put(work, row + r, to + 16 * p, acc[r][p]);
}

/// The columns that were gathered, of all rows.
template <class Form>
void sum_columns(const Work& work, std::int64_t begin, std::int64_t end, Ahead& ahead) {
  const auto columns = [&](std::int64_t u, auto vectors) {
    strips(0, work.job.count, [&](std::int64_t row, auto rows) {
      constexpr int R = decltype(rows)::kValue, P = decltype(vectors)::kValue;
      weigh_rows<Form, R, P>(work, row, u - begin, u);
      ahead.fetch();
    });
  };
  std::int64_t u = begin;
  for (; u + 64 <= end; u += 64) columns(u, Constant<4>{});
  for (; u + 32 <= end; u += 32) columns(u, Constant<2>{});
  for (; u < end; u += 16) columns(u, Constant<1>{});
}

/// Finds the chunk's tiles. False when no row sees any key.
bool find_parts(Work& work) {
  const Job& job = work.job;
  bool any = false;
  for (int t = 0; t < kTiles; ++t) {
    Part& part = work.parts[t];
    part.tile = open_tile(job, work.of.chunk * kChunkKeys + t * kTileKeys);
    if (part.tile.end == 0) continue;
    part.from_row = first_row(job, part.tile.position);
    find_tile(job, part.tile, part.rows);
    any = true;
  }
  return any;
}

/// The first keys that come after this chunk.
void look_ahead(const Work& work, Ahead& ahead) {
  if (work.of.next_g < 0) return;
  AttentionRows rows = work.of.rows;
  rows.g = work.of.next_g;
  const Job job = open_job(work.of.args, rows);
  const Tile tile = open_tile(job, work.of.next_chunk * kChunkKeys);
  if (tile.end == 0) return;
  TileRows found;
  find_tile(job, tile, found);
  add_keys(ahead, job.a.kv, tile.position - job.keys.begin, tile, found);
}

/// Scores, weights, and the chunk's maxima and sums.
void score_parts(Work& work) {
  const Job& job = work.job;
  const KvView& kv = job.a.kv;
  for (std::int64_t r = 0; r < job.count; ++r) {
    job.state.max_R[r] = kMinusInfinity;
    job.state.sum_R[r] = 0;
  }
  for (int t = 0; t < kTiles; ++t) {
    Part& part = work.parts[t];
    Tile& tile = part.tile;
    if (tile.end == 0) continue;
    const std::int64_t first_slot = tile.position - job.keys.begin;
    gather_key_floats(kv, job.rows.b, job.rows.g, first_slot, tile, job.memory);
    const bool borrowed =
        kv.dtype == DType::kF32 && borrow(kv, job.rows.b, job.rows.g, first_slot, {}, tile);
    if (!borrowed) fill_keys(job, tile, part.rows);
    Ahead keys, values;
    const std::int64_t calls = (job.count - part.from_row) / kStrip + 1;
    if (t + 1 < kTiles && work.parts[t + 1].tile.end > 0)
      add_keys(keys, kv, first_slot + kTileKeys, work.parts[t + 1].tile, work.parts[t + 1].rows);
    add_values(values, kv, 0, kv.U < kColumns ? kv.U : kColumns, tile, part.rows);
    keys.spread(calls);
    values.spread(calls);
    const Job of_tile = work.job_of(t);
    with_form(job.a.products, DType::kF32,
              [&](auto form) { score_part<decltype(form)>(work, of_tile, part, keys, values); });
  }
}

/// Whether a tile's values may be read where they lie: floats, row by row, all of them seen by all
/// rows, so that it does not matter whether they are finite.
bool has_rows_of_values(const Job& job, const Part& part) {
  const KvView& kv = job.a.kv;
  if (kv.dtype != DType::kF32 || kv.U % 16 != 0 || !part.whole || may_mask(job.a)) return false;
  for (int lane = 1; lane < kTileKeys; ++lane)
    if (part.rows.v[lane] != part.rows.v[0] + 4 * kv.v_strides.slot * lane) return false;
  return true;
}

/// Points the tile at columns of its values in the cache, from u on.
void borrow_values(const Job& job, Part& part, std::int64_t u) {
  part.tile.v_step_bytes = 4 * job.a.kv.v_strides.slot;
  for (int p = 0; p < 4; ++p) part.tile.v[p] = part.rows.v[16 * p] + 4 * u;
  part.tile.finite = false;
}

void sum_values(Work& work) {
  const Job& job = work.job;
  const KvView& kv = job.a.kv;
  for (std::int64_t u = 0; u < job.width; u += kColumns) {
    const std::int64_t end = u + kColumns < job.width ? u + kColumns : job.width;
    Ahead ahead;
    for (int t = 0; t < kTiles; ++t) {
      Part& part = work.parts[t];
      if (part.tile.end == 0) continue;
      if (u == 0) part.lies_in_rows = has_rows_of_values(job, part);
      if (part.lies_in_rows)
        borrow_values(job, part, u);
      else
        fill_values(job, part.tile, part.rows, u, end, work.values + t * kTileKeys * kColumns);
      if (end < kv.U)
        add_values(ahead, kv, end, end + kColumns < kv.U ? end + kColumns : kv.U, part.tile,
                   part.rows);
    }
    if (end >= kv.U) look_ahead(work, ahead);
    ahead.spread(job.count / kStrip + 1);
    with_form(job.a.products, DType::kF32,
              [&](auto form) { sum_columns<decltype(form)>(work, u, end, ahead); });
  }
}

/// Merges the chunk's maxima and sums into the state; the factors for the values are found there.
void merge_sums(const Work& work) {
  const SoftmaxState &into = work.of.into, &part = work.job.state;
  for (std::int64_t r = 0; r < work.job.count; r += 16) {
    const std::int64_t left = work.job.count - r;
    const int n = left < 16 ? static_cast<int>(left) : 16;
    if (work.of.fresh) {
      store_first(into.max_R + r, load_first(part.max_R + r, n), n);
      store_first(into.sum_R + r, load_first(part.sum_R + r, n), n);
    } else {
      merge_sums16(into, part, r, n, work.old_factors + r, work.new_factors + r);
    }
  }
}

}  // namespace

void attention_chunk(const AttentionChunk& args) {
  Job job = open_job(args.args, args.rows);
  const std::int64_t sixteens = job.count / 16 * 16 + 32;
  Scratch take(args.scratch);
  job.memory = {take(kTileKeys * job.a.kv.K), take(kTileKeys), take(kTileKeys), take(kTileKeys)};
  job.scores = take(kTiles * kTileKeys * job.count);
  job.rescale = take(kTiles * sixteens);
  job.state = {take(sixteens), take(sixteens), nullptr};
  Work work{args,
            job,
            sixteens,
            take(kTiles * kTileKeys * kColumns),
            take(16 * sixteens),
            take(sixteens),
            take(sixteens),
            take(sixteens),
            {}};
  if (!find_parts(work) && !args.fresh) return;
  score_parts(work);
  merge_sums(work);
  sum_values(work);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

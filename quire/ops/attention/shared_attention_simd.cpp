// A chunk of keys for many rows that all see it whole, in the bits of attention_chunk(): the same
// chains, but each step is taken for all rows before the next one begins. So a tile is made once
// for all of them, neither a maximum nor a sum across lanes keeps the products waiting, and the
// sums of the values stay in registers for the whole chunk.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_rows.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/shared_attention_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

/// Queries, keys, weights and values as floats.
struct FloatForm {
  using Column = F32;
  static constexpr std::int64_t kTogether = 1;  // numbers in 32 bits
  static constexpr Weights kWeights = Weights::kAsTheyAre;
  QUIRE_INLINE F32 column(const float* p) { return load(p); }
  QUIRE_INLINE F32 row(const float* p) { return set1(*p); }
  QUIRE_INLINE F32 add(F32 acc, F32 column, F32 row) { return fma(column, row, acc); }
};

/// As pairs of bf16.
struct PairForm {
  using Column = Pairs;
  static constexpr std::int64_t kTogether = 2;
  static constexpr Weights kWeights = Weights::kPairs;
  QUIRE_INLINE Pairs column(const float* p) { return load_pairs(p); }
  QUIRE_INLINE Pairs row(const float* p) { return repeat_pair(p); }
  QUIRE_INLINE F32 add(F32 acc, Pairs column, Pairs row) { return dot2(acc, column, row); }
};

/// acc[r][p] += Σ_i x[r][i] · the 16 columns at w + i·64 + 16·p, for i in [0, n).
template <class Form, int R, int P>
QUIRE_INLINE void multiply(Accumulators<R, P>& acc, const Array<const float*, R>& x, const float* w,
                           std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i, w += 64) {
    Array<typename Form::Column, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) column[p] = Form::column(w + 16 * p);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const auto row = Form::row(x[r] + i);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = Form::add(acc[r][p], column[p], row);
    }
  }
}

constexpr std::int64_t kTiles = kChunkKeys / kTileKeys;

/// Lines of memory that are asked for a few at a time.
struct Ahead {
  const std::byte* runs[8];  // of 16 keys or values each
  std::int64_t run_bytes[8];
  int count = 0;  // of runs
  int run = 0;
  std::int64_t at = 0, lines = 0;  // lines: of a part

  void fetch(std::int64_t parts) {
    for (std::int64_t i = 0; i < lines * parts && run < count; ++i, at += 64) {
      prefetch_far(runs[run] + at);
      if (at + 64 < run_bytes[run]) continue;
      ++run;
      at = -64;
    }
  }
};

struct Work {
  const SharedChunk& a;
  const KvView& kv;
  std::int64_t rows, width, K;
  std::int64_t sixteens;  // rows, whole sixteens of them
  // Elements (pairs of them) of 64 keys; of the values of all tiles, as value_offset() says.
  float *k = nullptr, *v = nullptr;
  float* scores = nullptr;   // [rows, 64]
  float* weights = nullptr;  // of each tile [rows, 64], or half of that in pairs
  float* sixteen = nullptr;  // [rows, 16]: highest scores, then sums of weights, lane by lane
  float *rescale = nullptr, *base = nullptr;  // of each tile [rows]; [rows]

  const float* query(std::int64_t row) const {
    return a.queries + row * query_floats(a.args.products, kv.K);
  }
  std::int64_t tile_floats() const { return kTileKeys * ((width + 63) / 64 * 64); }
  float* values(std::int64_t tile) const { return v + tile * tile_floats(); }
  float* rescale_of(std::int64_t tile) const { return rescale + tile * sixteens; }
  template <class Form>
  float* weights_of(std::int64_t tile, std::int64_t row) const {
    return weights + (tile * sixteens + row) * (kTileKeys / Form::kTogether);
  }
};

template <class Form, int R>
QUIRE_INLINE void score_rows(const Work& work, std::int64_t row) {
  Array<const float*, R> q;
  for (int r = 0; r < R; ++r) q[r] = work.query(row + r);
  Accumulators<R, 4> acc;
  clear<R, 4>(acc);
  multiply<Form, R, 4>(acc, q, work.k, (work.K + Form::kTogether - 1) / Form::kTogether);
  const F32 scale = set1(static_cast<float>(work.a.args.spec.scale));
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    float* to = work.scores + (row + r) * kTileKeys;
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      acc[r][p] = mul(acc[r][p], scale);
      store(to + 16 * p, acc[r][p]);
    }
    store(work.sixteen + (row + r) * 16, max(max(acc[r][0], acc[r][1]), max(acc[r][2], acc[r][3])));
  }
}

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
QUIRE_INLINE void raise_maxima(const Work& work, std::int64_t tile, std::int64_t row, int n) {
  const F32 now = reduce_rows(work.sixteen + 16 * row, [](F32 a, F32 b) { return max(a, b); });
  float* max_R = work.a.state.max_R + row;
  const F32 old = tile == 0 ? set1(kMinusInfinity) : load_first(max_R, n);
  const F32 largest = select_less(old, now, now, old);
  store_first(max_R, largest, n);
  store(work.rescale_of(tile) + row, select_less(old, now, exp(sub(old, now)), set1(1.0f)));
  // While nothing was seen every score is −inf, and −inf − 0 weighs nothing. (A NaN stays one.)
  store(work.base + row, select_less(largest, set1(-kLargest), zero(), largest));
}

/// Scores to weights e^(s − max) and their running sums, of up to 16 rows.
template <class Form>
QUIRE_INLINE void weigh_rows(const Work& work, std::int64_t tile, std::int64_t row, int n,
                             Ahead& ahead) {
  raise_maxima(work, tile, row, n);
  for (std::int64_t r = row; r < row + n; ++r) {
    const float* s = work.scores + r * kTileKeys;
    const F32 base = set1(work.base[r]);
    F32 w[4], sum = zero();
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const F32 x = sub(load(s + 16 * p), base);
      w[p] = Form::kWeights == Weights::kAsTheyAre ? exp(x) : exp_to_round(x);
      sum = add(sum, w[p]);
    }
    store_weights<Form::kWeights>(work.weights_of<Form>(tile, r), w);
    store(work.sixteen + r * 16, sum);
    ahead.fetch(1);
  }
  const F32 here = reduce_rows(work.sixteen + 16 * row, [](F32 a, F32 b) { return add(a, b); });
  float* sum_R = work.a.state.sum_R + row;
  const F32 before = tile == 0 ? zero() : load_first(sum_R, n);
  store_first(sum_R, add(mul(before, load(work.rescale_of(tile) + row)), here), n);
}

/// The chunk's values of columns [u, u + 16·P), weighted and summed, of R rows.
template <class Form, int R, int P>
QUIRE_INLINE void weigh_values(const Work& work, std::int64_t row, std::int64_t u, Ahead& ahead) {
  constexpr std::int64_t kSteps = kTileKeys / Form::kTogether;
  Accumulators<R, P> acc;
  clear<R, P>(acc);
  for (std::int64_t tile = 0; tile < kTiles; ++tile) {
    Array<const float*, R> w;
    for (int r = 0; r < R; ++r) w[r] = work.weights_of<Form>(tile, row + r);
    const float* rescale = work.rescale_of(tile) + row;
    if (tile > 0) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const F32 factor = set1(rescale[r]);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[r][p] = mul(acc[r][p], factor);
      }
    }
    multiply<Form, R, P>(acc, w, work.values(tile) + value_offset(0, u, kSteps), kSteps);
    ahead.fetch(R);
  }
  float* out = work.a.state.out_RU + row * work.width + u;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) store(out + r * work.width + 16 * p, acc[r][p]);
}

/// The tile of pairs where the cache holds keys in blocks and values in rows of whole vectors.
void join_pairs(const Work& work, const Runs& runs, float* v) {
  for (int p = 0; p < 4; ++p) {
    for (std::int64_t i = 0; i < work.K / 2; ++i)
      store_pairs(work.k + i * kTileKeys + 16 * p, pair_halves(runs.k[p] + 64 * i));
    const std::int64_t row_bytes = 2 * work.kv.v_strides.slot;
    for (std::int64_t j = 0; j < 8; ++j) {
      const std::byte* low = runs.v[p] + 2 * j * row_bytes;
      for (std::int64_t u = 0; u < work.kv.U; u += 32) {
        Pairs both[2];
        pair_up32(low + 2 * u, low + row_bytes + 2 * u, both);
        float* to = v + value_offset(8 * p + j, u, kTileKeys / 2);
        store_pairs(to, both[0]);
        store_pairs(to + 16, both[1]);
      }
    }
  }
}

/// The same of floats.
template <class Load>
void widen_runs(const Work& work, const Runs& runs, float* v) {
  const std::int64_t row_bytes = work.kv.v_strides.slot * Load::kBytes;
  for (int p = 0; p < 4; ++p) {
    for (std::int64_t i = 0; i < work.K; ++i)
      store(work.k + i * kTileKeys + 16 * p, Load::at(runs.k[p] + 16 * i * Load::kBytes));
    for (std::int64_t j = 0; j < 16; ++j)
      for (std::int64_t u = 0; u < work.kv.U; u += 16)
        store(v + value_offset(16 * p + j, u, kTileKeys),
              Load::at(runs.v[p] + j * row_bytes + u * Load::kBytes));
  }
}

template <class Form>
void make_tile(const Work& work, std::int64_t slot, float* v) {
  const KvView& kv = work.kv;
  const std::int64_t g = work.a.g;
  Tile tile{};
  tile.end = kTileKeys;
  Runs runs;
  const std::int64_t vector = 16 * Form::kTogether;
  const bool in_runs = kv.k_layout == KLayout::kBlocks && !is_grouped(kv.dtype) &&
                       kv.K % Form::kTogether == 0 && kv.U % vector == 0 &&
                       find_runs(kv, 0, g, slot, kTileKeys, runs);
  if constexpr (Form::kTogether == 2) {
    if (in_runs) return join_pairs(work, runs, v);
    TileRows rows;
    find_rows<LoadBF16>(kv, 0, g, slot, tile, rows);
    gather_key_pairs(kv, slot, tile, rows, work.k);
    gather_value_pairs(kv, tile, rows, v);
  } else {
    if (in_runs)
      return with_load(kv.dtype, [&](auto load) { widen_runs<decltype(load)>(work, runs, v); });
    with_stored(kv.dtype, [&](auto load) {
      using Load = decltype(load);
      TileRows rows;
      find_rows<Load>(kv, 0, g, slot, tile, rows);
      gather_keys<Load>(kv, slot, tile, rows, work.k);
      gather_values<Load>(kv, tile, rows, work.width, v);
    });
  }
}

/// 64 keys of a kv head, to be asked for in so many parts.
Ahead look_ahead(const Work& work, std::int64_t g, std::int64_t slot, std::int64_t parts) {
  Ahead ahead;
  Runs runs;
  const KvView& kv = work.kv;
  if (g < 0 || is_grouped(kv.dtype) || !find_runs(kv, 0, g, slot, kTileKeys, runs)) return ahead;
  const std::int64_t unit = unit_bytes(kv.dtype),
                     bytes[2] = {16 * kv.k_strides.slot * unit, 16 * kv.v_strides.slot * unit};
  std::int64_t lines = 0;
  for (int p = 0; p < 4; ++p) {
    for (int of = 0; of < 2; ++of) {
      ahead.runs[ahead.count] = of == 0 ? runs.k[p] : runs.v[p];
      ahead.run_bytes[ahead.count++] = bytes[of];
      lines += (bytes[of] + 63) / 64;
    }
  }
  ahead.lines = (lines + parts - 1) / parts;
  return ahead;
}

template <class Form>
void attend_chunk(const Work& work) {
  const SharedChunk& a = work.a;
  for (std::int64_t tile = 0; tile < kTiles; ++tile) {
    const std::int64_t slot = a.chunk * kChunkKeys + tile * kTileKeys;
    Ahead ahead = look_ahead(work, tile + 1 < kTiles ? a.g : -1, slot + kTileKeys, 2 * work.rows);
    make_tile<Form>(work, slot, work.values(tile));
    strips(0, work.rows, [&](std::int64_t row, auto rows) {
      score_rows<Form, decltype(rows)::kValue>(work, row);
      ahead.fetch(decltype(rows)::kValue);
    });
    for (std::int64_t row = 0; row < work.rows; row += 16) {
      const std::int64_t left = work.rows - row;
      weigh_rows<Form>(work, tile, row, left < 16 ? static_cast<int>(left) : 16, ahead);
    }
  }
  Ahead ahead = look_ahead(work, a.next_g, a.next_chunk * kChunkKeys,
                           kTiles * ((work.width + 63) / 64) * work.rows);
  const auto columns = [&](std::int64_t u, auto vectors) {
    strips(0, work.rows, [&](std::int64_t row, auto rows) {
      weigh_values<Form, decltype(rows)::kValue, decltype(vectors)::kValue>(work, row, u, ahead);
    });
  };
  std::int64_t u = 0;
  for (; u + 64 <= work.width; u += 64) columns(u, Constant<4>{});
  for (; u + 32 <= work.width; u += 32) columns(u, Constant<2>{});
  for (; u < work.width; u += 16) columns(u, Constant<1>{});
}

float* next_line(float* p) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(p) + 63) / 64 * 64);
}

}  // namespace

bool has_shared_chunk(const AttentionForward& a) {
  return a.spec.softcap == 0 && a.spec.slope_H == nullptr && a.spec.mask_TS == nullptr &&
         a.spec.allow_TS == nullptr && a.kv.bias == nullptr && a.kv.k_scale_PZG == nullptr &&
         a.kv.v_scale_PZG == nullptr && a.products != Products::kBf16Widened;
}

void shared_queries(const AttentionForward& a, const float* rows, std::int64_t count, float* to) {
  if (a.products == Products::kBf16Dots) return pair_rows(rows, count, a.kv.K, to);
  __builtin_memcpy(to, rows, static_cast<std::size_t>(count * a.kv.K) * sizeof(float));
}

void shared_chunk(const SharedChunk& args) {
  const KvView& kv = args.args.kv;
  const std::int64_t width = (kv.U + 15) / 16 * 16, sixteens = (args.rows + 15) / 16 * 16;
  float* at = next_line(args.scratch);
  const auto take = [&](std::int64_t n) {
    float* out = at;
    at += n;
    return out;
  };
  Work work{args, kv, args.rows, width, kv.K, sixteens};
  work.k = take(kTileKeys * kv.K);
  work.v = take(kTiles * work.tile_floats());
  work.scores = take(kTileKeys * sixteens);
  work.weights = take(kChunkKeys * sixteens);
  work.sixteen = take(16 * sixteens);
  work.rescale = take(kTiles * sixteens);
  work.base = take(sixteens);
  // Rows that fill up the last sixteen are reduced too.
  __builtin_memset(work.sixteen, 0, static_cast<std::size_t>(16 * sixteens) * sizeof(float));
  if constexpr (kHasBf16Dots) {
    if (args.args.products == Products::kBf16Dots) return attend_chunk<PairForm>(work);
  }
  attend_chunk<FloatForm>(work);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

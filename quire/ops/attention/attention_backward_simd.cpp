// The backward of attention, compiled once per instruction set.
//
// A step is the rows of some queries (each with the whole group of heads) before the keys of one
// unit. Weights are formed anew from lse; then five products: scores, dout·v, and what they owe to
// values, keys and queries. Each number is one chain of FMAs, over the head size, over the rows in
// their order, or over the keys in the order of the walk, however rows are grouped: tiles and
// threads never change a bit. Masked weights and their gradients are exactly 0 and add nothing;
// only a key that is not finite needs care.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/attention_backward_products.h"
#include "quire/ops/attention/attention_backward_tile.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

/// What backward_unit holds; tiles have padded rows.
struct Job {
  const AttentionBackward& a;
  const KeyUnit& unit;
  Pass pass;
  std::int64_t g, group;
  std::int64_t k_width, u_width;  // padded
  float *k_rows, *k_blocks, *v_blocks;
  float *dk, *dv;          // of the unit
  float *q, *dout;         // rows of a step
  float *weight, *dscore;  // rows of 64
  float* slope_of_cap;     // rows of 64: d score / d product, where there is a soft-cap
  float *k_scale, *bias;   // of a key
  float* dbias;            // of each head of the group and key
  bool finite;             // the keys
};

/// The rows of one step: queries [first, first + count / group) of a viewer's sequence.
struct Step {
  const Viewer& viewer;
  std::int64_t first, count;
  KeyRange keys;
  std::int64_t T;
};

QUIRE_INLINE std::int64_t head(const Job& job, std::int64_t row) {
  return job.g * job.group + row % job.group;
}
QUIRE_INLINE std::int64_t flat_row(const Job& job, const Step& step, std::int64_t row) {
  return (job.a.start_J[step.viewer.b] + step.first + row / job.group) * job.a.H + head(job, row);
}
QUIRE_INLINE ScoreRow score_row(const Job& job, const Step& step, std::int64_t row) {
  const std::int64_t t = step.first + row / job.group;
  return {step.viewer.b, job.g, head(job, row), t, query_position(job.a.spec, step.keys, t, step.T),
          step.keys};
}

/// The unit as a step's sequence sees it, for what forward and backward share.
QUIRE_INLINE Tile tile_of(const Job& job, const Step& step) {
  Tile tile{};
  tile.position = step.keys.begin + step.viewer.slot;
  tile.end = step.viewer.lanes;
  tile.k_scale = job.a.kv.k_scale_PZG == nullptr ? nullptr : job.k_scale;
  const bool shared = job.a.kv.bias != nullptr && job.a.kv.bias_heads <= job.a.kv.G;
  tile.bias = shared ? job.bias : nullptr;
  return tile;
}

/// The lanes that the query of a row sees.
QUIRE_INLINE LaneRange lanes_of(const Job& job, const Tile& tile, const ScoreRow& row) {
  return lanes(visible(job.a.spec, row.keys, row.position), tile);
}

/// Elements [0, n) of each row, widened, zeros behind.
void load_rows(DType dtype, const std::byte* from, std::int64_t n, float* to) {
  store(to + padded(n) - 16, zero());
  with_load(dtype, [&](auto load) { widen_row<decltype(load)>(from, n, to); });
}

void load_step(const Job& job, const Step& step) {
  const AttentionBackward& a = job.a;
  const std::int64_t q_bytes = a.q_dtype == DType::kF32 ? 4 : 2,
                     dout_bytes = a.dout_dtype == DType::kF32 ? 4 : 2;
  for (std::int64_t row = 0; row < step.count; ++row) {
    const std::int64_t n = flat_row(job, step, row);
    load_rows(a.q_dtype, a.q_NHK + n * a.kv.K * q_bytes, a.kv.K, job.q + row * job.k_width);
    load_rows(a.dout_dtype, a.dout_NHU + n * a.kv.U * dout_bytes, a.kv.U,
              job.dout + row * job.u_width);
  }
}

/// Asks for `bytes` that are read soon, once this step's tiles are done with.
QUIRE_INLINE void ask_for(const std::byte* p, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 2);
}

/// Asks for a row of the next step and for the row's dq: they lie too far apart for the processor
/// to foresee.
QUIRE_INLINE void ask_ahead(const Job& job, const Step& step, std::int64_t row) {
  const AttentionBackward& a = job.a;
  const std::int64_t n = flat_row(job, step, row), next = n + step.count / job.group * a.H;
  if (job.pass != Pass::kKeys)
    ask_for(reinterpret_cast<const std::byte*>(a.dq_NHK + n * a.kv.K), 4 * a.kv.K);
  if (next >= a.N * a.H) return;
  const std::int64_t q_bytes = a.kv.K * (a.q_dtype == DType::kF32 ? 4 : 2),
                     dout_bytes = a.kv.U * (a.dout_dtype == DType::kF32 ? 4 : 2);
  ask_for(a.q_NHK + next * q_bytes, q_bytes);
  ask_for(a.dout_NHU + next * dout_bytes, dout_bytes);
}

/// Products to weights e^(score − lse); exactly 0 where the row does not see the key.
void weigh(const Job& job, const Step& step, const Tile& tile, std::int64_t row) {
  const AttentionSpec& spec = job.a.spec;
  const ScoreRow at = score_row(job, step, row);
  float* s = job.weight + row * kUnitKeys;
  F32 x[4] = {load(s), load(s + 16), load(s + 32), load(s + 48)};
  if (spec.softcap > 0) {
    // d cap(x) / dx = 1 − tanh²; of the numbers that finish_scores caps.
    for (int p = 0; p < 4; ++p) {
      F32 y = mul(x[p], set1(static_cast<float>(spec.scale)));
      if (tile.k_scale != nullptr) y = mul(y, load(tile.k_scale + 16 * p));
      const F32 tanh = softcap(div(y, set1(static_cast<float>(spec.softcap))), 1.0f);
      store(job.slope_of_cap + row * kUnitKeys + 16 * p, sub(set1(1.0f), mul(tanh, tanh)));
    }
  }
  finish_scores(x, spec, job.a.kv, tile, at, lanes_of(job, tile, at));
  const F32 base = set1(job.a.base_NH[flat_row(job, step, row)]);
  for (int p = 0; p < 4; ++p) store(s + 16 * p, exp(sub(x[p], base)));
}

/// dout·v to the gradients of the products q·k, and the sums that bias and slope want.
void differentiate(const Job& job, const Step& step, const Tile& tile, std::int64_t row) {
  const AttentionBackward& a = job.a;
  const float* w = job.weight + row * kUnitKeys;
  float* d = job.dscore + row * kUnitKeys;
  const F32 delta = set1(a.delta_NH[flat_row(job, step, row)]);
  const F32 scale = set1(static_cast<float>(a.spec.scale));
  float* dbias = job.dbias;
  if (a.kv.bias_heads > a.kv.G) dbias += (row % job.group) * kUnitKeys;
  const bool slopes = a.dslope_NH != nullptr && job.pass != Pass::kKeys;
  const std::int64_t away = tile.position - score_row(job, step, row).position;
  float slope = 0;
  for (int p = 0; p < kUnitKeys; p += 16) {
    const F32 weight = load(w + p);
    // A weight of 0 owes nothing, whatever the value holds; a NaN stays one.
    const F32 x = select_less(zero(), weight, mul(weight, sub(load(d + p), delta)), weight);
    if (a.dbias != nullptr) store(dbias + p, add(load(dbias + p), x));
    if (slopes) {
      alignas(64) float by_lane[16];
      store(by_lane, x);
      for (int i = 0; i < 16; ++i)
        if (by_lane[i] != 0) slope += by_lane[i] * static_cast<float>(away + p + i);
    }
    const F32 inner =
        a.spec.softcap > 0 ? mul(scale, load(job.slope_of_cap + row * kUnitKeys + p)) : scale;
    store(d + p, select_less(zero(), abs(x), mul(x, inner), x));
  }
  if (slopes) a.dslope_NH[flat_row(job, step, row)] += slope;
}

/// dq of R rows, columns [k, k + 16 · P), over the lanes of a range.
template <int R, int P>
void add_query_columns(const Job& job, const Step& step, std::int64_t row, LaneRange range,
                       std::int64_t k) {
  const std::int64_t K = job.a.kv.K;
  const int n = P > 1 || K - k >= 16 ? 16 : static_cast<int>(K - k);
  Array<const float*, R> x;
  Array<float*, R> out;
  Accumulators<R, P> acc;
  for (int r = 0; r < R; ++r) {
    x[r] = job.dscore + (row + r) * kUnitKeys;
    out[r] = job.a.dq_NHK + flat_row(job, step, row + r) * K + k;
    for (int p = 0; p < P; ++p) acc[r][p] = load_first(out[r] + 16 * p, n);
  }
  panel_product<LoadF32, R, P>(acc, x, reinterpret_cast<const std::byte*>(job.k_rows + k), 64,
                               4 * job.k_width, range.begin, range.end);
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store_first(out[r] + 16 * p, acc[r][p], n);
}

/// The same for one row before keys that are not finite: those of gradient 0 are passed over.
void add_query_one_by_one(const Job& job, const Step& step, std::int64_t row) {
  const std::int64_t K = job.a.kv.K;
  float* out = job.a.dq_NHK + flat_row(job, step, row) * K;
  const float* d = job.dscore + row * kUnitKeys;
  for (std::int64_t k = 0; k < K; k += 16) {
    const int n = K - k < 16 ? static_cast<int>(K - k) : 16;
    F32 acc = load_first(out + k, n);
    for (int lane = 0; lane < step.viewer.lanes; ++lane) {
      if (d[lane] != 0) acc = fma(load(job.k_rows + lane * job.k_width + k), set1(d[lane]), acc);
    }
    store_first(out + k, acc, n);
  }
}

void add_queries(const Job& job, const Step& step, const Tile& tile) {
  if (!job.finite) {
    for (std::int64_t row = 0; row < step.count; ++row) add_query_one_by_one(job, step, row);
    return;
  }
  // Whole vectors of columns here, the rest below: the rows of dq are not padded.
  const std::int64_t whole = job.a.kv.K / 64 * 64;
  strips<6>(step.count, [&](std::int64_t row, auto rows) {
    constexpr int R = decltype(rows)::kValue;
    // Later queries see later keys, at both ends of their range.
    const LaneRange first = lanes_of(job, tile, score_row(job, step, row)),
                    last = lanes_of(job, tile, score_row(job, step, row + R - 1));
    LaneRange range{first.begin, last.end};
    if (first.begin >= first.end || last.begin >= last.end) range = {0, step.viewer.lanes};
    for (std::int64_t k = 0; k < whole; k += 64) add_query_columns<R, 4>(job, step, row, range, k);
    for (std::int64_t k = whole; k < job.a.kv.K; k += 16)
      add_query_columns<R, 1>(job, step, row, range, k);
  });
}

void process(const Job& job, const Step& step) {
  const AttentionBackward& a = job.a;
  const Tile tile = tile_of(job, step);
  const int lanes = step.viewer.lanes;
  load_step(job, step);
  products(job.q, job.k_width, step.count, job.k_blocks, a.kv.K, lanes, job.weight);
  for (std::int64_t row = 0; row < step.count; ++row) {
    ask_ahead(job, step, row);
    weigh(job, step, tile, row);
  }
  if (job.pass != Pass::kQueries && a.dv_pages != nullptr)
    outer_products(job.weight, job.dout, job.u_width, step.count, lanes, job.dv);
  products(job.dout, job.u_width, step.count, job.v_blocks, a.kv.U, lanes, job.dscore);
  for (std::int64_t row = 0; row < step.count; ++row) differentiate(job, step, tile, row);
  if (job.pass != Pass::kQueries && a.dk_pages != nullptr)
    outer_products(job.dscore, job.q, job.k_width, step.count, lanes, job.dk);
  if (job.pass != Pass::kKeys) add_queries(job, step, tile);
}

/// The queries of a viewer's sequence that see any of its lanes, cut to `wanted`.
QueryRange queries_of(const Job& job, const Step& step, QueryRange wanted) {
  const AttentionSpec& spec = job.a.spec;
  const std::int64_t first_key = step.keys.begin + step.viewer.slot,
                     last_key = first_key + step.viewer.lanes - 1,
                     position0 = query_position(spec, step.keys, 0, step.T);
  std::int64_t first = wanted.first, last = wanted.last < step.T ? wanted.last : step.T;
  // (Differences of positions are small, a window may be huge.)
  if (spec.window_right < first_key - position0 - first)
    first = first_key - position0 - spec.window_right;
  if (position0 + last - 1 - last_key > spec.window_left)
    last = last_key - position0 + spec.window_left + 1;
  return {first, last};
}

Step step_of(const Job& job, const Viewer& viewer) {
  const std::int64_t start = view_first(job.a.kv, viewer.b, job.g);
  return {viewer,
          0,
          0,
          {start, start + view_length(job.a.kv, viewer.b, job.g)},
          job.a.start_J[viewer.b + 1] - job.a.start_J[viewer.b]};
}

bool any_query(const Job& job, QueryRange wanted) {
  for (int i = 0; i < job.unit.viewer_count; ++i) {
    const QueryRange seen = queries_of(job, step_of(job, job.unit.viewers[i]), wanted);
    if (seen.first < seen.last) return true;
  }
  return false;
}

/// Floats that belong to the keys: scales of i8, a bias that the group shares.
void gather_key_floats(const Job& job) {
  const KvView& kv = job.a.kv;
  const bool shared = kv.bias != nullptr && kv.bias_heads <= kv.G;
  if (kv.k_scale_PZG == nullptr && !shared) return;
  const std::int64_t head = kv.bias_heads == 1 ? 0 : job.g;
  for (int lane = 0; lane < kUnitKeys; ++lane) job.k_scale[lane] = job.bias[lane] = 0;
  each_key(job.unit, [&](int lane, std::int64_t page, std::int64_t slot) {
    const std::int64_t key = page * kv.Z + slot;
    if (kv.k_scale_PZG != nullptr) job.k_scale[lane] = kv.k_scale_PZG[key * kv.G + job.g];
    if (shared) job.bias[lane] = kv.bias[key * kv.bias_heads + head];
  });
}

void add_dbias(const Job& job) {
  const KvView& kv = job.a.kv;
  const bool per_head = kv.bias_heads > kv.G;
  const std::int64_t heads = per_head ? job.group : 1;
  for (std::int64_t i = 0; i < heads; ++i) {
    const std::int64_t h = per_head ? job.g * job.group + i : kv.bias_heads == 1 ? 0 : job.g;
    each_key(job.unit, [&](int lane, std::int64_t page, std::int64_t slot) {
      job.a.dbias[job.g * job.a.dbias_part + (page * kv.Z + slot) * kv.bias_heads + h] +=
          job.dbias[i * kUnitKeys + lane];
    });
  }
}

void clear_floats(float* p, std::int64_t n) {
  __builtin_memset(p, 0, static_cast<std::size_t>(n) * sizeof(float));
}

/// Keys and values of the unit into tiles.
void gather_unit(Job& job, float* rows) {
  const KvView& kv = job.a.kv;
  with_stored(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    gather_rows<Load>(value_side(kv), job.unit, job.g, rows);
    scale_rows(kv, value_side(kv), job.unit, job.g, rows);
    interleave_rows(rows, kv.U, job.unit.lanes, job.v_blocks);
    gather_rows<Load>(key_side(kv), job.unit, job.g, job.k_rows);
    interleave_rows(job.k_rows, kv.K, job.unit.lanes, job.k_blocks);
    scale_rows(kv, key_side(kv), job.unit, job.g, job.k_rows);
  });
  job.finite = finite_rows(job.k_rows, kUnitKeys * job.k_width);
  gather_key_floats(job);
}

}  // namespace

void backward_unit(const AttentionBackward& args, std::int64_t g, const KeyUnit& unit,
                   QueryRange queries, Pass pass, float* scratch) {
  const KvView& kv = args.kv;
  const std::int64_t group = args.H / kv.G, k_width = padded(kv.K), u_width = padded(kv.U);
  const std::int64_t most = group > kStepRows ? group : kStepRows;
  const auto take = [&](std::int64_t n) {
    float* out = scratch;
    scratch += n;
    return out;
  };
  Job job{args,
          unit,
          pass,
          g,
          group,
          k_width,
          u_width,
          take(kUnitKeys * k_width),
          take(kUnitKeys * kv.K),
          take(kUnitKeys * kv.U),
          take(kUnitKeys * k_width),
          take(kUnitKeys * u_width),
          take(most * k_width),
          take(most * u_width),
          take(most * kUnitKeys),
          take(most * kUnitKeys),
          take(most * kUnitKeys),
          take(kUnitKeys),
          take(kUnitKeys),
          take(group * kUnitKeys),
          false};
  if (!any_query(job, queries)) return;
  gather_unit(job, job.dv);
  clear_floats(job.dk, kUnitKeys * k_width);
  clear_floats(job.dv, kUnitKeys * u_width);
  clear_floats(job.dbias, group * kUnitKeys);
  const std::int64_t step_queries = most / group;
  for (int i = 0; i < unit.viewer_count; ++i) {
    const Viewer& viewer = unit.viewers[i];
    Step step = step_of(job, viewer);
    const QueryRange seen = queries_of(job, step, queries);
    for (step.first = seen.first; step.first < seen.last; step.first += step_queries) {
      const std::int64_t left = seen.last - step.first;
      step.count = (left < step_queries ? left : step_queries) * group;
      process(job, step);
    }
  }
  if (pass == Pass::kQueries) return;
  if (args.dk_pages != nullptr) add_to_pages(key_side(kv), unit, g, job.dk, args.dk_pages);
  if (args.dv_pages != nullptr) add_to_pages(value_side(kv), unit, g, job.dv, args.dv_pages);
  if (args.dbias != nullptr) add_dbias(job);
}

float row_product(const RowPair& rows, std::int64_t U) {
  F32 sum = zero();
  with_load(rows.a_dtype, [&](auto load_a) {
    with_load(rows.b_dtype, [&](auto load_b) {
      using A = decltype(load_a);
      using B = decltype(load_b);
      for (std::int64_t u = 0; u < U; u += 16) {
        alignas(64) float a[16] = {}, b[16] = {};
        const std::int64_t n = U - u < 16 ? U - u : 16;
        widen_row<A>(rows.a + u * A::kBytes, n, a);
        widen_row<B>(rows.b + u * B::kBytes, n, b);
        sum = fma(load(a), load(b), sum);
      }
    });
  });
  return reduce_add(sum);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

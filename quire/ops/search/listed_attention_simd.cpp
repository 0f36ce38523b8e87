// Attention to keys that lie apart, compiled once per instruction set. The few rows of a group are
// multiplied with each key as it lies: 16 sums at a time are added up across lanes. While a key is
// computed, one further down the list is asked for.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_score.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/search/listed_attention_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr std::int64_t kAhead = 32;  // keys between asking for one and using it

struct List {
  const ListedAttention& a;
  const ListedPart& part;
  const std::int32_t* slot;  // of the chunk
  const float* q;            // of the group's first row
  std::int64_t g, n, group, width_K, width_U;
  float* scores;  // [group, 128], then weights
  float* row;     // 4 keys or a value, where they are no whole number of vectors

  template <class Load>
  const std::byte* key(std::int64_t i) const {
    const KvView& kv = part.rows;
    return static_cast<const std::byte*>(kv.k_pages) +
           (slot[i] * kv.k_strides.slot + g * kv.k_strides.head) * Load::kBytes;
  }
  template <class Load>
  const std::byte* value(std::int64_t i) const {
    const KvView& kv = part.rows;
    return static_cast<const std::byte*>(kv.v_pages) +
           (slot[i] * kv.v_strides.slot + g * kv.v_strides.head) * Load::kBytes;
  }
};

QUIRE_INLINE void ask(const std::byte* p, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) prefetch_far(p + at);
}

template <class Load>
QUIRE_INLINE void ask_for(const List& list, std::int64_t i) {
  if (i >= list.n) return;
  if (list.part.score_HW == nullptr) ask(list.key<Load>(i), list.a.K * Load::kBytes);
  ask(list.value<Load>(i), list.a.U * Load::kBytes);
}

/// q·k of T rows with 4 keys, sums of 4 lanes in each quarter.
template <class Load, int T>
QUIRE_INLINE void products_of_4(const List& list, const float* q, const std::byte* const* keys,
                                F32* quarters) {
  F32 acc[static_cast<std::size_t>(T)][4];
  for (int t = 0; t < T; ++t)
    for (int j = 0; j < 4; ++j) acc[t][j] = zero();
  for (std::int64_t d = 0; d < list.width_K; d += 16) {
    F32 x[4];
    for (int j = 0; j < 4; ++j) x[j] = Load::at(keys[j] + d * Load::kBytes);
    for (int t = 0; t < T; ++t) {
      const F32 row = load(q + t * list.width_K + d);
      for (int j = 0; j < 4; ++j) acc[t][j] = fma(x[j], row, acc[t][j]);
    }
  }
  for (int t = 0; t < T; ++t) quarters[4 * t] = add_quarters(acc[t]);
}

/// q·k of T rows with 16 keys from key i on.
template <class Load, int T>
QUIRE_INLINE void products(const List& list, std::int64_t row, std::int64_t i) {
  F32 quarters[static_cast<std::size_t>(T)][4];
  const bool whole = list.a.K % 16 == 0;
  const float* q = list.q + row * list.width_K;
  for (std::int64_t j = 0; j < 16; j += 4) {
    const std::byte* keys[4];
    for (std::int64_t n = 0; n < 4; ++n) {
      const std::int64_t at = i + j + n;
      if (row == 0) ask_for<Load>(list, at + kAhead);
      keys[n] = list.key<Load>(at < list.n ? at : list.n - 1);
    }
    if (whole) {
      products_of_4<Load, T>(list, q, keys, &quarters[0][j / 4]);
      continue;
    }
    for (std::int64_t n = 0; n < 4; ++n) {
      float* wide = list.row + n * list.width_K;
      widen_row<Load>(keys[n], list.a.K, wide);
      keys[n] = reinterpret_cast<const std::byte*>(wide);
    }
    products_of_4<LoadF32, T>(list, q, keys, &quarters[0][j / 4]);
  }
  for (int t = 0; t < T; ++t)
    store(list.scores + (row + t) * kListedKeys + i, add_quads(quarters[t]));
}

/// Rows of T at a time, as a constant.
template <class F>
QUIRE_INLINE void strips(std::int64_t rows, F&& f) {
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) f(row, Constant<4>{});
  if (rows - row == 3) return f(row, Constant<3>{});
  if (rows - row == 2) return f(row, Constant<2>{});
  if (rows - row == 1) return f(row, Constant<1>{});
}

/// The scores of all rows, filled up with −inf.
template <class Load>
void score(const List& list) {
  const KvView& kv = list.part.rows;
  const F32 none = set1(kMinusInfinity);
  if (list.part.score_HW != nullptr) {
    const std::int64_t first = list.slot - list.part.slot_GW - list.g * list.part.W;
    for (std::int64_t i = 0; i < kAhead; ++i) ask_for<Load>(list, i);
    for (std::int64_t r = 0; r < list.group; ++r) {
      const float* from = list.part.score_HW + (list.g * list.group + r) * list.part.W + first;
      for (std::int64_t i = 0; i < list.n; i += 16) {
        const int left = list.n - i < 16 ? static_cast<int>(list.n - i) : 16;
        store(list.scores + r * kListedKeys + i,
              keep_lanes(load_first(from + i, left), 0, left, none));
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < kAhead; ++i) ask_for<Load>(list, i);
  for (std::int64_t i = 0; i < list.n; i += 16) {
    strips(list.group,
           [&](std::int64_t row, auto T) { products<Load, decltype(T)::kValue>(list, row, i); });
    const int left = list.n - i < 16 ? static_cast<int>(list.n - i) : 16;
    alignas(64) float stored[16];
    for (int j = 0; j < 16; ++j) {
      stored[j] = list.a.scale;
      if (kv.k_scale_PZG != nullptr && j < left)
        stored[j] *= kv.k_scale_PZG[list.slot[i + j] * kv.G + list.g];
    }
    for (std::int64_t r = 0; r < list.group; ++r) {
      float* s = list.scores + r * kListedKeys + i;
      F32 x = mul(load(s), load(stored));
      if (list.a.softcap > 0) x = softcap(x, list.a.softcap);
      store(s, keep_lanes(x, 0, left, none));
    }
  }
}

/// Scores to weights; the highest score and the sum of each row.
void weigh(const List& list, const SoftmaxState& state) {
  const KvView& kv = list.part.rows;
  for (std::int64_t r = 0; r < list.group; ++r) {
    float* s = list.scores + r * kListedKeys;
    F32 highest = set1(kMinusInfinity), sums = zero();
    for (std::int64_t i = 0; i < list.n; i += 16) highest = max(highest, load(s + i));
    const float largest = reduce_max(highest);
    const F32 base = set1(largest == kMinusInfinity ? 0.0f : largest);
    for (std::int64_t i = 0; i < list.n; i += 16) {
      const F32 w = exp(sub(load(s + i), base));
      sums = add(sums, w);
      store(s + i, w);
    }
    state.max_R[r] = largest;
    state.sum_R[r] = reduce_add(sums);
    if (kv.v_scale_PZG == nullptr) continue;
    for (std::int64_t i = 0; i < list.n; ++i) s[i] *= kv.v_scale_PZG[list.slot[i] * kv.G + list.g];
  }
}

/// The weighted sums of columns [u, u + 16 · P) for T rows.
template <class Load, int T, int P>
QUIRE_INLINE void sum_columns(const List& list, std::int64_t row, std::int64_t u,
                              const SoftmaxState& state) {
  Accumulators<T, P> acc;
  clear<T, P>(acc);
  const float* w = list.scores + row * kListedKeys;
  const bool known = list.part.score_HW != nullptr && row == 0 && u == 0;
  for (std::int64_t i = 0; i < list.n; ++i) {
    if (known) ask_for<Load>(list, i + kAhead);
    const std::byte* v = list.value<Load>(i) + u * Load::kBytes;
    F32 x[static_cast<std::size_t>(P)];
    for (int p = 0; p < P; ++p) x[p] = Load::at(v + 16 * p * Load::kBytes);
    for (int t = 0; t < T; ++t) {
      const F32 weight = set1(w[t * kListedKeys + i]);
      for (int p = 0; p < P; ++p) acc[t][p] = fma(x[p], weight, acc[t][p]);
    }
  }
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p)
      store(state.out_RU + (row + t) * list.width_U + u + 16 * p, acc[t][p]);
}

/// The same where values are no whole number of vectors: key by key.
template <class Load>
void sum_rows(const List& list, const SoftmaxState& state) {
  for (std::int64_t i = 0; i < list.group * list.width_U; i += 16) store(state.out_RU + i, zero());
  for (std::int64_t i = 0; i < list.n; ++i) {
    widen_row<Load>(list.value<Load>(i), list.a.U, list.row);
    for (std::int64_t u = list.a.U; u < list.width_U; ++u) list.row[u] = 0;
    for (std::int64_t r = 0; r < list.group; ++r) {
      const F32 weight = set1(list.scores[r * kListedKeys + i]);
      float* out = state.out_RU + r * list.width_U;
      for (std::int64_t u = 0; u < list.width_U; u += 16)
        store(out + u, fma(load(list.row + u), weight, load(out + u)));
    }
  }
}

template <class Load>
void sum_values(const List& list, const SoftmaxState& state) {
  if (list.a.U % 16 != 0) return sum_rows<Load>(list, state);
  strips(list.group, [&](std::int64_t row, auto rows) {
    constexpr int T = decltype(rows)::kValue;
    std::int64_t u = 0;
    for (; u + 64 <= list.a.U; u += 64) sum_columns<Load, T, 4>(list, row, u, state);
    for (; u < list.a.U; u += 16) sum_columns<Load, T, 1>(list, row, u, state);
  });
}

}  // namespace

void listed_chunk(const ListedAttention& args, const ListedPart& part, std::int64_t g,
                  std::int64_t first, std::int64_t n, const SoftmaxState& state, float* scratch) {
  const std::int64_t group = args.H / args.G, width_K = (args.K + 15) / 16 * 16;
  const List list{args,
                  part,
                  part.slot_GW + g * part.W + first,
                  args.q_HK + g * group * width_K,
                  g,
                  n,
                  group,
                  width_K,
                  (args.U + 15) / 16 * 16,
                  scratch,
                  scratch + group * kListedKeys};
  if (args.K % 16 != 0 || args.U % 16 != 0)
    for (std::int64_t i = 0; i < listed_row_floats(args); ++i) list.row[i] = 0;
  with_load(part.rows.dtype, [&](auto load) {
    using Load = decltype(load);
    score<Load>(list);
    weigh(list, state);
    sum_values<Load>(list, state);
  });
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// Scores of probe queries, and what they say of the mass of groups, compiled once per instruction
// set: 64 keys are the columns of a register tile, the probes its rows.

#include <limits>

#include "quire/base/simd.h"
#include "quire/ops/merge/fit_bias_kernel.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

QUIRE_INLINE std::int64_t flat_row(const FitBias& a, std::int64_t g, std::int64_t row) {
  const std::int64_t group = a.H / a.kv.G;
  return row / group * a.H + g * group + row % group;
}

/// scale · q·k · factor + bias − lse of T rows with 64 keys.
template <int T>
QUIRE_INLINE void scores(const FitBias& a, std::int64_t g, std::int64_t row, const float* columns,
                         const float* factor, const float* bias, int count, float* out,
                         std::int64_t step) {
  Array<const float*, T> q;
  for (int t = 0; t < T; ++t) q[t] = a.q_NHK + flat_row(a, g, row + t) * a.kv.K;
  Accumulators<T, 4> acc;
  clear<T, 4>(acc);
  packed_product<T, 4, 0>(acc, q, columns, a.kv.K, Ahead{});
  for (int t = 0; t < T; ++t) {
    const F32 lse = set1(a.lse_NH[flat_row(a, g, row + t)]);
    for (int p = 0; p < 4 && 16 * p < count; ++p) {
      const F32 scale = mul(set1(a.scale), load(factor + 16 * p));
      const F32 x = sub(fma(acc[t][p], scale, load(bias + 16 * p)), lse);
      store_first(out + t * step + 16 * p, x, count - 16 * p < 16 ? count - 16 * p : 16);
    }
  }
}

/// All rows with the keys of a span.
void score_span(const FitBias& a, const KvView& kv, const KeySpan& span, float* columns, float* out,
                std::int64_t step) {
  alignas(64) float factor[64] = {}, bias[64] = {};
  for (int i = 0; i < span.count; ++i) {
    const Place at = place_of(kv, span.b, span.g, span.slot + i);
    factor[i] = scale_of(kv, kv.k_scale_PZG, span, i);
    if (kv.bias != nullptr)
      bias[i] =
          kv.bias[(at.page * kv.Z + at.slot) * kv.bias_heads + (kv.bias_heads == 1 ? 0 : span.g)];
  }
  load_key_columns(kv, span, columns);
  std::int64_t row = 0;
  for (; row + 4 <= a.rows; row += 4)
    scores<4>(a, span.g, row, columns, factor, bias, span.count, out + row * step, step);
  for (; row < a.rows; ++row)
    scores<1>(a, span.g, row, columns, factor, bias, span.count, out + row * step, step);
}

}  // namespace

void probe_merged(const FitBias& args, std::int64_t g, std::int64_t slot, int count,
                  float* scratch) {
  score_span(args, args.merged, {0, g, slot, count}, scratch,
             args.reach_GRM + g * args.rows * args.M + slot, args.M);
}

void probe_squares(const FitBias& args, std::int64_t g, std::int64_t slot, int count) {
  const float* reach = args.reach_GRM + g * args.rows * args.M + slot;
  for (int first = 0; first < count; first += 16) {
    const int some = count - first < 16 ? count - first : 16;
    F32 most = set1(-std::numeric_limits<float>::infinity()), sum = zero();
    for (std::int64_t row = 0; row < args.rows; ++row)
      most = max(most, load_first(reach + row * args.M + first, some));
    for (std::int64_t row = 0; row < args.rows; ++row) {
      const F32 x = sub(load_first(reach + row * args.M + first, some), most);
      sum = add(sum, exp(add(x, x)));
    }
    store_first(args.most_GM + g * args.M + slot + first, most, some);
    store_first(args.square_GM + g * args.M + slot + first, sum, some);
  }
}

void probe_keys(const FitBias& args, std::int64_t g, std::int64_t slot, int count, float* scratch) {
  float* score = scratch + 64 * args.kv.K;
  score_span(args, args.kv, {args.b, g, slot, count}, scratch, score, 64);
  const std::int64_t* group = args.group_GS + g * args.S + slot;
  F32 sum[4] = {zero(), zero(), zero(), zero()};
  // A key of no group takes part as one of the first: nobody reads its mass.
  alignas(64) float reach[64] = {};
  float twice[64];
  std::int64_t of[64];
  for (int i = 0; i < count; ++i) {
    of[i] = group[i] < 0 ? 0 : group[i];
    twice[i] = args.M > 0 ? 2 * args.most_GM[g * args.M + of[i]] : 0;
  }
  for (std::int64_t row = 0; row < args.rows && args.M > 0; ++row) {
    const float* reach_M = args.reach_GRM + (g * args.rows + row) * args.M;
    for (int i = 0; i < count; ++i) reach[i] = reach_M[of[i]] - twice[i];
    for (int p = 0; p < 4 && 16 * p < count; ++p) {
      const F32 x =
          load_first(score + row * 64 + 16 * p, count - 16 * p < 16 ? count - 16 * p : 16);
      sum[p] = add(sum[p], exp(add(x, load(reach + 16 * p))));
    }
  }
  for (int p = 0; p < 4 && 16 * p < count; ++p)
    store_first(args.mass_GS + g * args.S + slot + 16 * p, sum[p],
                count - 16 * p < 16 ? count - 16 * p : 16);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

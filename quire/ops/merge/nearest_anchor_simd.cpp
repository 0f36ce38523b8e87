// The nearest of M rows for 64 keys at once, compiled once per instruction set: keys are the
// packed columns of a register tile, and each lane keeps its best, so that nothing is reduced
// across lanes. With codes of the anchors that tile is first one of whole numbers, which says
// between which bounds each product lies; only those that may be the largest are then made as the
// tile of floats would make them, so that not a bit depends on the codes.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/merge/nearest_anchor_kernel.h"
#include "quire/ops/tile/code_product.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

struct Best {
  F32 value[4], row[4];
};

/// Anchors [m, m + T): strictly greater, so that of equal ones the first stays.
template <int T>
QUIRE_INLINE void compare(Best& best, const float* unit, std::int64_t K, std::int64_t m,
                          const float* columns) {
  Array<const float*, T> rows;
  for (int t = 0; t < T; ++t) rows[t] = unit + (m + t) * K;
  Accumulators<T, 4> acc;
  clear<T, 4>(acc);
  packed_product<T, 4, 0>(acc, rows, columns, K, Ahead{});
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
    const F32 row = set1(static_cast<float>(m + t));
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      best.row[p] = select_less(best.value[p], acc[t][p], row, best.row[p]);
      best.value[p] = select_less(best.value[p], acc[t][p], acc[t][p], best.value[p]);
    }
  }
}

/// The keys of a span in codes, and how far a product of codes may be off.
struct CodedKeys {
  F32 scale[4], twice_off[4];
};

/// False where the square of a key is not finite.
QUIRE_INLINE bool code_keys(const AnchorCodes& a, std::int64_t K, const F32* square,
                            const NearestAnchorScratch& scratch, CodedKeys& out) {
  F32 largest[4], left[4], coded[4];
  for (int p = 0; p < 4; ++p) {
    if (!all_finite(square[p])) return false;
    largest[p] = left[p] = coded[p] = zero();
  }
  for (std::int64_t k = 0; k < K; ++k)
    for (int p = 0; p < 4; ++p)
      largest[p] =
          max(abs(sub(load(scratch.columns + k * kPackedColumns + 16 * p), set1(a.center_K[k]))),
              largest[p]);
  F32 factor[4];
  for (int p = 0; p < 4; ++p) {
    const F32 tiny = set1(1e-30f);
    out.scale[p] = select_less(tiny, largest[p], mul(largest[p], set1(1.0f / 127.0f)), zero());
    factor[p] = select_less(tiny, largest[p], div(set1(127.0f), max(largest[p], tiny)), zero());
  }
  const std::int64_t width = (K + 15) / 16 * 16;
  std::uint8_t* codes = scratch.codes;
  for (std::int64_t k = 0; k < width; k += 4, codes += 256) {
    alignas(64) std::int8_t four[4][64] = {};
    for (int j = 0; j < 4 && k + j < K; ++j) {
      for (int p = 0; p < 4; ++p) {
        const F32 x =
            sub(load(scratch.columns + (k + j) * kPackedColumns + 16 * p), set1(a.center_K[k + j]));
        store_i8(four[j] + 16 * p, mul(x, factor[p]));
        const F32 code = mul(load_i8(four[j] + 16 * p), out.scale[p]), rest = sub(x, code);
        left[p] = fma(rest, rest, left[p]);
        coded[p] = fma(code, code, coded[p]);
      }
    }
    for (int i = 0; i < 64; ++i)
      for (int j = 0; j < 4; ++j)
        codes[4 * i + j] = static_cast<std::uint8_t>(static_cast<std::uint8_t>(four[j][i]) ^ 128);
  }
  // The product of k and an anchor a, less k · c, is (a − c) · centre + code · code' + what each of
  // the two codes leaves times the other side; roundings of f32 come on top, those of the exact
  // product among them, and what squares of very small numbers lose.
  const double round = static_cast<double>(K + 32) * 0x1p-23;
  const auto narrow = [](double x) { return set1(static_cast<float>(x)); };
  for (int p = 0; p < 4; ++p) {
    const F32 length = sqrt(square[p]), rest = sqrt(left[p]), code = sqrt(coded[p]);
    F32 off = mul(rest, narrow(a.length * (1 + round)));
    off = fma(code, narrow(a.off * (1 + round) + (a.length + a.off) * round), off);
    off = fma(length, narrow((3 + a.mean_length) * round), off);
    out.twice_off[p] = mul(set1(2.0f), add(off, narrow(a.centered * round + 1e-15)));
  }
  return true;
}

struct Kept {
  F32 best[4], cut[4];
  std::int64_t count = 0;
};

/// Anchors [m, m + T) by their codes: of those that may be the nearest of a key so far, the number,
/// the lanes and the score are kept. False when there are too many. Not inlined, since what is kept
/// would take the registers of the sums.
template <int T>
[[gnu::noinline]] bool keep(const AnchorCodes& a, std::int64_t width, std::int64_t m,
                            const CodedKeys& keys, const NearestAnchorScratch& scratch,
                            Kept& kept) {
  I32 acc[static_cast<std::size_t>(T)][4];
  code_products<T>(a.rows + m * width, a.offset_M + m, width, scratch.codes, acc);
  if (kept.count + 4 * T > kAnchorsKept) return false;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const F32 scale = set1(a.scale_M[m + t]), center = set1(a.center_M[m + t]);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const F32 score = fma(mul(to_f32(acc[t][p]), scale), keys.scale[p], center);
      const unsigned lanes = not_less_bits(score, kept.cut[p]);
      if (lanes == 0) continue;
      scratch.anchor[kept.count] = static_cast<std::int32_t>(m + t);
      scratch.lanes[kept.count] = lanes | static_cast<unsigned>(p) << 16;
      store(scratch.score + 16 * kept.count, score);
      ++kept.count;
      kept.best[p] = max(kept.best[p], score);
      kept.cut[p] = sub(kept.best[p], keys.twice_off[p]);
    }
  }
  return true;
}

/// Keys and anchors whose products are made next: as many as there are registers for two addresses
/// of each.
struct Asked {
  static constexpr int kMost = 6;
  const float *key[kMost], *anchor[kMost];
  int lane[kMost], row[kMost];
  int count = 0;
};

/// Each product is the chain of FMAs that the tile makes; afterwards `value64` and `row64` are what
/// the tile would have found if it met these in this order.
QUIRE_INLINE void compare_asked(Asked& asked, std::int64_t K, float* value64, float* row64) {
  constexpr int n = Asked::kMost;
  for (int i = asked.count; i < n; ++i) {
    asked.key[i] = asked.key[0];
    asked.anchor[i] = asked.anchor[0];
  }
  float acc[n] = {};
  for (std::int64_t k = 0; k < K; ++k)
    for (int i = 0; i < n; ++i)
      acc[i] = fma_one(asked.key[i][k * kPackedColumns], asked.anchor[i][k], acc[i]);
  for (int i = 0; i < asked.count; ++i) {
    float& value = value64[asked.lane[i]];
    if (!(value < acc[i])) continue;
    value = acc[i];
    row64[asked.lane[i]] = static_cast<float>(asked.row[i]);
  }
  asked.count = 0;
}

/// The nearest anchor of 64 finite keys by way of codes; false where that is not worth it.
QUIRE_INLINE bool nearest_by_codes(const NearestAnchorArgs<float>& args, std::int64_t g,
                                   const F32* square, const NearestAnchorScratch& scratch,
                                   float* value64, float* row64) {
  const AnchorCodes& a = args.codes_G[g];
  const std::int64_t K = args.kv.K, width = (K + 15) / 16 * 16;
  CodedKeys keys;
  if (a.rows == nullptr || !code_keys(a, K, square, scratch, keys)) return false;
  Kept kept;
  for (int p = 0; p < 4; ++p) kept.best[p] = kept.cut[p] = set1(-__builtin_inff());
  std::int64_t m = 0;
  for (; m + 4 <= args.M; m += 4)
    if (!keep<4>(a, width, m, keys, scratch, kept)) return false;
  for (; m < args.M; ++m)
    if (!keep<1>(a, width, m, keys, scratch, kept)) return false;
  for (int i = 0; i < 64; ++i) {
    value64[i] = -__builtin_inff();
    row64[i] = 0;
  }
  const float* unit = args.unit_GMK + g * args.M * K;
  Asked asked;
  for (std::int64_t i = 0; i < kept.count; ++i) {
    const unsigned p = scratch.lanes[i] >> 16;
    unsigned lanes =
        scratch.lanes[i] & 0xffffu & not_less_bits(load(scratch.score + 16 * i), kept.cut[p]);
    for (; lanes != 0; lanes &= lanes - 1) {
      const int lane = static_cast<int>(16 * p) + __builtin_ctz(lanes), at = asked.count++;
      asked.key[at] = scratch.columns + lane;
      asked.anchor[at] = unit + scratch.anchor[i] * K;
      asked.lane[at] = lane;
      asked.row[at] = scratch.anchor[i];
      if (asked.count == Asked::kMost) compare_asked(asked, K, value64, row64);
    }
  }
  if (asked.count > 0) compare_asked(asked, K, value64, row64);
  return true;
}

/// The same by all products.
QUIRE_INLINE void nearest_by_products(const NearestAnchorArgs<float>& args, std::int64_t g,
                                      const float* columns, float* value64, float* row64) {
  Best best;
  for (int p = 0; p < 4; ++p) {
    best.value[p] = set1(-__builtin_inff());
    best.row[p] = zero();
  }
  const std::int64_t K = args.kv.K;
  const float* unit = args.unit_GMK + g * args.M * K;
  std::int64_t m = 0;
  for (; m + 6 <= args.M; m += 6) compare<6>(best, unit, K, m, columns);
  for (; m < args.M; ++m) compare<1>(best, unit, K, m, columns);
  for (int p = 0; p < 4; ++p) {
    store(value64 + 16 * p, best.value[p]);
    store(row64 + 16 * p, best.row[p]);
  }
}

/// Lanes behind `count` as keys of 0.
QUIRE_INLINE void clear_behind(int count, std::int64_t K, float* columns) {
  for (std::int64_t k = 0; count < 64 && k < K; ++k)
    for (int i = count; i < 64; ++i) columns[k * kPackedColumns + i] = 0;
}

}  // namespace

void add_key_columns(const NearestAnchorArgs<float>& args, std::int64_t g, std::int64_t slot,
                     int count, double* sum_K, float* columns) {
  load_key_columns(args.kv, {args.b, g, slot, count}, columns);
  for (std::int64_t k = 0; k < args.kv.K; ++k)
    for (int i = 0; i < count; ++i)
      sum_K[k] += static_cast<double>(columns[k * kPackedColumns + i]);
}

void nearest_anchor_span(const NearestAnchorArgs<float>& args, std::int64_t g, std::int64_t slot,
                         int count, const NearestAnchorScratch& scratch) {
  const std::int64_t K = args.kv.K;
  load_key_columns(args.kv, {args.b, g, slot, count}, scratch.columns);
  clear_behind(count, K, scratch.columns);
  F32 square[4];
  for (int p = 0; p < 4; ++p) square[p] = zero();
  for (std::int64_t k = 0; k < K; ++k) {
    for (int p = 0; p < 4; ++p) {
      const F32 x = load(scratch.columns + k * kPackedColumns + 16 * p);
      square[p] = fma(x, x, square[p]);
    }
  }
  alignas(64) float value[64], row[64], length[64];
  if (args.codes_G == nullptr || !nearest_by_codes(args, g, square, scratch, value, row))
    nearest_by_products(args, g, scratch.columns, value, row);
  for (int p = 0; p < 4; ++p) store(length + 16 * p, sqrt(square[p]));
  const std::int64_t at = g * args.S + slot;
  for (int i = 0; i < count; ++i) {
    args.group_GS[at + i] = static_cast<std::int64_t>(row[i]);
    // Nothing was greater than −inf: the key is not finite.
    const float cosine = value[i] == -__builtin_inff() ? __builtin_nanf("") : value[i] / length[i];
    args.cosine_GS[at + i] = length[i] == 0.0f ? 0.0f : cosine;
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

// Clustering of directions, compiled once per instruction set. Keys and centroids have 8 bits here:
// a key's code is plus 128 (dot4 takes one operand unsigned), which the accumulators undo from the
// start. Each lane is a key and keeps its best centroid.

#include "quire/base/simd.h"
#include "quire/ops/merge/key_tile.h"
#include "quire/ops/search/cluster_keys_kernel.h"
#include "quire/ops/tile/code_product.h"
#include "quire/ops/tile/gemm_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

struct Best {
  F32 value[4], row[4];
};

template <int T>
QUIRE_INLINE void compare(Best& best, const CentroidCodes& c, std::int64_t m,
                          const std::uint8_t* columns) {
  I32 acc[static_cast<std::size_t>(T)][4];
  code_products<T>(c.rows + m * c.width, c.offset_M + m, c.width, columns, acc);
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const F32 row = set1(static_cast<float>(m + t)), scale = set1(c.scale_M[m + t]);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      const F32 score = mul(to_f32(acc[t][p]), scale);
      best.row[p] = select_less(best.value[p], score, row, best.row[p]);
      best.value[p] = select_less(best.value[p], score, score, best.value[p]);
    }
  }
}

}  // namespace

void code_keys(const ClusterSegment& args, std::int64_t g, std::int64_t span, int count,
               const float* mean_K, const KeyCodes& codes, float* scratch) {
  const std::int64_t K = args.kv.K, width = (K + 15) / 16 * 16;
  load_key_columns(args.kv, {args.b, g, args.begin + 64 * span, count}, scratch);
  // A scale of a stored key changes its direction from the mean, so it is applied first.
  alignas(64) float stored[64];
  for (int i = 0; i < 64; ++i) {
    stored[i] = i < count ? scale_of(args.kv, args.kv.k_scale_PZG,
                                     {args.b, g, args.begin + 64 * span, count}, i)
                          : 0.0f;
  }
  F32 largest[4], square[4];
  for (int p = 0; p < 4; ++p) largest[p] = square[p] = zero();
  for (std::int64_t k = 0; k < K; ++k) {
    for (int p = 0; p < 4; ++p) {
      float* at = scratch + k * kPackedColumns + 16 * p;
      const F32 x = sub(mul(load(at), load(stored + 16 * p)), set1(mean_K[k]));
      store(at, x);
      largest[p] = max(largest[p], abs(x));
      square[p] = fma(x, x, square[p]);
    }
  }
  F32 factor[4];
  for (int p = 0; p < 4; ++p) {
    const F32 tiny = set1(1e-30f);
    factor[p] = select_less(tiny, largest[p], div(set1(127.0f), max(largest[p], tiny)), zero());
    // The length of a key's codes is the key's times the factor.
    const F32 length = mul(sqrt(square[p]), factor[p]);
    alignas(64) float unit[16];
    store(unit, select_less(zero(), length, div(set1(1.0f), max(length, tiny)), zero()));
    for (int i = 0; i < 16; ++i)
      if (16 * p + i < count) codes.unit_N[64 * span + 16 * p + i] = unit[i];
  }
  std::uint8_t* columns = codes.columns + 64 * span * width;
  alignas(64) std::int8_t four[4][64];
  for (std::int64_t k = 0; k < width; k += 4, columns += 256) {
    for (int j = 0; j < 4; ++j) {
      const float* at = scratch + (k + j) * kPackedColumns;
      for (int p = 0; p < 4; ++p)
        store_i8(four[j] + 16 * p, k + j < K ? mul(load(at + 16 * p), factor[p]) : zero());
    }
    for (int i = 0; i < 64; ++i) {
      for (int j = 0; j < 4; ++j)
        columns[4 * i + j] = static_cast<std::uint8_t>(static_cast<std::uint8_t>(four[j][i]) ^ 128);
    }
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < 4; ++j) codes.rows[(64 * span + i) * width + k + j] = four[j][i];
  }
}

void add_keys(const ClusterSegment& args, std::int64_t g, std::int64_t slot, int count,
              float* sum_K, float* scratch) {
  load_key_rows(args.kv, {args.b, g, slot, count}, scratch);
  for (int i = 0; i < count; ++i) {
    const float* row = scratch + i * args.kv.K;
    for (std::int64_t k = 0; k < args.kv.K; ++k) sum_K[k] += row[k];
  }
}

void nearest_codes(const CentroidCodes& centroids, const std::uint8_t* columns,
                   std::int64_t* group64) {
  Best best;
  for (int p = 0; p < 4; ++p) {
    best.value[p] = set1(-__builtin_inff());
    best.row[p] = zero();
  }
  std::int64_t m = 0;
  for (; m + 4 <= centroids.M; m += 4) compare<4>(best, centroids, m, columns);
  for (; m < centroids.M; ++m) compare<1>(best, centroids, m, columns);
  alignas(64) float row[64];
  for (int p = 0; p < 4; ++p) store(row + 16 * p, best.row[p]);
  for (int i = 0; i < 64; ++i) group64[i] = static_cast<std::int64_t>(row[i]);
}

void add_codes(float* to, const std::int8_t* codes, float share, std::int64_t width) {
  const F32 a = set1(share);
  for (std::int64_t i = 0; i < width; i += 16)
    store(to + i, fma(a, load_i8(codes + i), load(to + i)));
}

float code_row(const float* from, std::int64_t width, std::int8_t* to, std::int32_t* offset) {
  F32 largest = zero(), square = zero();
  for (std::int64_t i = 0; i < width; i += 16) {
    largest = max(largest, abs(load(from + i)));
    square = fma(load(from + i), load(from + i), square);
  }
  const float most = reduce_max(largest), length = __builtin_sqrtf(reduce_add(square));
  const bool usable = most > 1e-30f && length > 0.0f;
  const F32 factor = set1(usable ? 127.0f / most : 0.0f);
  for (std::int64_t i = 0; i < width; i += 16) store_i8(to + i, mul(load(from + i), factor));
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < width; ++i) sum += to[i];
  *offset = 128 * sum;
  return usable ? most / (127.0f * length) : 0.0f;
}

}  // namespace quire::kernel::QUIRE_ISA_NS

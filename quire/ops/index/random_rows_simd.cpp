#include "quire/ops/index/fetch_ahead.h"
#include "quire/ops/index/random_rows_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

namespace {

// Whole vectors of a row, `kVectors` at a time, in sums of their own.
template <int kVectors>
QUIRE_INLINE void add_vectors(F32* sum, const float* row, std::int64_t& d, std::int64_t D) {
  for (; d + 16 * kVectors <= D; d += 16 * kVectors) {
    for (int v = 0; v < kVectors; ++v) sum[v] = add(sum[v], load(row + d + 16 * v));
  }
}

float read_floats(const ReadRows& args) {
  float sum[4] = {};
  std::int64_t n = args.begin;
  for (; n + 4 <= args.end; n += 4) {
    for (int i = 0; i < 4; ++i) {
      if (n + i + 64 < args.N) __builtin_prefetch(args.data + args.index[n + i + 64], 0, 2);
      sum[i] += args.data[args.index[n + i]];
    }
  }
  for (; n < args.end; ++n) sum[0] += args.data[args.index[n]];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace

float read_rows(const ReadRows& args) {
  if (args.D == 1) return read_floats(args);
  const std::int64_t bytes = args.D * 4, ahead = rows_ahead(bytes);
  F32 sum[8];
  for (F32& part : sum) part = zero();
  for (std::int64_t n = args.begin; n < args.end; ++n) {
    if (n + ahead < args.N) fetch_row(args.data + args.index[n + ahead] * args.D, bytes);
    const float* row = args.data + args.index[n] * args.D;
    std::int64_t d = 0;
    add_vectors<8>(sum, row, d, args.D);
    add_vectors<4>(sum, row, d, args.D);
    add_vectors<1>(sum, row, d, args.D);
    if (d < args.D) sum[0] = add(sum[0], load_first(row + d, static_cast<int>(args.D - d)));
  }
  for (int v = 1; v < 8; ++v) sum[0] = add(sum[0], sum[v]);
  return reduce_add(sum[0]);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#include "quire/ops/matmul/dense_kernel.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr int kLanes = 16;
constexpr std::int64_t kPackedStep = 64 * sizeof(float);

// T rows times P vectors of columns; the last vector has `last` lanes.
template <int T, int P>
QUIRE_INLINE void tile(const GemmBlock& args, std::int64_t row, int last) {
  Array<const float*, T> a;
  for (int t = 0; t < T; ++t) a[t] = args.a + (row + t) * args.K;
  Accumulators<T, P> acc;
  float* out = args.out + row * args.out_step;
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const int lanes = p + 1 < P ? kLanes : last;
      acc[t][p] = args.add ? load_first(out + t * args.out_step + p * kLanes, lanes) : zero();
    }
  }
  panel_product<LoadF32, T, P>(acc, a, reinterpret_cast<const std::byte*>(args.packed),
                               kLanes * sizeof(float), kPackedStep, 0, args.K);
#pragma GCC unroll 6
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
      store_first(out + t * args.out_step + p * kLanes, acc[t][p], p + 1 < P ? kLanes : last);
  }
}

template <int P>
void rows(const GemmBlock& args) {
  const int last = static_cast<int>(args.columns) - (P - 1) * kLanes;
  std::int64_t row = 0;
  for (; row + 6 <= args.rows; row += 6) tile<6, P>(args, row, last);
  for (; row < args.rows; ++row) tile<1, P>(args, row, last);
}

}  // namespace

void gemm_block(const GemmBlock& args) {
  if (args.columns > 48) return rows<4>(args);
  if (args.columns > 32) return rows<3>(args);
  if (args.columns > 16) return rows<2>(args);
  rows<1>(args);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#include "quire/ops/matmul/dense_kernel.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPackedStep = 64 * sizeof(float);

// T rows times P vectors of columns; the last vector may be cut.
template <int T, int P>
QUIRE_INLINE void tile(const GemmBlock& args, std::int64_t row) {
  Array<const float*, T> a;
  for (int t = 0; t < T; ++t) a[t] = args.a + (row + t) * args.K;
  Accumulators<T, P> acc;
  float* out = args.out + row * args.out_step;
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < P; ++p) {
      const std::int64_t left = args.columns - p * kLanes;
      const int lanes = static_cast<int>(left < kLanes ? left : kLanes);
      acc[t][p] = args.add ? load_first(out + t * args.out_step + p * kLanes, lanes) : zero();
    }
  }
  panel_product<LoadF32, T, P>(acc, a, reinterpret_cast<const std::byte*>(args.packed),
                               kLanes * static_cast<std::int64_t>(sizeof(float)), kPackedStep, 0,
                               args.K);
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < P; ++p) {
      const std::int64_t left = args.columns - p * kLanes;
      const int lanes = static_cast<int>(left < kLanes ? left : kLanes);
      store_first(out + t * args.out_step + p * kLanes, acc[t][p], lanes);
    }
  }
}

template <int P>
void rows(const GemmBlock& args) {
  std::int64_t row = 0;
  for (; row + 6 <= args.rows; row += 6) tile<6, P>(args, row);
  for (; row < args.rows; ++row) tile<1, P>(args, row);
}

}  // namespace

void gemm_block(const GemmBlock& args) {
  if (args.columns > 48) return rows<4>(args);
  if (args.columns > 32) return rows<3>(args);
  if (args.columns > 16) return rows<2>(args);
  rows<1>(args);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

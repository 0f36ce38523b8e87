#include "quire/ops/math/rms_norm_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void rms_norm_cpu(const RmsNorm& args) {
  const auto rows = QUIRE_FOR_ISA(rms_norm_rows);
  for_rows(args.N, args.D, [&](std::int64_t begin, std::int64_t end) { rows(args, begin, end); });
}

}  // namespace quire::kernel

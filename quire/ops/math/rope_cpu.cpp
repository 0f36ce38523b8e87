#include "quire/ops/math/rope_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void rope_cpu(const Rope& args) {
  const auto rows = QUIRE_FOR_ISA(rope_rows);
  for_rows(args.N, 2 * args.H * args.pairs,
           [&](std::int64_t begin, std::int64_t end) { rows(args, begin, end); });
}

}  // namespace quire::kernel

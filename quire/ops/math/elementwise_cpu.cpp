#include "quire/ops/math/elementwise_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void add_cpu(const Add& args) {
  const auto range = QUIRE_FOR_ISA(add_range);
  for_rows(args.N, 1, [&](std::int64_t begin, std::int64_t end) { range(args, begin, end); });
}

}  // namespace quire::kernel

#include "quire/ops/math/activation_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void swiglu_cpu(const Swiglu& args) {
  const auto range = QUIRE_FOR_ISA(swiglu_range);
  // An exponential and a division weigh as much as four streamed numbers.
  for_rows(args.N, 4, [&](std::int64_t begin, std::int64_t end) { range(args, begin, end); });
}

}  // namespace quire::kernel

#include "quire/base/simd.h"
#include "quire/ops/math/elementwise_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

void add_range(const Add& args, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + 16 <= end; i += 16) store(args.x_N + i, add(load(args.x_N + i), load(args.y_N + i)));
  const int rest = static_cast<int>(end - i);
  if (rest == 0) return;
  store_first(args.x_N + i, add(load_first(args.x_N + i, rest), load_first(args.y_N + i, rest)),
              rest);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

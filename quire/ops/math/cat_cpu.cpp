#include <cstring>

#include "quire/ops/math/cat_kernel.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {

void cat_part_cpu(const CatPart& args) {
  for_rows(args.rows, args.run_bytes / 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      std::memcpy(args.out + row * args.step_bytes, args.part + row * args.run_bytes,
                  static_cast<std::size_t>(args.run_bytes));
  });
}

}  // namespace quire::kernel

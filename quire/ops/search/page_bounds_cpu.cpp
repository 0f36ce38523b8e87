#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/page_bounds_kernel.h"

namespace quire::kernel {

void page_bounds_cpu(const PageBoundsArgs& args) {
  const auto bound = QUIRE_FOR_ISA(bound_page);
  thread_pool().run(args.kv.G * args.P, [&](std::int64_t piece) {
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(64 * args.kv.K));
    bound(args, piece / args.P, piece % args.P, scratch.data());
  });
}

void page_bound_scores_cpu(const PageBoundScores& args) {
  const auto bound = QUIRE_FOR_ISA(bound_row);
  thread_pool().run(args.N * args.H, [&](std::int64_t row) { bound(args, row); });
}

}  // namespace quire::kernel

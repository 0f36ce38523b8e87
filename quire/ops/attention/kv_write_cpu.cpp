#include "quire/base/thread_pool.h"
#include "quire/ops/attention/kv_write_kernel.h"

namespace quire::kernel {

void kv_write_cpu(const KvWrite& args) {
  const auto heads = QUIRE_FOR_ISA(kv_write_heads);
  // Less than this many numbers cost less than waking a thread.
  if (args.N * args.G * args.K < 16'384) return heads(args, 0, args.G);
  thread_pool().run(args.G, [&](std::int64_t g) { heads(args, g, g + 1); });
}

}  // namespace quire::kernel

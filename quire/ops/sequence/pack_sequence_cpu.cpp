#include <cstring>

#include "quire/base/thread_pool.h"
#include "quire/ops/sequence/pack_sequence_kernel.h"

namespace quire::kernel {

void pack_sequence_cpu(const PackSequence& args) {
  thread_pool().run(args.B, [&](std::int64_t b) {
    const std::int64_t length = args.start_J[b + 1] - args.start_J[b];
    if (length == 0 || args.token_bytes == 0) return;
    const std::int64_t first = args.left ? args.S - length : 0;
    const std::int64_t padded = (b * args.S + first) * args.token_bytes,
                       packed = args.start_J[b] * args.token_bytes;
    std::memcpy(args.out + (args.pack ? packed : padded), args.x + (args.pack ? padded : packed),
                static_cast<std::size_t>(length * args.token_bytes));
  });
}

}  // namespace quire::kernel

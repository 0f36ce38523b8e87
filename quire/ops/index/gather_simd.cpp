#include "quire/ops/index/fetch_ahead.h"
#include "quire/ops/index/gather_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

QUIRE_INLINE void copy_row(std::byte* out, const std::byte* in, std::int64_t bytes) {
  std::int64_t b = 0;
  for (; b + 64 <= bytes; b += 64) store_bytes(out + b, load_bytes(in + b));
  if (b < bytes) __builtin_memcpy(out + b, in + b, static_cast<std::size_t>(bytes - b));
}

QUIRE_INLINE void stream_row(std::byte* out, const std::byte* in, std::int64_t bytes) {
#if defined(QUIRE_ISA_avx512)
  for (std::int64_t b = 0; b < bytes; b += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + b), load_bytes(in + b).v);
#else
  copy_row(out, in, bytes);
#endif
}

void gather_rows(const GatherRows& args) {
  const std::int64_t ahead = rows_ahead(args.row_bytes);
  for (std::int64_t n = 0; n < args.count; ++n) {
    const std::byte* row = args.self + args.index[n * args.index_step] * args.self_step;
    if (n + ahead < args.count) {
      const std::int64_t next = args.index[(n + ahead) * args.index_step];
      fetch_row(args.self + next * args.self_step, args.row_bytes);
    }
    if (args.stream) {
      stream_row(args.out + n * args.out_step, row, args.row_bytes);
    } else {
      copy_row(args.out + n * args.out_step, row, args.row_bytes);
    }
  }
#if defined(QUIRE_ISA_avx512)
  if (args.stream) _mm_sfence();
#endif
}

}  // namespace quire::kernel::QUIRE_ISA_NS

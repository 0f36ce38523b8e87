#pragma once

namespace quire {

/// What this machine can do at most, to compare kernels with: measured, not looked up.
struct Ceilings {
  double stream_gb_s = 0;  // bytes read from memory, 1e9 a second
  double fma_gflop_s = 0;  // f32 multiplications and additions
  double int8_gop_s = 0;   // 8-bit multiplications and additions into 32 bits
};

/// How long the measurement may take: kQuick is for a check that it works, its numbers are rough.
enum class Effort { kQuick, kFull };

/// Measures with the threads of thread_pool() and the kernels of isa(): the best of several rounds
/// of each loop. kFull takes about a second and up to 1 GiB of memory while it runs.
/// **Throws** std::bad_alloc.
Ceilings measure_ceilings(Effort effort);

}  // namespace quire

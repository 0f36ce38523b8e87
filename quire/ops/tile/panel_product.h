#pragma once

// The register tile under gemm, attention scores and the weighted sum of values: T rows of floats
// times P vectors of 16 columns, one chain of FMAs for each output, whatever T and P: how rows are
// grouped never changes a bit.

#include <cstddef>
#include <cstdint>

#include "quire/base/simd.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// How 16 stored elements become floats.
struct LoadF32 {
  static constexpr std::int64_t kBytes = 4;
  QUIRE_INLINE F32 at(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
};
struct LoadF16 {
  static constexpr std::int64_t kBytes = 2;
  QUIRE_INLINE F32 at(const std::byte* p) { return load_f16(p); }
};
struct LoadBF16 {
  static constexpr std::int64_t kBytes = 2;
  QUIRE_INLINE F32 at(const std::byte* p) { return load_bf16(p); }
};
struct LoadI8 {
  static constexpr std::int64_t kBytes = 1;
  QUIRE_INLINE F32 at(const std::byte* p) { return load_i8(p); }
};

// The casts: an array bound of type int is a sign conversion to one of the compilers.
template <class T, int N>
using Array = T[static_cast<std::size_t>(N)];
template <int T, int P>
using Accumulators = F32[static_cast<std::size_t>(T)][static_cast<std::size_t>(P)];

/// A number as a type, for lambdas that want it at compile time.
template <int N>
struct Constant {
  static constexpr int kValue = N;
};

template <int T, int P>
QUIRE_INLINE void clear(Accumulators<T, P>& acc) {
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) acc[t][p] = zero();
}

/// acc[t][p] += Σ_d x[t][d] · w(p, d) for d in [begin, end), where w(p, d) is the 16 elements at w
/// + p·panel_bytes + d·step_bytes. What lies ahead_bytes (not 0) behind each vector is asked for
/// meanwhile: memory that one pass reads in short runs, which the processor does not foresee.
template <class Load, int T, int P>
QUIRE_INLINE void panel_product(Accumulators<T, P>& acc, const Array<const float*, T>& x,
                                const std::byte* w, std::int64_t panel_bytes,
                                std::int64_t step_bytes, std::int64_t begin, std::int64_t end,
                                std::int64_t ahead_bytes = 0) {
  w += begin * step_bytes;
  for (std::int64_t d = begin; d < end; ++d, w += step_bytes) {
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      column[p] = Load::at(w + p * panel_bytes);
      if (ahead_bytes != 0) prefetch_far(w + p * panel_bytes + ahead_bytes);
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const F32 xt = set1(x[t][d]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[t][p] = fma(column[p], xt, acc[t][p]);
    }
  }
}

/// The same for panels that lie anywhere: w(p, d) is the 16 elements at w[p] + d·step_bytes, for d
/// in [0, end). Where `next` is given, what lies there is asked for meanwhile, as far behind.
template <class Load, int T, int P>
QUIRE_INLINE void panel_product(Accumulators<T, P>& acc, const Array<const float*, T>& x,
                                const std::byte* const* w, std::int64_t step_bytes,
                                std::int64_t end, const std::byte* const* next) {
  std::int64_t at = 0;
  for (std::int64_t d = 0; d < end; ++d, at += step_bytes) {
    Array<F32, P> column;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      column[p] = Load::at(w[p] + at);
      if (next != nullptr) prefetch_far(next[p] + at);
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; ++t) {
      const F32 xt = set1(x[t][d]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[t][p] = fma(column[p], xt, acc[t][p]);
    }
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

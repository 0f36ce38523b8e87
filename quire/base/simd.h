#pragma once

// Vectors of 16 floats and of 64 bytes, with one implementation per instruction set: what the
// *_simd.cpp files are written in. Everything lies in quire::kernel::<instruction set>, so that no
// two translation units share an inline function compiled for different processors.

#include <cstddef>
#include <cstdint>

#if defined(QUIRE_ISA_avx512)
#include "quire/base/simd_avx512.h"
#else
#include "quire/base/simd_portable.h"
#endif

namespace quire::kernel::QUIRE_ISA_NS {

inline constexpr int kLanes = 16;

/// e^x, at most 2 ulp off between e^-87.3 and e^88.7. Below (−inf included) it is 0, so a masked
/// score weighs exactly nothing; above (∞ included) it stays at e^88.7, 3.4028e38.
QUIRE_INLINE F32 exp(F32 x) {
  const F32 clamped =
      max(set1(-87.33654f), min(set1(88.72283f), x));  // in this order a NaN stays one
  const F32 n = round(mul(clamped, set1(1.44269504f)));
  F32 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F32 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  const F32 y = add(fma(mul(r, r), p, r), set1(1.0f));
  return select_less(x, set1(-87.33654f), zero(), scale_by_power(y, n));
}

}  // namespace quire::kernel::QUIRE_ISA_NS

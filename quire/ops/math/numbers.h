#pragma once

#include <cstdint>
#include <type_traits>

#include "quire/base/dtype_enum.h"
#include "quire/base/half.h"

namespace quire::kernel {

/// How the stored types of floating tensors are computed with: f64 as itself, all others as f32.
template <class T>
struct ComputeOf {
  using Type = float;
};
template <>
struct ComputeOf<double> {
  using Type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::Type;

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return to_float(x); }
inline float widen(Half x) { return to_float(x); }

/// Rounds once, to nearest even.
template <class T, class X>
T narrow(X x) {
  if constexpr (std::is_same_v<T, Half>) {
    return to_half(static_cast<float>(x));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return to_bfloat16(static_cast<float>(x));
  } else {
    return static_cast<T>(x);
  }
}

/// Calls f(T{}) with the C++ type of a floating dtype.
template <class F>
void with_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF64:
      return f(double{});
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(BFloat16{});
    case DType::kF16:
      return f(Half{});
    default:
      return;  // the callers have checked
  }
}

}  // namespace quire::kernel

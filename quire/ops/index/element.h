#pragma once

// One element of any dtype: how it is accumulated and combined. Only for sources that are compiled
// once.

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "quire/base/dtype_enum.h"
#include "quire/base/half.h"
#include "quire/ops/index/scatter_kernel.h"

namespace quire::kernel {

/// Calls body.operator()<T>() with the C++ type of a dtype.
template <class Body>
decltype(auto) with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF64:
      return body.template operator()<double>();
    case DType::kF32:
      return body.template operator()<float>();
    case DType::kBF16:
      return body.template operator()<BFloat16>();
    case DType::kF16:
      return body.template operator()<Half>();
    case DType::kI64:
      return body.template operator()<std::int64_t>();
    case DType::kI32:
      return body.template operator()<std::int32_t>();
    case DType::kI16:
      return body.template operator()<std::int16_t>();
    case DType::kI8:
      return body.template operator()<std::int8_t>();
    case DType::kU8:
      return body.template operator()<std::uint8_t>();
    case DType::kBool:
    case DType::kI4:  // of no tensor
    case DType::kI4H:
    case DType::kI8H:
      break;
  }
  return body.template operator()<bool>();
}

/// The floating ones.
template <class Body>
decltype(auto) with_floating_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF64:
      return body.template operator()<double>();
    case DType::kBF16:
      return body.template operator()<BFloat16>();
    case DType::kF16:
      return body.template operator()<Half>();
    default:
      break;
  }
  return body.template operator()<float>();
}

template <class T>
inline constexpr bool kIsShort = std::same_as<T, Half> || std::same_as<T, BFloat16>;
/// What elements of type T are computed in.
template <class T>
using Acc = std::conditional_t<kIsShort<T>, float, T>;

template <class T>
Acc<T> widen(T x) {
  if constexpr (kIsShort<T>) {
    return to_float(x);
  } else {
    return x;
  }
}
template <class T>
T narrow(Acc<T> x) {
  if constexpr (std::same_as<T, Half>) {
    return to_half(x);
  } else if constexpr (std::same_as<T, BFloat16>) {
    return to_bfloat16(x);
  } else {
    return x;
  }
}

template <class A>
A plus(A a, A b) {
  if constexpr (std::same_as<A, bool>) {
    return a || b;
  } else if constexpr (std::integral<A>) {
    return static_cast<A>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  } else {
    return a + b;
  }
}
template <class A>
A times(A a, A b) {
  if constexpr (std::same_as<A, bool>) {
    return a && b;
  } else if constexpr (std::integral<A>) {
    return static_cast<A>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  } else {
    return a * b;
  }
}

/// A factor as a number of type A: integers take whole ones, negative ones modulo 2^n.
template <class A>
A factor(double alpha) {
  if constexpr (std::floating_point<A>) {
    return static_cast<A>(alpha);
  } else {
    return static_cast<A>(static_cast<std::int64_t>(alpha));
  }
}

/// acc after x joined it. A NaN stays, from either side; of equal extremes the first stays.
template <Combine C, class A>
A combine(A acc, A x) {
  if constexpr (C == Combine::kAssign) {
    return x;
  } else if constexpr (C == Combine::kSum || C == Combine::kMean) {
    return plus(acc, x);
  } else if constexpr (C == Combine::kProd) {
    return times(acc, x);
  } else if constexpr (C == Combine::kAmax) {
    const A larger = x > acc ? x : acc;  // one instruction; the branch below is foreseen
    return x != x ? x : larger;
  } else {
    const A smaller = x < acc ? x : acc;
    return x != x ? x : smaller;
  }
}

/// What changes nothing when combined.
template <Combine C, class A>
A identity() {
  using Limits = std::numeric_limits<A>;
  if constexpr (C == Combine::kProd) {
    return A(1);
  } else if constexpr (C == Combine::kAmax) {
    return Limits::has_infinity ? static_cast<A>(-Limits::infinity()) : Limits::lowest();
  } else if constexpr (C == Combine::kAmin) {
    return Limits::has_infinity ? Limits::infinity() : Limits::max();
  } else {
    return A(0);
  }
}

/// acc / count: floating division, or toward minus infinity.
template <class A>
A divide(A acc, std::int64_t count) {
  if constexpr (std::floating_point<A>) {
    return acc / static_cast<A>(count);
  } else {
    const std::int64_t value = static_cast<std::int64_t>(acc), down = value / count;
    return static_cast<A>(value % count < 0 ? down - 1 : down);
  }
}

/// Calls body.operator()<C>() with the combination, which is not kAssign, as a constant.
template <class Body>
decltype(auto) with_reduction(Combine combine, Body&& body) {
  switch (combine) {
    case Combine::kSum:
      return body.template operator()<Combine::kSum>();
    case Combine::kProd:
      return body.template operator()<Combine::kProd>();
    case Combine::kMean:
      return body.template operator()<Combine::kMean>();
    case Combine::kAmax:
      return body.template operator()<Combine::kAmax>();
    case Combine::kAmin:
    case Combine::kAssign:
      break;
  }
  return body.template operator()<Combine::kAmin>();
}

}  // namespace quire::kernel

#pragma once

// The activations and their slopes, once for vectors of floats and once for doubles: `Math` brings
// the arithmetic of its type V.

#include "quire/ops/moe/expert_activation_kind.h"

namespace quire::kernel {

/// The slopes of one output with respect to a and b; b has none in an activation of one number.
template <class V>
struct Slopes {
  V a, b;
};

/// √(8/π) and its products with 0.044715 and 3 · 0.044715.
inline constexpr double kGeluSlope = 1.5957691216057308;
inline constexpr double kGeluCube = kGeluSlope * 0.044715, kGeluCubeSlope = 3 * kGeluCube;

template <class Math, class V = typename Math::V>
[[gnu::always_inline]] inline V activation_value(ActivationKind kind, V a, V b, double limit,
                                                 double alpha) {
  using M = Math;
  switch (kind) {
    case ActivationKind::kSwiglu:
      return M::mul(M::mul(a, M::sigmoid(a)), b);
    case ActivationKind::kSwigluClamped: {
      const V held = M::min(a, M::set(limit));
      const V up = M::max(M::min(b, M::set(limit)), M::set(-limit));
      return M::mul(M::mul(held, M::sigmoid(M::mul(held, M::set(alpha)))), M::add(up, M::set(1)));
    }
    case ActivationKind::kGlu:
      return M::mul(a, M::sigmoid(b));
    case ActivationKind::kGeglu:
    case ActivationKind::kGelu: {
      const V square = M::mul(a, a);
      const V inner = M::mul(a, M::add(M::set(kGeluSlope), M::mul(square, M::set(kGeluCube))));
      const V gelu = M::mul(a, M::sigmoid(inner));
      return kind == ActivationKind::kGelu ? gelu : M::mul(gelu, b);
    }
    case ActivationKind::kReglu:
      return M::mul(M::max(a, M::set(0)), b);
    case ActivationKind::kRelu:
      return M::max(a, M::set(0));
    case ActivationKind::kRelu2: {
      const V held = M::max(a, M::set(0));
      return M::mul(held, held);
    }
    case ActivationKind::kSilu:
      return M::mul(a, M::sigmoid(a));
  }
  return a;
}

/// d gelu / da, and gelu.
template <class Math, class V = typename Math::V>
[[gnu::always_inline]] inline Slopes<V> gelu_slope(V a) {
  using M = Math;
  const V square = M::mul(a, a);
  const V inner = M::mul(a, M::add(M::set(kGeluSlope), M::mul(square, M::set(kGeluCube))));
  const V rise = M::sigmoid(inner);
  const V steep = M::add(M::set(kGeluSlope), M::mul(square, M::set(kGeluCubeSlope)));
  const V bend = M::mul(M::mul(M::mul(a, rise), M::sub(M::set(1), rise)), steep);
  return {M::add(rise, bend), M::mul(a, rise)};
}

template <class Math, class V = typename Math::V>
[[gnu::always_inline]] inline Slopes<V> activation_slopes(ActivationKind kind, V a, V b,
                                                          double limit, double alpha) {
  using M = Math;
  const V none = M::set(0), one = M::set(1);
  switch (kind) {
    case ActivationKind::kSwiglu:
    case ActivationKind::kSilu: {
      const V s = M::sigmoid(a);
      const V slope = M::mul(s, M::add(one, M::mul(a, M::sub(one, s))));
      if (kind == ActivationKind::kSilu) return {slope, none};
      return {M::mul(slope, b), M::mul(a, s)};
    }
    case ActivationKind::kSwigluClamped: {
      const V high = M::set(limit), low = M::set(-limit);
      const V held = M::min(a, high), up = M::max(M::min(b, high), low);
      const V s = M::sigmoid(M::mul(held, M::set(alpha)));
      const V bend = M::mul(M::mul(held, M::set(alpha)), M::sub(one, s));
      const V da = M::mul(M::mul(s, M::add(one, bend)), M::add(up, one));
      const V db = M::mul(held, s);
      return {M::if_less(high, a, none, da),
              M::if_less(high, b, none, M::if_less(b, low, none, db))};
    }
    case ActivationKind::kGlu: {
      const V s = M::sigmoid(b);
      return {s, M::mul(M::mul(a, s), M::sub(one, s))};
    }
    case ActivationKind::kGeglu: {
      const Slopes<V> gelu = gelu_slope<Math>(a);
      return {M::mul(gelu.a, b), gelu.b};
    }
    case ActivationKind::kGelu:
      return {gelu_slope<Math>(a).a, none};
    case ActivationKind::kReglu:
      return {M::if_less(none, a, b, none), M::max(a, none)};
    case ActivationKind::kRelu:
      return {M::if_less(none, a, one, none), none};
    case ActivationKind::kRelu2: {
      const V held = M::max(a, none);
      return {M::add(held, held), none};
    }
  }
  return {one, none};
}

}  // namespace quire::kernel

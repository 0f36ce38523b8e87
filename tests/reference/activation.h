#pragma once

#include <cmath>

namespace ref {

template <class T>
T silu(T gate) {
  return gate / (1 + std::exp(-gate));
}

template <class T>
T swiglu(T gate, T up) {
  return silu(gate) * up;
}

}  // namespace ref

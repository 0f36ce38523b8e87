#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace quire::test {

/// What tests of f32 kernels are given, and what they look at.
inline std::vector<float> normal_floats(std::int64_t count, std::uint64_t seed, float scale = 1) {
  Rng rng(seed);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = scale * rng.normal();
  return out;
}

inline Tensor f32_tensor(const std::vector<float>& values, Shape shape) {
  return Tensor::of(std::span<const float>(values), std::move(shape));
}

/// The elements in row-major order, whatever the strides.
inline std::vector<float> floats_of(const Tensor& x) {
  const Tensor rows = x.contiguous_copy();
  return {rows.data<float>(), rows.data<float>() + rows.elements()};
}

}  // namespace quire::test

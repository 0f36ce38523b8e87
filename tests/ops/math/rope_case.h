#pragma once

#include <span>
#include <vector>

#include "quire/ops/math/rope.h"
#include "tests/support/f32_tensors.h"

namespace quire::test {

inline Tensor normal_tensor(Shape shape, std::uint64_t seed) {
  Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  for (std::int64_t i = 0; i < out.elements(); ++i) out.mutable_data<float>()[i] = rng.normal();
  return out;
}

inline std::vector<float> turned(const RopeTable& table, const Tensor& x,
                                 std::span<const std::int64_t> positions) {
  Tensor copy = x.to(DType::kF32);
  table.apply(copy, positions);
  return floats_of(copy);
}

}  // namespace quire::test

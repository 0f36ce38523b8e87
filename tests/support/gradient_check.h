#pragma once

// How every gradient is checked: central differences in f64, or the complex step through a
// reference that is templated on its scalar.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace quire::test {

/// Normal numbers of any floating dtype.
inline Tensor random_tensor(Shape shape, std::uint64_t seed, DType dtype = DType::kF64) {
  Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), DType::kF64);
  double* to = out.mutable_data<double>();
  for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = static_cast<double>(rng.normal());
  return dtype == DType::kF64 ? out : out.to(dtype);
}

/// The values of any tensor of numbers, row-major.
inline std::vector<double> values(const Tensor& x) {
  const Tensor plain = x.dtype() == DType::kF64 ? x.contiguous_copy() : x.to(DType::kF64);
  return {plain.data<double>(), plain.data<double>() + plain.elements()};
}

inline Tensor tensor_of(const std::vector<double>& numbers, Shape shape,
                        DType dtype = DType::kF64) {
  const Tensor out = Tensor::of(std::span<const double>(numbers), std::move(shape));
  return dtype == DType::kF64 ? out : out.to(dtype);
}

inline Tensor index_of(const std::vector<std::int64_t>& numbers, Shape shape) {
  return Tensor::of(std::span<const std::int64_t>(numbers), std::move(shape));
}

using TensorFunction = std::function<Tensor(const std::vector<Tensor>&)>;

/// d Σ dout · f / d inputs[which], by differences of the fourth order: their own error is about
/// 1e-12 of the fifth derivative plus 1e-13 of the value. No input may stand within two steps of a
/// tie.
inline std::vector<double> differences(const TensorFunction& f, std::vector<Tensor> inputs,
                                       std::size_t which, const std::vector<double>& dout) {
  constexpr double kStep = 0x1p-10;
  const std::vector<double> at = values(inputs[which]);
  const Shape shape = inputs[which].shape();
  std::vector<double> out(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const auto along = [&](double steps) {
      std::vector<double> moved = at;
      moved[i] += steps * kStep;
      inputs[which] = tensor_of(moved, shape);
      const std::vector<double> y = values(f(inputs));
      double sum = 0;
      for (std::size_t j = 0; j < y.size(); ++j) sum += y[j] * dout[j];
      return sum;
    };
    out[i] = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / (12 * kStep);
  }
  return out;
}

inline void expect_close(const std::vector<double>& found, const std::vector<double>& expected,
                         const std::string& what, double tolerance = 1e-9) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double scale = 1;
  for (const double x : expected) scale = std::max(scale, std::abs(x));
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], tolerance * scale) << what << " at " << i;
}

/// Expects gradients[i] to be d Σ dout · f / d inputs[i], in inputs[i]'s shape. All f64.
inline void expect_gradients(const TensorFunction& f, const std::vector<Tensor>& inputs,
                             const Tensor& dout, const std::vector<Tensor>& gradients) {
  ASSERT_EQ(inputs.size(), gradients.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(gradients[i].shape(), inputs[i].shape()) << "gradient " << i;
    expect_close(values(gradients[i]), differences(f, inputs, i, values(dout)),
                 "gradient " + std::to_string(i));
  }
}

/// d Σ dout · f / d inputs[which] through f at complex numbers: exact to the last bits, but f must
/// be analytic (a softmax subtracts the largest real part as a constant).
template <class F>
std::vector<double> complex_step(F&& f, const std::vector<std::vector<double>>& inputs,
                                 std::size_t which, const std::vector<double>& dout) {
  using Complex = std::complex<double>;
  constexpr double kStep = 1e-100;
  std::vector<std::vector<Complex>> at;
  for (const auto& input : inputs) at.emplace_back(input.begin(), input.end());
  std::vector<double> out(inputs[which].size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    at[which][i] += Complex(0, kStep);
    const std::vector<Complex> y = f(at);
    for (std::size_t j = 0; j < y.size(); ++j) out[i] += y[j].imag() / kStep * dout[j];
    at[which][i] = inputs[which][i];
  }
  return out;
}

}  // namespace quire::test

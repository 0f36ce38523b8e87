#pragma once

// gradient_check.h for functions of Vars.

#include <vector>

#include "quire/grad/tape.h"
#include "quire/ops/math/arithmetic.h"
#include "tests/support/gradient_check.h"

namespace quire::test {

using VarFunction = std::function<grad::Var(const std::vector<grad::Var>&)>;

inline std::vector<grad::Var> leaves(const std::vector<Tensor>& inputs) {
  std::vector<grad::Var> out;
  for (const Tensor& input : inputs) out.emplace_back(input, grad::Needs::kGradient);
  return out;
}

/// f on tensors, off the tape.
inline TensorFunction plain(const VarFunction& f) {
  return [f](const std::vector<Tensor>& inputs) {
    std::vector<grad::Var> constants;
    for (const Tensor& input : inputs) constants.emplace_back(input);
    const grad::Var out = f(constants);
    EXPECT_FALSE(out.needs_gradient());
    return out.value();
  };
}

/// Expects the tape's gradients of f (f64) to be those of differences, for a random dout; and that
/// a second pass over the retained tape doubles them.
inline void expect_tape_gradients(const VarFunction& f, const std::vector<Tensor>& inputs) {
  const std::vector<grad::Var> vars = leaves(inputs);
  const grad::Var out = f(vars);
  const Tensor dout = random_tensor(out.shape(), 4711);
  grad::backward(out, dout, grad::Graph::kRetain);
  std::vector<Tensor> gradients;
  for (const grad::Var& var : vars) gradients.push_back(var.gradient());
  expect_gradients(plain(f), inputs, dout, gradients);
  grad::backward(out, dout);
  for (std::size_t i = 0; i < vars.size(); ++i) {
    EXPECT_EQ(values(vars[i].gradient()), values(mul(gradients[i], 2.0)))
        << "backward twice, gradient " << i;
  }
}

/// Expects the gradients of the gradients of f, with respect to the inputs and to dout.
inline void expect_second_gradients(const VarFunction& f, const std::vector<Tensor>& inputs) {
  const VarFunction first = [&](const std::vector<grad::Var>& all) {
    const std::vector<grad::Var> vars(all.begin(), all.end() - 1);
    const grad::Var out = f(vars);
    std::vector<grad::Var> parts = grad::gradients(out, all.back(), vars, grad::Graph::kCreate);
    return parts[0];
  };
  std::vector<Tensor> all = inputs;
  const Shape shape = plain(f)(inputs).shape();
  all.push_back(random_tensor(shape, 815));
  const std::vector<grad::Var> vars = leaves(all);
  const grad::Var out = first(vars);
  ASSERT_TRUE(out.needs_gradient());
  const Tensor dout = random_tensor(out.shape(), 4712);
  grad::backward(out, dout);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Tensor found =
        vars[i].has_gradient() ? vars[i].gradient() : Tensor::zeros(vars[i].shape(), DType::kF64);
    const TensorFunction value = [&](const std::vector<Tensor>& at) {
      return first(leaves(at)).value();
    };
    expect_close(values(found), differences(value, all, i, values(dout)),
                 "second gradient " + std::to_string(i));
  }
}

}  // namespace quire::test

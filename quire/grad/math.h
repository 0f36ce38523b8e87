#pragma once

#include <span>
#include <vector>

#include "quire/grad/var.h"
#include "quire/ops/math/arithmetic.h"
#include "quire/ops/math/reduce.h"

/// The functions of ops/math for Vars: the same names, arguments, results and errors as for
/// Tensors. Where no argument needs a gradient they cost what those cost. The gradients of add,
/// sub, mul, neg, sum, mean, sum_to and cat can be differentiated again; of the others not.
namespace quire::grad {

/// As in arithmetic.h.
Var add(const Var& a, const Var& b);
Var sub(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var div(const Var& a, const Var& b);
Var add(const Var& a, double b);
Var mul(const Var& a, double b);
Var neg(const Var& a);
Var exp(const Var& a);
Var clamp_min(const Var& a, double min);

/// As in reduce.h.
Var sum(const Var& x, const std::vector<int>& dims, Axis axis = Axis::kDrop);
Var sum(const Var& x);
Var mean(const Var& x, const std::vector<int>& dims, Axis axis = Axis::kDrop);
Var mean(const Var& x);
Var norm(const Var& x, int dim, Axis axis = Axis::kDrop);
Var sum_to(const Var& x, const Shape& shape);

/// The gradient goes to the element that `index` names.
struct MaxVar {
  Var values;
  Tensor index;
};
MaxVar max(const Var& x, int dim, Axis axis = Axis::kDrop);

/// As in softmax.h, rms_norm.h, activation.h.
Var softmax(const Var& x, int dim);
Var rms_norm(const Var& x_ND, const Var& weight_D, double epsilon);
Var swiglu(const Var& gate_NF, const Var& up_NF);

/// The loss alone (loss.h).
Var cross_entropy(const Var& logits_NV, const Tensor& target_N, std::int64_t ignore = -100);

/// As in cat.h.
Var cat(std::span<const Var> parts, int dim);

}  // namespace quire::grad

#pragma once

#include "quire/grad/var.h"

/// The functions of ops/matmul on dense tensors for Vars: the same names, arguments, results and
/// errors.
namespace quire::grad {

/// As in dense.h, linear.h, embedding.h.
Var matmul(const Var& a, const Var& b);
Var linear(const Var& x, const Var& weight_MD);
Var linear(const Var& x, const Var& weight_MD, const Var& bias_M);
Var embedding(const Tensor& ids, const Var& table_VD);

}  // namespace quire::grad

#pragma once

#include "quire/grad/var.h"

/// The views of Tensor (tensor.h) for Vars: no copy, the same errors. Their gradients can be
/// differentiated again.
namespace quire::grad {

/// As the members of Tensor.
Var transpose(const Var& x, int a, int b);
Var expand(const Var& x, Shape shape);
Var view(const Var& x, Shape shape);
Var slice(const Var& x, int dim, std::int64_t begin, std::int64_t end);

/// Row-major, a copy where x is not.
Var contiguous(const Var& x);

}  // namespace quire::grad

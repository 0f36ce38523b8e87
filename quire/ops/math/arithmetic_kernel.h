#pragma once

#include <cstdint>
#include <vector>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

enum class Pointwise : std::uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kDivBackwardB,  // −a/b², times dout in the caller
  kNeg,
  kExp,
  kAddNumber,
  kMulNumber,
  kClampMin,
  kWhereAtLeast,  // a where b ≥ number, else 0
  kFill,
};

/// out[i] = op(a[i], b[i], number) over a row-major out; a and b by strides, in elements.
struct Arithmetic {
  Pointwise op;
  DType dtype;
  void* out;
  const void* a;  // null where the op reads none
  const void* b;
  double number;
  std::vector<std::int64_t> size, a_stride, b_stride;
};

void arithmetic_cpu(const Arithmetic& args);

}  // namespace quire::kernel

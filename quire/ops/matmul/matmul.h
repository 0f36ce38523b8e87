#pragma once

#include <span>
#include <vector>

#include "quire/ops/matmul/weight.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// kExact widens the weight inside the tile and multiplies in f32. kFast rounds the input to int8
/// in groups of 32 (one f32 scale each) and multiplies integers; kFastTwoTerm rounds to two int8
/// terms (the second is what the first left over). For F32, F16 and BF16 weights all three are
/// kExact.
enum class MatmulMode : std::uint8_t { kExact, kFast, kFastTwoTerm };

/// out[n, m] = Σ_d x[n, d] · weight[m, d].
///
/// x_ND     f32, any strides       the inputs, one row a token
/// weight   M × D
/// returns  f32 [N, M]
///
/// Throws  ArgumentError when x_ND's D is not the weight's columns.
/// Order   each output is one chain of FMAs over d (kFast: over groups of 32), whatever N and the
///         number of threads: a row's bits do not depend on the other rows.
Tensor matmul(const Tensor& x_ND, const Weight& weight, MatmulMode mode);

/// The same for several weights of one input, which is rounded once: one result for each weight, in
/// order. Same throws, same bits.
std::vector<Tensor> matmul_each(const Tensor& x_ND, std::span<const Weight* const> weights,
                                MatmulMode mode);

}  // namespace quire

#pragma once

#include "quire/ops/moe/expert_activation_kind.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// An activation and the layout of its pairs.
struct ExpertActivation {
  ActivationKind kind = ActivationKind::kSwiglu;
  PairLayout layout = PairLayout::kHalves;
  double limit = 7, alpha = 1.702;  // of kSwigluClamped
};

/// True for the kinds that take pairs: their input has twice the width of their output.
bool takes_pairs(ActivationKind kind);

/// out[m, f] = the activation of pre[m, …] (expert_activation_kind.h).
///
/// pre      f64, f32, bf16 or f16 [M, F or 2F], any strides
/// returns  [M, F] of that dtype; bf16 and f16 are computed in f32 and rounded once
///
/// Throws  ArgumentError on rank, dtype and an odd number of columns.
/// Order   element by element.
/// Source  Shazeer 2020 (GLU variants); So et al. 2021 (ReLU²); OpenAI 2025 (gpt-oss, clamped).
Tensor activate(const Tensor& pre, const ExpertActivation& activation);

/// dpre = dout · d out / d pre, in the shape of pre. At a corner the slope is that of the left side
/// for ReLU, and 1 at a limit, as in PyTorch. Throws as `activate`.
Tensor activate_backward(const Tensor& dout_MF, const Tensor& pre,
                         const ExpertActivation& activation);

}  // namespace quire

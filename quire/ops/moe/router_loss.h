#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// How unevenly a router spreads its tokens: 1 when every expert gets the same share of both
/// choices and probability, E when one gets all.
///
///   loss = E · Σ_e (n_e / (N · C)) · P_e        P_e = mean over tokens of softmax(logits)[e]
///
/// where n_e counts the choices of expert e.
///
/// logits_NE   f64, f32, bf16 or f16
/// experts_NC  i64, each in [0, E), or −1 (counts in N · C only)
/// returns     a number (rank 0) of that dtype; 0 for no tokens
///
/// Throws  ArgumentError on dtypes, sizes and expert numbers.
/// Order   tokens one after another in f64: the same bits with any number of threads.
/// Source  Fedus et al. 2021 (Switch Transformers, eq. 4), for C choices as in MegaBlocks.
Tensor balance_loss(const Tensor& logits_NE, const Tensor& experts_NC);

/// dlogits of the balance loss; the counts have none. `dout` is a number of the logits' dtype.
/// Throws as balance_loss does.
Tensor balance_loss_backward(const Tensor& dout, const Tensor& logits_NE, const Tensor& experts_NC);

/// The mean over tokens of (log Σ_e exp logits[n, e])²: keeps logits small. 0 for no tokens.
/// Throws ArgumentError on dtype and rank. Order as above.
/// Source  Zoph et al. 2022 (ST-MoE, eq. 5).
Tensor z_loss(const Tensor& logits_NE);
/// dlogits of the z loss; `dout` and throws as above.
Tensor z_loss_backward(const Tensor& dout, const Tensor& logits_NE);

}  // namespace quire

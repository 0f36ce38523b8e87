#include "quire/nn/feed_forward.h"

#include "quire/ops/math/activation.h"

namespace quire::nn {

Tensor feed_forward(const Tensor& x_ND, const FeedForward& weights, MatmulMode mode) {
  const Weight* both[] = {&weights.gate, &weights.up};
  const std::vector<Tensor> wide = matmul_each(x_ND, both, mode);
  return matmul(swiglu(wide[0], wide[1]), weights.down, mode);
}

}  // namespace quire::nn

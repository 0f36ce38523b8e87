#include "quire/nn/cached_attention.h"

#include "quire/base/error.h"

namespace quire::nn {

Tensor cached_attention(const Tensor& x_ND, const CachedAttention& weights, const RopeTable& rope,
                        std::int64_t G, cache::KvCache& cache, std::int64_t layer,
                        MatmulMode mode) {
  QUIRE_CHECK(G > 0 && weights.k.rows() % G == 0 && weights.v.rows() % G == 0, "G is ", G,
              ", but k has ", weights.k.rows(), " rows and v ", weights.v.rows());
  const std::int64_t N = x_ND.size(0), K = weights.k.rows() / G, U = weights.v.rows() / G;
  QUIRE_CHECK(K > 0 && weights.q.rows() % K == 0, "q has ", weights.q.rows(),
              " rows, but the head size is ", K);
  const std::int64_t H = weights.q.rows() / K;
  const Weight* inputs[] = {&weights.q, &weights.k, &weights.v};
  const std::vector<Tensor> projected = matmul_each(x_ND, inputs, mode);
  Tensor q_NHK = projected[0].view({N, H, K});
  Tensor k_NGK = projected[1].view({N, G, K});
  const std::vector<std::int64_t> positions = cache.positions(N);
  rope.apply(q_NHK, positions);
  rope.apply(k_NGK, positions);
  cache.append(layer, k_NGK, projected[2].view({N, G, U}));
  return matmul(cache.attend(layer, q_NHK).view({N, H * U}), weights.output, mode);
}

}  // namespace quire::nn

#include "quire/ops/search/cluster_mass.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/search/cluster_mass_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_f32(const Tensor& x, const char* name) {
  QUIRE_CHECK(x.dtype() == DType::kF32, name, " is ", to_string(x.dtype()), ", expected f32");
}

/// Throws unless q and centroids belong together; returns the scale.
float checked_scale(const Tensor& q_NHK, const KvView& centroids, double scale) {
  const std::int64_t H = q_NHK.size(1), K = q_NHK.size(2);
  check_f32(q_NHK, "q_NHK");
  QUIRE_CHECK(centroids.dtype != DType::kF64, "centroids are f64; expected f32, bf16, f16 or i8");
  QUIRE_CHECK(centroids.K == K && H % centroids.G == 0, "q_NHK is ", to_string(q_NHK.shape()),
              ", but centroids have K = ", centroids.K, " and G = ", centroids.G);
  QUIRE_CHECK(
      centroids.bias == nullptr || centroids.bias_heads == 1 || centroids.bias_heads == centroids.G,
      "centroids.bias_heads is ", centroids.bias_heads, "; it may be 1 or G = ", centroids.G);
  QUIRE_CHECK(scale >= 0 && std::isfinite(scale), "scale is ", scale);
  return static_cast<float>(scale == 0 ? 1 / std::sqrt(static_cast<double>(K)) : scale);
}

Tensor squares(const Tensor& q) {
  Tensor out = Tensor::empty(q.shape(), DType::kF32);
  const float* from = q.data<float>();
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < q.elements(); ++i) to[i] = from[i] * from[i];
  return out;
}

}  // namespace

Tensor cluster_mass(const Tensor& q_NHK, const KvView& centroids, std::int64_t b, double scale,
                    const std::optional<KvView>& variance) {
  const Dims dims = QUIRE_DIMS(q_NHK);
  const float plain = checked_scale(q_NHK, centroids, scale);
  const std::int64_t M = checked_keys(centroids, b), N = dims['N'], H = dims['H'], K = dims['K'];
  const Tensor q = q_NHK.contiguous_copy();
  Tensor square, out = Tensor::empty({N, H, M}, DType::kF32);
  if (variance) {
    QUIRE_CHECK(checked_keys(*variance, b) == M && variance->K == K && variance->G == centroids.G &&
                    variance->k_scale_PZG == nullptr && variance->dtype != DType::kF64,
                "variance is not of the form of the centroids: f32, bf16 or f16, as many keys");
    square = squares(q);
  }
  kernel::cluster_mass_cpu({q.data<float>(), variance ? square.data<float>() : nullptr, centroids,
                            variance ? *variance : KvView{}, b, N, H, M, plain,
                            out.mutable_data<float>()});
  return out;
}

void cluster_mass_of_head(const Tensor& q_1HK, const KvView& centroids, std::int64_t b,
                          double scale, std::int64_t g, Tensor& mass_1HM) {
  QUIRE_CHECK(q_1HK.rank() == 3 && mass_1HM.rank() == 3,
              "q_1HK and mass_1HM need three dimensions");
  const float plain = checked_scale(q_1HK, centroids, scale);
  const std::int64_t M = checked_keys(centroids, b), H = q_1HK.size(1);
  QUIRE_CHECK(g >= 0 && g < centroids.G, "g is ", g, " of ", centroids.G, " kv heads");
  QUIRE_CHECK((q_1HK.size(0) == 1 && mass_1HM.shape() == Shape{1, H, M}), "q_1HK is ",
              to_string(q_1HK.shape()), " and mass_1HM ", to_string(mass_1HM.shape()),
              ", expected ", to_string(Shape{1, H, M}));
  check_f32(mass_1HM, "mass_1HM");
  const Tensor q = q_1HK.contiguous_copy();
  kernel::cluster_mass_head_cpu({q.data<float>(), nullptr, centroids, KvView{}, b, 1, H, M, plain,
                                 mass_1HM.mutable_data<float>()},
                                g);
}

double log_sum_exp(std::span<const float> x) {
  return kernel::log_sum_exp_cpu(x.data(), std::ssize(x));
}

void log_sum_exp_of_16(std::span<const float> x, std::span<const float> mask,
                       std::span<float> out) {
  QUIRE_CHECK(mask.size() == x.size() && out.size() == (x.size() + 15) / 16, "x has ", x.size(),
              " numbers, mask ", mask.size(), " and out ", out.size());
  kernel::log_sum_exp_of_16_cpu(x.data(), mask.data(), std::ssize(x), out.data());
}

Tensor cluster_rank(const Tensor& mass_NHM, const Tensor& bias_GM, const Tensor& hot_NH,
                    GroupVote vote) {
  const Dims dims = QUIRE_DIMS(mass_NHM, bias_GM, hot_NH);
  check_f32(mass_NHM, "mass_NHM");
  check_f32(bias_GM, "bias_GM");
  check_f32(hot_NH, "hot_NH");
  const std::int64_t N = dims['N'], H = dims['H'], G = dims['G'], M = dims['M'];
  QUIRE_CHECK(G > 0 && H % G == 0, "mass_NHM has H = ", H, ", which is not a multiple of G = ", G);
  const Tensor mass = mass_NHM.contiguous_copy(), bias = bias_GM.contiguous_copy(),
               hot = hot_NH.contiguous_copy();
  Tensor out = Tensor::empty({N, G, M}, DType::kF32), lse_NH = Tensor::empty({N, H}, DType::kF64);
  kernel::cluster_rank_cpu({mass.data<float>(), bias.data<float>(), hot.data<float>(),
                            out.mutable_data<float>(), lse_NH.mutable_data<double>(), N, H, G, M,
                            vote == GroupVote::kMax});
  return out;
}

}  // namespace quire

#include "quire/ops/matmul/linear.h"

#include <cmath>

#include "quire/ops/math/arithmetic.h"
#include "quire/ops/math/broadcast.h"
#include "quire/ops/math/reduce.h"

namespace quire {
namespace {

void check_arguments(const Tensor& x, const Tensor& weight_MD) {
  QUIRE_CHECK(weight_MD.rank() == 2, "weight_MD: rank is ", weight_MD.rank(), ", expected 2");
  QUIRE_CHECK(x.rank() > 0, "linear: x has rank 0, expected at least 1");
  check_same_dtype("linear", "x", x, "weight_MD", weight_MD);
  QUIRE_CHECK(x.size(-1) == weight_MD.size(1), "linear: the last dimension of x is ", x.size(-1),
              ", but weight_MD has D = ", weight_MD.size(1));
}

Tensor uniform(Shape shape, double bound, Rng& rng) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    to[i] = static_cast<float>(bound * (2 * rng.uniform() - 1));
  return out;
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight_MD) {
  check_arguments(x, weight_MD);
  return matmul(x, weight_MD.transpose(0, 1));
}

Tensor linear(const Tensor& x, const Tensor& weight_MD, const Tensor& bias_M) {
  check_arguments(x, weight_MD);
  check_same_dtype("linear", "bias_M", bias_M, "weight_MD", weight_MD);
  QUIRE_CHECK(bias_M.rank() == 1, "bias_M: rank is ", bias_M.rank(), ", expected 1");
  QUIRE_CHECK(bias_M.size(0) == weight_MD.size(0), "bias_M: M is ", bias_M.size(0),
              ", but weight_MD has M = ", weight_MD.size(0));
  return add(matmul(x, weight_MD.transpose(0, 1)), bias_M);
}

LinearGradients linear_backward(const Tensor& dout, const Tensor& x, const Tensor& weight_MD,
                                const LinearWants& wants) {
  check_arguments(x, weight_MD);
  const MatmulGradients both =
      matmul_backward(dout, x, weight_MD.transpose(0, 1), wants.dx, wants.dweight_MD);
  LinearGradients out;
  out.dx = both.da;
  if (wants.dweight_MD == Want::kYes) out.dweight_MD = both.db.transpose(0, 1).contiguous_copy();
  if (wants.dbias_M == Want::kYes) out.dbias_M = sum_to(dout, {weight_MD.size(0)});
  return out;
}

LinearWeights linear_init(std::int64_t M, std::int64_t D, Rng& rng) {
  QUIRE_CHECK(M > 0, "linear_init: M is ", M, ", expected at least 1");
  QUIRE_CHECK(D > 0, "linear_init: D is ", D, ", expected at least 1");
  const double bound = 1 / std::sqrt(static_cast<double>(D));
  Tensor weight_MD = uniform({M, D}, bound, rng);
  return {weight_MD, uniform({M}, bound, rng)};
}

}  // namespace quire

#include "quire/ops/moe/scatter2scatter.h"

#include "quire/ops/moe/rows.h"

namespace quire {

Tensor scatter2scatter(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                       const ScatterSpec& spec) {
  const ExpertWeights& weight = experts.weight_EDF;
  check_floating("scatter2scatter", "x", x);
  moe::check_fan(order, spec.in, spec.fan);
  QUIRE_CHECK(weight.experts() == order.experts(), "weight_EDF: E is ", weight.experts(),
              ", but the order has E = ", order.experts());
  moe::check_rows("x", x, moe::row_count(order, spec.in, spec.fan), weight.inputs());
  if (weight.is_packed()) {
    QUIRE_CHECK(x.dtype() != DType::kF64, "x is f64; packed weights take f32, bf16 or f16");
  } else {
    check_same_dtype("scatter2scatter", "x", x, "weight_EDF", weight.dense_EDF());
  }
  if (experts.bias_EF) {
    check_same_dtype("scatter2scatter", "bias_EF", *experts.bias_EF, "x", x);
    moe::check_rows("bias_EF", *experts.bias_EF, weight.experts(), weight.outputs());
  }
  const Tensor rows = moe::computed(x);
  return moe::product({.x = rows,
                       .weight = weight,
                       .order = order,
                       .in = spec.in,
                       .out = spec.out,
                       .fan = spec.fan,
                       .bias = experts.bias_EF ? &*experts.bias_EF : nullptr},
                      x.dtype());
}

}  // namespace quire

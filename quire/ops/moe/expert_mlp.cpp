#include "quire/ops/moe/expert_mlp.h"

#include "quire/ops/moe/expert_up_kernel.h"
#include "quire/ops/moe/rows.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

ScatterSpec rising(const Tensor& gates_NC) {
  return {RowOrder::kScattered, RowOrder::kGrouped, gates_NC.size(1)};
}

constexpr RowOrder kIn = RowOrder::kGrouped, kOut = RowOrder::kScattered;

/// What the first layer says, activated, and, where asked for, before that.
struct Hidden {
  Tensor hidden, pre;
};

// Both halves of packed weights must begin with a panel of rows and with a block of columns.
bool can_fuse(const Tensor& x_ND, const ExpertMlp& experts) {
  const std::int64_t width = experts.up.weight_EDF.outputs();
  return x_ND.dtype() != DType::kF64 && (!experts.up.weight_EDF.is_packed() || width % 64 == 0);
}

Hidden first_layer(const Tensor& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
                   const Tensor& gates_NC, Keep keep) {
  const ScatterSpec spec = rising(gates_NC);
  if (!can_fuse(x_ND, experts)) {
    const Tensor pre = scattered_experts(x_ND, experts.up, order, spec);
    return {activate(pre, experts.activation), keep == Keep::kPre ? pre : Tensor()};
  }
  moe::check_scattered_experts(x_ND, experts.up, order, spec);
  const std::int64_t M = order.rows(), width = experts.up.weight_EDF.outputs();
  kernel::ExpertUp args{};
  args.activation = moe::activation_rows(experts.activation, M, width);
  Hidden out{Tensor::empty({M, args.activation.F}, x_ND.dtype(), x_ND.device()), Tensor()};
  if (keep == Keep::kPre) out.pre = Tensor::empty({M, width}, x_ND.dtype(), x_ND.device());
  const Tensor x = moe::computed(x_ND);
  std::vector<const std::byte*> panels;
  Tensor bias;
  args.product = moe::plain({.x = x,
                             .weight = experts.up.weight_EDF,
                             .order = order,
                             .in = spec.in,
                             .out = spec.out,
                             .fan = spec.fan,
                             .bias = experts.up.bias_EF ? &*experts.up.bias_EF : nullptr},
                            panels, bias);
  args.product.out_dtype = x_ND.dtype();
  args.product.out = keep == Keep::kPre ? out.pre.mutable_data<void>() : nullptr;
  args.hidden = out.hidden.mutable_data<void>();
  kernel::expert_up_cpu(args);
  return out;
}

}  // namespace

ExpertMlpResult expert_mlp(const Tensor& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
                           const Tensor& gates_NC, Keep keep) {
  (void)QUIRE_DIMS(x_ND, gates_NC);
  Hidden first = first_layer(x_ND, experts, order, gates_NC, keep);
  return {scattered_experts(first.hidden, experts.down, order, {kIn, kOut, 1}, gates_NC),
          std::move(first.pre)};
}

ExpertMlpGradients expert_mlp_backward(const Tensor& dout_ND, const Tensor& x_ND,
                                       const ExpertMlp& experts, const ExpertOrder& order,
                                       const Tensor& gates_NC, const Tensor& pre) {
  (void)QUIRE_DIMS(dout_ND, x_ND, gates_NC);
  const bool kept = pre.rank() == 2;
  const Tensor before = kept ? pre : scattered_experts(x_ND, experts.up, order, rising(gates_NC));
  ScatteredExpertsGradients lower = scattered_experts_backward(
      dout_ND, activate(before, experts.activation), experts.down, order, {kIn, kOut, 1}, gates_NC);
  const Tensor dpre = activate_backward(lower.dx, before, experts.activation);
  lower.dx = Tensor();
  ScatteredExpertsGradients upper =
      scattered_experts_backward(dpre, x_ND, experts.up, order, rising(gates_NC));
  return {upper.dx,       lower.dgates_NC,   upper.dweight_EDF,
          upper.dbias_EF, lower.dweight_EDF, lower.dbias_EF};
}

}  // namespace quire

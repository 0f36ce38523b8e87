#include "quire/ops/moe/expert_mlp.h"

#include "quire/base/error.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

ScatterSpec rising(const Tensor& gates_NC) {
  return {RowOrder::kScattered, RowOrder::kGrouped, gates_NC.size(1)};
}

constexpr RowOrder kIn = RowOrder::kGrouped, kOut = RowOrder::kScattered;

}  // namespace

ExpertMlpResult expert_mlp(const Tensor& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
                           const Tensor& gates_NC, Keep keep) {
  (void)QUIRE_DIMS(x_ND, gates_NC);
  const Tensor pre = scattered_experts(x_ND, experts.up, order, rising(gates_NC));
  const Tensor hidden = activate(pre, experts.activation);
  return {scattered_experts(hidden, experts.down, order, {kIn, kOut, 1}, gates_NC),
          keep == Keep::kPre ? pre : Tensor()};
}

ExpertMlpGradients expert_mlp_backward(const Tensor& dout_ND, const Tensor& x_ND,
                                       const ExpertMlp& experts, const ExpertOrder& order,
                                       const Tensor& gates_NC, const Tensor& pre) {
  (void)QUIRE_DIMS(dout_ND, x_ND, gates_NC);
  const bool kept = pre.rank() == 2;
  const Tensor before =
      kept ? pre : scattered_experts(x_ND, experts.up, order, rising(gates_NC));
  ScatteredExpertsGradients lower = scattered_experts_backward(
      dout_ND, activate(before, experts.activation), experts.down, order, {kIn, kOut, 1}, gates_NC);
  const Tensor dpre = activate_backward(lower.dx, before, experts.activation);
  lower.dx = Tensor();
  ScatteredExpertsGradients upper =
      scattered_experts_backward(dpre, x_ND, experts.up, order, rising(gates_NC));
  return {upper.dx,        lower.dgates_NC,   upper.dweight_EDF,
          upper.dbias_EF, lower.dweight_EDF, lower.dbias_EF};
}

}  // namespace quire

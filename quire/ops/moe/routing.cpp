#include "quire/ops/moe/routing.h"

#include "quire/ops/moe/expert_order_kernel.h"
#include "quire/ops/moe/routing_kernel.h"
#include "quire/ops/moe/rows.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_spec(const RoutingSpec& spec, std::int64_t E) {
  QUIRE_CHECK(E > 0, "logits_NE: E is 0, expected at least 1");
  QUIRE_CHECK(spec.groups > 0 && E % spec.groups == 0, "groups is ", spec.groups,
              ", expected a divisor of E = ", E);
  QUIRE_CHECK(spec.groups_kept > 0 && spec.groups_kept <= spec.groups, "groups_kept is ",
              spec.groups_kept, ", expected 1 to ", spec.groups);
  const std::int64_t most = E / spec.groups * spec.groups_kept;
  QUIRE_CHECK(spec.C > 0 && spec.C <= most, "C is ", spec.C, ", expected 1 to ", most,
              ", the experts to choose from");
  QUIRE_CHECK(spec.groups == 1 || spec.group_score == GroupScore::kBest || E / spec.groups > 1,
              "the two best of a group of one expert");
}

kernel::Route plain_route(const RoutingSpec& spec, const Tensor& logits) {
  kernel::Route out{};
  out.dtype = logits.dtype();
  out.N = logits.size(0);
  out.E = logits.size(1);
  out.C = spec.C;
  out.groups = spec.groups;
  out.groups_kept = spec.groups_kept;
  out.score = spec.score;
  out.renormalise = spec.renormalise == Renormalise::kYes;
  out.group_score = spec.group_score;
  out.scale = spec.scale;
  out.logits = logits.data<void>();
  return out;
}

}  // namespace

Routing route(const Tensor& logits_NE, const RoutingSpec& spec,
              const std::optional<Tensor>& bias_E) {
  const Dims dims = QUIRE_DIMS(logits_NE);
  check_floating("route", "logits_NE", logits_NE);
  check_spec(spec, dims['E']);
  Tensor bias;
  if (bias_E) {
    QUIRE_CHECK(spec.score == GateScore::kSigmoid, "bias_E: only sigmoid scores take a bias");
    check_floating("route", "bias_E", *bias_E);
    QUIRE_CHECK(bias_E->rank() == 1 && bias_E->size(0) == dims['E'], "bias_E has shape ",
                to_string(bias_E->shape()), ", expected [", dims['E'], "]");
    bias = bias_E->to(DType::kF64);
  }
  const Tensor logits = moe::computed(logits_NE);
  Routing out{Tensor::empty({dims['N'], spec.C}, DType::kI64),
              Tensor::empty({dims['N'], spec.C}, logits.dtype())};
  kernel::Route args = plain_route(spec, logits);
  args.bias = bias_E ? bias.data<double>() : nullptr;
  args.experts = out.experts_NC.mutable_data<std::int64_t>();
  args.gates = out.gates_NC.mutable_data<void>();
  kernel::route_cpu(args);
  out.gates_NC = moe::stored(out.gates_NC, logits_NE.dtype());
  return out;
}

Tensor route_backward(const Tensor& dgates_NC, const Tensor& logits_NE, const Tensor& experts_NC,
                      const RoutingSpec& spec) {
  const Dims dims = QUIRE_DIMS(dgates_NC, logits_NE, experts_NC);
  check_floating("route_backward", "logits_NE", logits_NE);
  check_same_dtype("route_backward", "dgates_NC", dgates_NC, "logits_NE", logits_NE);
  check_spec(spec, dims['E']);
  QUIRE_CHECK(dims['C'] == spec.C, "dgates_NC: C is ", dims['C'], ", but spec.C is ", spec.C);
  QUIRE_CHECK(experts_NC.dtype() == DType::kI64, "experts_NC is ", to_string(experts_NC.dtype()),
              ", expected i64");
  Tensor experts = experts_NC.to(DType::kI64);
  auto* numbers = experts.mutable_data<std::int64_t>();
  const std::int64_t bad = kernel::first_outside_cpu(numbers, experts.elements(), 0, dims['E']);
  QUIRE_CHECK(bad < 0, "experts_NC[", bad, "] is ", numbers[bad], ", expected 0 to ",
              dims['E'] - 1);
  const Tensor logits = moe::computed(logits_NE), dgates = moe::computed(dgates_NC);
  Tensor out = Tensor::empty(logits.shape(), logits.dtype());
  kernel::RouteBackward args{plain_route(spec, logits), dgates.data<void>(),
                             out.mutable_data<void>()};
  args.route.experts = numbers;
  kernel::route_backward_cpu(args);
  return moe::stored(out, logits_NE.dtype());
}

}  // namespace quire

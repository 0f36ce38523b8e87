#include "quire/ops/moe/scattered_experts.h"

#include "quire/ops/moe/group.h"
#include "quire/ops/moe/group_bwd_w_kernel.h"
#include "quire/ops/moe/group_kernel.h"
#include "quire/ops/moe/rows.h"

namespace quire {
namespace {

/// What both directions know once the arguments are checked.
struct Call {
  const ExpertLayer& experts;
  const ExpertOrder& order;
  const ScatterSpec& spec;
  const Tensor* gates;

  std::int64_t choices() const { return gates == nullptr ? 1 : gates->size(1); }
  // Row m of the gradient of the rows, and the gate it is multiplied with.
  kernel::RowMap dout_row() const { return moe::row_map(order, spec.out, choices()); }
  kernel::RowMap gate_row() const { return moe::row_map(order, RowOrder::kScattered); }
};

void check_gates(const Call& call, const Tensor& x) {
  if (call.gates == nullptr) return;
  QUIRE_CHECK(call.spec.out == RowOrder::kScattered,
              "gates_NC: gates combine the rows of a token, but the rows stay grouped");
  QUIRE_CHECK(call.gates->rank() == 2, "gates_NC: rank is ", call.gates->rank(), ", expected 2");
  check_same_dtype("scattered_experts", "gates_NC", *call.gates, "x", x);
  QUIRE_CHECK(call.gates->elements() == call.order.slots(), "gates_NC has shape ",
              to_string(call.gates->shape()), ", but the order has ", call.order.slots(), " slots");
}

void check_call(const Call& call, const Tensor& x) {
  const ExpertWeights& weight = call.experts.weight_EDF;
  check_floating("scattered_experts", "x", x);
  check_gates(call, x);
  moe::check_fan(call.order, call.spec.in, call.spec.fan);
  QUIRE_CHECK(weight.experts() == call.order.experts(), "weight_EDF: E is ", weight.experts(),
              ", but the order has E = ", call.order.experts());
  moe::check_rows("x", x, moe::row_count(call.order, call.spec.in, call.spec.fan), weight.inputs());
  if (weight.is_packed()) {
    QUIRE_CHECK(x.dtype() != DType::kF64, "x is f64; packed weights take f32, bf16 or f16");
  } else {
    check_same_dtype("scattered_experts", "x", x, "weight_EDF", weight.dense_EDF());
  }
  if (!call.experts.bias_EF) return;
  check_same_dtype("scattered_experts", "bias_EF", *call.experts.bias_EF, "x", x);
  moe::check_rows("bias_EF", *call.experts.bias_EF, weight.experts(), weight.outputs());
}

// Σ_m rows[m]ᵀ · gate · dout[m] for each expert.
Tensor weight_gradient(const Call& call, const Tensor& dout, const Tensor& x, const Tensor& gates,
                       DType dtype) {
  const ExpertWeights& weight = call.experts.weight_EDF;
  Tensor out = Tensor::empty({weight.experts(), weight.inputs(), weight.outputs()}, dtype);
  kernel::GroupedOuter args{};
  args.start_J = call.order.start_J().data<std::int64_t>();
  args.E = weight.experts();
  args.K = weight.inputs();
  args.M = weight.outputs();
  args.dtype = x.dtype();
  args.x = x.data<void>();
  args.x_row = moe::row_map(call.order, call.spec.in, call.spec.fan);
  args.y = dout.data<void>();
  args.y_row = call.dout_row();
  args.factor = call.gates == nullptr ? nullptr : gates.data<void>();
  args.factor_row = call.gate_row();
  args.out_dtype = dtype;
  args.out = out.mutable_data<void>();
  kernel::grouped_outer_cpu(args);
  return out;
}

Tensor bias_gradient(const Call& call, const Tensor& dout, const Tensor& gates) {
  Tensor out = Tensor::empty(call.experts.bias_EF->shape(), dout.dtype());
  kernel::GroupedSum args{};
  args.start_J = call.order.start_J().data<std::int64_t>();
  args.E = out.size(0);
  args.F = out.size(1);
  args.dtype = dout.dtype();
  args.y = dout.data<void>();
  args.y_row = call.dout_row();
  args.factor = call.gates == nullptr ? nullptr : gates.data<void>();
  args.factor_row = call.gate_row();
  args.out = out.mutable_data<void>();
  kernel::grouped_sum_cpu(args);
  return out;
}

// <row, d row> where d row is before the gate: the row's own output never has to be known.
Tensor gate_gradient(const Call& call, const Tensor& dout, const Tensor& x, const Tensor& drows) {
  Tensor out = Tensor::zeros(call.gates->shape(), x.dtype());
  kernel::RowDots args{};
  args.dtype = x.dtype();
  args.out = out.mutable_data<void>();
  args.out_row = call.gate_row();
  args.a = x.data<void>();
  args.a_row = moe::row_map(call.order, call.spec.in, call.spec.fan);
  args.b = drows.data<void>();
  args.b_row = moe::row_map(call.order, call.spec.in);
  args.M = call.order.rows();
  args.D = x.size(1);
  kernel::row_dots_cpu(args);
  if (!call.experts.bias_EF) return out;
  const Tensor bias = moe::computed(*call.experts.bias_EF), experts = sorted_experts(call.order);
  args.a = bias.data<void>();
  args.a_row = {.slot = experts.data<std::int64_t>(), .fan = 1};
  args.b = dout.data<void>();
  args.b_row = call.dout_row();
  args.D = bias.size(1);
  args.add = true;
  kernel::row_dots_cpu(args);
  return out;
}

// The rows' gradients, still before the gate, times the gate and added up over the rows of x.
Tensor input_gradient(const Call& call, const Tensor& drows, const Tensor& gates) {
  const bool grouped = call.spec.in == RowOrder::kGrouped;
  if (call.gates == nullptr && call.spec.fan == 1) return drows;
  Tensor out = Tensor::empty({drows.size(0) / call.spec.fan, drows.size(1)}, drows.dtype());
  kernel::combine_cpu({.dtype = drows.dtype(),
                       .out = out.mutable_data<void>(),
                       .rows = drows.data<void>(),
                       .row = {},
                       .factor = call.gates == nullptr ? nullptr : gates.data<void>(),
                       .factor_row = grouped ? call.gate_row() : kernel::RowMap{},
                       .N = out.size(0),
                       .C = call.spec.fan,
                       .D = out.size(1)});
  return out;
}

}  // namespace

namespace moe {

void check_scattered_experts(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                             const ScatterSpec& spec) {
  check_call({experts, order, spec, nullptr}, x);
}

}  // namespace moe

Tensor scattered_experts(const Tensor& x, const ExpertLayer& experts, const ExpertOrder& order,
                         const ScatterSpec& spec, const std::optional<Tensor>& gates_NC) {
  const Call call{experts, order, spec, gates_NC ? &*gates_NC : nullptr};
  check_call(call, x);
  const Tensor rows = moe::computed(x);
  const Tensor out = moe::product({.x = rows,
                                   .weight = experts.weight_EDF,
                                   .order = order,
                                   .in = spec.in,
                                   .out = spec.out,
                                   .fan = spec.fan,
                                   .bias = experts.bias_EF ? &*experts.bias_EF : nullptr},
                                  call.gates == nullptr ? x.dtype() : rows.dtype());
  if (call.gates == nullptr) return out;
  return moe::stored(combine(out, moe::computed(*call.gates)), x.dtype());
}

ScatteredExpertsGradients scattered_experts_backward(const Tensor& dout, const Tensor& x,
                                                     const ExpertLayer& experts,
                                                     const ExpertOrder& order,
                                                     const ScatterSpec& spec,
                                                     const std::optional<Tensor>& gates_NC) {
  const Call call{experts, order, spec, gates_NC ? &*gates_NC : nullptr};
  check_call(call, x);
  check_same_dtype("scattered_experts_backward", "dout", dout, "x", x);
  moe::check_rows("dout", dout, moe::row_count(order, spec.out, call.choices()),
                  experts.weight_EDF.outputs());
  const Tensor rows = moe::computed(x), douts = moe::computed(dout);
  const Tensor gates = call.gates == nullptr ? Tensor() : moe::computed(*call.gates);
  const Tensor drows = moe::product({.x = douts,
                                     .weight = experts.weight_EDF.turned(),
                                     .order = order,
                                     .in = spec.out,
                                     .out = spec.in,
                                     .fan = call.choices()},
                                    rows.dtype());
  ScatteredExpertsGradients out;
  out.dx = moe::stored(input_gradient(call, drows, gates), x.dtype());
  if (!experts.weight_EDF.is_packed())
    out.dweight_EDF = weight_gradient(call, douts, rows, gates, x.dtype());
  if (experts.bias_EF) out.dbias_EF = moe::stored(bias_gradient(call, douts, gates), x.dtype());
  if (call.gates != nullptr)
    out.dgates_NC = moe::stored(gate_gradient(call, douts, rows, drows), x.dtype());
  return out;
}

}  // namespace quire

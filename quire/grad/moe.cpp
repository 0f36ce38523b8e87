#include "quire/grad/moe.h"

#include "quire/grad/record.h"
#include "quire/ops/matmul/grouped_matmul.h"
#include "quire/ops/moe/router_loss.h"

namespace quire::grad {
namespace {

bool given(const Var& x) { return x.value().rank() != 1 || x.value().elements() != 0; }

std::optional<Tensor> tensor_of(const Var& x) {
  return given(x) ? std::optional<Tensor>(x.value()) : std::nullopt;
}

/// A Var that may be absent, kept for backward.
class SavedOption {
 public:
  SavedOption(std::string_view op, const Var& x) {
    if (given(x)) saved_.emplace(op, x.value());
  }
  std::optional<Tensor> tensor() const {
    return saved_ ? std::optional<Tensor>(saved_->tensor()) : std::nullopt;
  }

 private:
  std::optional<Saved> saved_;
};

/// A layer whose weights are Vars, kept for backward.
struct SavedLayer {
  Saved weight;
  SavedOption bias;
  SavedLayer(std::string_view op, const ExpertLayerVar& layer)
      : weight(op, layer.weight_EDF.value()), bias(op, layer.bias_EF) {}
  ExpertLayer layer() const { return {weight.tensor(), bias.tensor()}; }
};

ExpertLayer layer_of(const ExpertLayerVar& layer) {
  return {layer.weight_EDF.value(), tensor_of(layer.bias_EF)};
}

}  // namespace

RoutingVar route(const Var& logits_NE, const RoutingSpec& spec,
                 const std::optional<Tensor>& bias_E) {
  Routing out = quire::route(logits_NE.value(), spec, bias_E);
  if (!recording(logits_NE)) return {std::move(out.experts_NC), Var(std::move(out.gates_NC))};
  Var gates =
      record_once("route", std::move(out.gates_NC), {logits_NE},
                  [logits = Saved("route", logits_NE.value()),
                   experts = Saved("route", out.experts_NC), spec](const Tensor& dout) {
                    return Tensors{route_backward(dout, logits.tensor(), experts.tensor(), spec)};
                  });
  return {std::move(out.experts_NC), std::move(gates)};
}

Var balance_loss(const Var& logits_NE, const Tensor& experts_NC) {
  Tensor out = quire::balance_loss(logits_NE.value(), experts_NC);
  if (!recording(logits_NE)) return Var(std::move(out));
  return record_once(
      "balance_loss", std::move(out), {logits_NE},
      [logits = Saved("balance_loss", logits_NE.value()),
       experts = Saved("balance_loss", experts_NC)](const Tensor& dout) {
        return Tensors{balance_loss_backward(dout, logits.tensor(), experts.tensor())};
      });
}

Var z_loss(const Var& logits_NE) {
  Tensor out = quire::z_loss(logits_NE.value());
  if (!recording(logits_NE)) return Var(std::move(out));
  return record_once("z_loss", std::move(out), {logits_NE},
                     [logits = Saved("z_loss", logits_NE.value())](const Tensor& dout) {
                       return Tensors{z_loss_backward(dout, logits.tensor())};
                     });
}

Var activate(const Var& pre, const ExpertActivation& activation) {
  Tensor out = quire::activate(pre.value(), activation);
  if (!recording(pre)) return Var(std::move(out));
  return record_once("activate", std::move(out), {pre},
                     [pre = Saved("activate", pre.value()), activation](const Tensor& dout) {
                       return Tensors{activate_backward(dout, pre.tensor(), activation)};
                     });
}

Var scattered_experts(const Var& x, const ExpertLayerVar& experts, const ExpertOrder& order,
                      const ScatterSpec& spec, const Var& gates_NC) {
  Tensor out =
      quire::scattered_experts(x.value(), layer_of(experts), order, spec, tensor_of(gates_NC));
  if (!recording(x, experts.weight_EDF, experts.bias_EF, gates_NC)) return Var(std::move(out));
  return record_once(
      "scattered_experts", std::move(out), {x, experts.weight_EDF, experts.bias_EF, gates_NC},
      [x = Saved("scattered_experts", x.value()), saved = SavedLayer("scattered_experts", experts),
       gates = SavedOption("scattered_experts", gates_NC), order, spec](const Tensor& dout) {
        ScatteredExpertsGradients all = scattered_experts_backward(dout, x.tensor(), saved.layer(),
                                                                   order, spec, gates.tensor());
        return Tensors{all.dx, all.dweight_EDF, all.dbias_EF, all.dgates_NC};
      });
}

Var scattered_experts(const Var& x, const ExpertLayer& experts, const ExpertOrder& order,
                      const ScatterSpec& spec, const Var& gates_NC) {
  Tensor out = quire::scattered_experts(x.value(), experts, order, spec, tensor_of(gates_NC));
  if (!recording(x, gates_NC)) return Var(std::move(out));
  return record_once(
      "scattered_experts", std::move(out), {x, gates_NC},
      [x = Saved("scattered_experts", x.value()), experts,
       gates = SavedOption("scattered_experts", gates_NC), order, spec](const Tensor& dout) {
        ScatteredExpertsGradients all =
            scattered_experts_backward(dout, x.tensor(), experts, order, spec, gates.tensor());
        return Tensors{all.dx, all.dgates_NC};
      });
}

Var expert_mlp(const Var& x_ND, const ExpertMlpVar& experts, const ExpertOrder& order,
               const Var& gates_NC, Keep keep) {
  const bool on_tape = recording(x_ND, experts.up.weight_EDF, experts.up.bias_EF,
                                 experts.down.weight_EDF, experts.down.bias_EF, gates_NC);
  ExpertMlpResult out = quire::expert_mlp(
      x_ND.value(), {layer_of(experts.up), layer_of(experts.down), experts.activation}, order,
      gates_NC.value(), on_tape ? keep : Keep::kNothing);
  if (!on_tape) return Var(std::move(out.out_ND));
  return record_once(
      "expert_mlp", std::move(out.out_ND),
      {x_ND, experts.up.weight_EDF, experts.up.bias_EF, experts.down.weight_EDF,
       experts.down.bias_EF, gates_NC},
      [x = Saved("expert_mlp", x_ND.value()), up = SavedLayer("expert_mlp", experts.up),
       down = SavedLayer("expert_mlp", experts.down), gates = Saved("expert_mlp", gates_NC.value()),
       pre = Saved("expert_mlp", out.pre), activation = experts.activation,
       order](const Tensor& dout) {
        ExpertMlpGradients all =
            expert_mlp_backward(dout, x.tensor(), {up.layer(), down.layer(), activation}, order,
                                gates.tensor(), pre.tensor());
        return Tensors{all.dx_ND, all.dup, all.dup_bias, all.ddown, all.ddown_bias, all.dgates_NC};
      });
}

Var expert_mlp(const Var& x_ND, const ExpertMlp& experts, const ExpertOrder& order,
               const Var& gates_NC, Keep keep) {
  const bool on_tape = recording(x_ND, gates_NC);
  ExpertMlpResult out = quire::expert_mlp(x_ND.value(), experts, order, gates_NC.value(),
                                          on_tape ? keep : Keep::kNothing);
  if (!on_tape) return Var(std::move(out.out_ND));
  return record_once("expert_mlp", std::move(out.out_ND), {x_ND, gates_NC},
                     [x = Saved("expert_mlp", x_ND.value()), experts, order,
                      gates = Saved("expert_mlp", gates_NC.value()),
                      pre = Saved("expert_mlp", out.pre)](const Tensor& dout) {
                       ExpertMlpGradients all = expert_mlp_backward(
                           dout, x.tensor(), experts, order, gates.tensor(), pre.tensor());
                       return Tensors{all.dx_ND, all.dgates_NC};
                     });
}

Var grouped_matmul(const Var& a, const Var& b, const Tensor& ends_E) {
  Tensor out = quire::grouped_matmul(a.value(), b.value(), ends_E);
  if (!recording(a, b)) return Var(std::move(out));
  return record_once(
      "grouped_matmul", std::move(out), {a, b},
      [a = Saved("grouped_matmul", a.value()), b = Saved("grouped_matmul", b.value()),
       ends = Saved("grouped_matmul", ends_E)](const Tensor& dout) {
        const GroupedMatmulGradients both =
            grouped_matmul_backward(dout, a.tensor(), b.tensor(), ends.tensor());
        return Tensors{both.da, both.db};
      });
}

Var pack_sequence(const Var& x, const Tensor& start_J, PadSide side) {
  Tensor out = quire::pack_sequence(x.value(), start_J, side);
  if (!recording(x)) return Var(std::move(out));
  return record(
      "pack_sequence", std::move(out), {x},
      [start = Saved("pack_sequence", start_J), length = x.value().size(1), side](const Var& dout) {
        return Vars{unpack_sequence(dout, start.tensor(), length, side)};
      });
}

Var unpack_sequence(const Var& x, const Tensor& start_J, std::int64_t length, PadSide side) {
  Tensor out = quire::unpack_sequence(x.value(), start_J, length, side);
  if (!recording(x)) return Var(std::move(out));
  return record("unpack_sequence", std::move(out), {x},
                [start = Saved("unpack_sequence", start_J), side](const Var& dout) {
                  return Vars{pack_sequence(dout, start.tensor(), side)};
                });
}

}  // namespace quire::grad

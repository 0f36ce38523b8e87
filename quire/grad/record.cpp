#include "quire/grad/record.h"

#include <algorithm>
#include <utility>

#include "quire/base/error.h"
#include "quire/grad/node.h"

namespace quire::grad {
namespace {

thread_local bool enabled = true;

Vars refuse_derivative(std::string_view op) {
  throw ArgumentError(concat(op, ": its backward has no derivative; a second backward pass stops"));
}

}  // namespace

bool recording_enabled() { return enabled; }

bool set_recording(bool on) { return std::exchange(enabled, on); }

bool recording(std::span<const Var> inputs) {
  return enabled && std::any_of(inputs.begin(), inputs.end(),
                                [](const Var& input) { return input.needs_gradient(); });
}

Saved::Saved(std::string_view op, const Var& input)
    : op_(op), var_(input), version_(input.value().version()) {}

Saved::Saved(std::string_view op, const Tensor& output) : Saved(op, Var(output)) {}

const Var& Saved::var() const {
  const std::uint64_t now = var_.value().version();
  QUIRE_CHECK(now == version_, op_, ": the tensor of shape ", to_string(var_.shape()),
              " that backward needs was overwritten since (version ", version_, ", now ", now, ")");
  return var_;
}

std::vector<Var> record(std::string_view op, Tensors values, Vars inputs,
                        std::function<Vars(std::span<const Var>)> backward) {
  const std::shared_ptr<Node> node = new_node();
  node->op = op;
  for (const Var& input : inputs) node->inputs.push_back(input.slot());
  node->outputs = values.size();
  node->backward = std::move(backward);
  std::vector<Var> out;
  for (Tensor& value : values) {
    auto slot = std::make_shared<Slot>(value.shape(), value.dtype(), node, out.size());
    out.emplace_back(std::move(value), std::move(slot));
  }
  return out;
}

Var record(std::string_view op, Tensor value, Vars inputs,
           std::function<Vars(const Var&)> backward) {
  return record(op, Tensors{std::move(value)}, std::move(inputs),
                [backward = std::move(backward)](std::span<const Var> douts) {
                  return backward(douts[0]);
                })[0];
}

std::vector<Var> record_once(std::string_view op, Tensors values, Vars inputs,
                             std::function<Tensors(std::span<const Tensor>)> backward) {
  // The inputs' places, not their values: what the backward needs it has saved.
  Vars places;
  for (const Var& input : inputs) places.emplace_back(Tensor(), input.slot());
  return record(
      op, std::move(values), std::move(inputs),
      [op, places = std::move(places), backward = std::move(backward)](std::span<const Var> douts) {
        Tensors plain;
        for (const Var& dout : douts) plain.push_back(dout.value());
        Vars out;
        for (Tensor& gradient : backward(plain)) {
          const bool none = gradient.rank() == 1 && gradient.elements() == 0;
          if (none || !enabled) {
            out.emplace_back(std::move(gradient));
            continue;
          }
          Vars all = places;
          all.insert(all.end(), douts.begin(), douts.end());
          out.push_back(record(op, std::move(gradient), std::move(all),
                               [op](const Var&) { return refuse_derivative(op); }));
        }
        return out;
      });
}

Var record_once(std::string_view op, Tensor value, Vars inputs,
                std::function<Tensors(const Tensor&)> backward) {
  return record_once(op, Tensors{std::move(value)}, std::move(inputs),
                     [backward = std::move(backward)](std::span<const Tensor> douts) {
                       return backward(douts[0]);
                     })[0];
}

}  // namespace quire::grad

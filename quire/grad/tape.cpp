#include "quire/grad/tape.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "quire/base/error.h"
#include "quire/grad/math.h"
#include "quire/grad/node.h"
#include "quire/grad/record.h"

namespace quire::grad {
namespace {

void check_gradient(std::string_view what, const Var& gradient, const Shape& shape, DType dtype) {
  QUIRE_CHECK(gradient.shape() == shape, what, " has shape ", to_string(gradient.shape()),
              ", but the value has shape ", to_string(shape));
  QUIRE_CHECK(gradient.dtype() == dtype, what, " is ", to_string(gradient.dtype()),
              ", but the value is ", to_string(dtype));
}

/// An empty Var; a gradient of zero elements is one for an input of zero elements.
bool none(const Var& gradient, const Slot& input) {
  return gradient.value().rank() == 1 && gradient.value().elements() == 0 &&
         !gradient.needs_gradient() && input.shape != gradient.shape();
}

/// Sets whether this thread records, for as long as it lives.
class Recording {
 public:
  explicit Recording(bool on) : before_(set_recording(on)) {}
  ~Recording() { set_recording(before_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  bool before_;
};

/// One backward pass: the gradients that wait at each place, and the nodes in order.
class Pass {
 public:
  explicit Pass(Graph graph) : graph_(graph) {}

  void run(const Var& out, const Var& dout) {
    const Recording recording(graph_ == Graph::kCreate);
    collect(*out.slot());
    add_to(*out.slot(), dout);
    for (Slot* slot : inner_) walk(*slot);
    for (Slot* slot : leaves_) finish(*slot);
  }

  const Var* find(const Slot& slot) const {
    const auto at = done_.find(&slot);
    return at == done_.end() ? nullptr : &at->second;
  }

  /// Adds what came together to the leaves and the Vars that asked to keep it.
  void deliver() {
    for (Slot* slot : leaves_) deliver(*slot);
    for (Slot* slot : inner_) {
      if (slot->keeps) deliver(*slot);
    }
  }

  /// Also keeps the gradient of this place until the pass ends.
  void want(const Slot& slot) { wanted_.insert(&slot); }

 private:
  void collect(Slot& root) {
    std::unordered_set<Slot*> seen{&root};
    std::vector<Slot*> pending{&root};
    while (!pending.empty()) {
      Slot* slot = pending.back();
      pending.pop_back();
      (slot->producer ? inner_ : leaves_).push_back(slot);
      if (!slot->producer) continue;
      if (slot->producer->outputs > 1 && ++reached_[slot->producer.get()].outputs > 1) continue;
      for (const auto& input : slot->producer->inputs) {
        if (input && seen.insert(input.get()).second) pending.push_back(input.get());
      }
    }
    const auto later = [](const Slot* a, const Slot* b) { return a->number > b->number; };
    std::sort(inner_.begin(), inner_.end(), later);
    std::sort(leaves_.begin(), leaves_.end(), later);
  }

  void add_to(const Slot& slot, const Var& gradient) {
    const auto [at, is_new] = waiting_.try_emplace(&slot, gradient);
    if (!is_new) at->second = add(at->second, gradient);
  }

  /// The whole gradient of a place, after its hooks; nothing when none arrived.
  const Var* finish(Slot& slot) {
    const auto at = waiting_.find(&slot);
    if (at == waiting_.end()) return nullptr;
    Var gradient = std::move(at->second);
    waiting_.erase(at);
    for (const auto& hook : slot.hooks) {
      gradient = hook(gradient);
      check_gradient("what a hook returns", gradient, slot.shape, slot.dtype);
    }
    return &done_.insert_or_assign(&slot, std::move(gradient)).first->second;
  }

  void walk(Slot& slot) {
    const Var* gradient = finish(slot);
    Node& node = *slot.producer;
    if (node.outputs == 1) {
      if (gradient != nullptr) call(node, {gradient, 1});
    } else {
      // Whoever reads one of the results was recorded after all of them: the last that the pass
      // reaches finds all gradients together.
      Results& results = reached_[&node];
      results.douts.resize(node.outputs);
      results.any = results.any || gradient != nullptr;
      if (gradient != nullptr) results.douts[slot.output] = *gradient;
      if (--results.outputs == 0 && results.any) call(node, std::exchange(results.douts, {}));
    }
    if (!slot.keeps && !wanted_.contains(&slot)) done_.erase(&slot);
  }

  void call(Node& node, std::span<const Var> douts) {
    QUIRE_CHECK(
        node.backward != nullptr, node.op,
        ": its saved tensors were freed by an earlier backward pass; that pass must ask for "
        "Graph::kRetain");
    const Vars parts = node.backward(douts);
    QUIRE_CHECK(parts.size() == node.inputs.size(), node.op, ": backward returned ", parts.size(),
                " gradients for ", node.inputs.size(), " inputs");
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!node.inputs[i] || none(parts[i], *node.inputs[i])) continue;
      check_gradient(concat(node.op, ": the gradient of input ", i), parts[i],
                     node.inputs[i]->shape, node.inputs[i]->dtype);
      add_to(*node.inputs[i], parts[i]);
    }
    if (graph_ == Graph::kFree) node.backward = nullptr;
  }

  void deliver(Slot& slot) {
    const Var* gradient = find(slot);
    if (gradient == nullptr) return;
    slot.gradient =
        slot.gradient ? quire::add(*slot.gradient, gradient->value()) : gradient->value();
  }

  /// What has come together of a call with several results.
  struct Results {
    std::size_t outputs = 0;  // that the pass reaches and has not walked
    bool any = false;         // a gradient among them
    Vars douts = {};
  };

  Graph graph_;
  std::vector<Slot*> inner_, leaves_;  // latest first
  std::unordered_map<const Node*, Results> reached_;
  std::unordered_set<const Slot*> wanted_;
  std::unordered_map<const Slot*, Var> waiting_, done_;
};

void check_root(const Var& out, const Var& dout) {
  QUIRE_CHECK(out.needs_gradient(), "backward: out of shape ", to_string(out.shape()),
              " depends on nothing that needs a gradient");
  check_gradient("backward: dout", dout, out.shape(), out.dtype());
}

}  // namespace

NoGradient::NoGradient() : before_(set_recording(false)) {}
NoGradient::~NoGradient() { set_recording(before_); }

void backward(const Var& out, Graph graph) {
  QUIRE_CHECK(out.value().elements() == 1, "backward: out has shape ", to_string(out.shape()),
              "; without dout it must have one element");
  backward(out, full(out.shape(), 1, out.dtype()), graph);
}

void backward(const Var& out, const Tensor& dout, Graph graph) {
  const Var seed(dout);
  check_root(out, seed);
  Pass pass(graph);
  pass.run(out, seed);
  pass.deliver();
}

std::vector<Var> gradients(const Var& out, const Var& dout, std::span<const Var> inputs,
                           Graph graph) {
  check_root(out, dout);
  Pass pass(graph);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    QUIRE_CHECK(inputs[i].needs_gradient(), "gradients: input ", i, " needs no gradient");
    pass.want(*inputs[i].slot());
  }
  pass.run(out, dout);
  std::vector<Var> found;
  for (const Var& input : inputs) {
    const Var* gradient = pass.find(*input.slot());
    found.push_back(gradient ? *gradient : Var(Tensor::zeros(input.shape(), input.dtype())));
  }
  return found;
}

}  // namespace quire::grad

#include "quire/grad/var.h"

#include <atomic>

#include "quire/base/error.h"
#include "quire/grad/node.h"

namespace quire::grad {
namespace {

// A node owns the places of its inputs, which own their nodes: letting go of the last Var of a long
// tape would recurse once per op. Instead the nodes queue up, linked through themselves, and only
// the outermost call takes them apart.
void bury(std::unique_ptr<Node> node) {
  thread_local std::unique_ptr<Node> dead;
  thread_local bool digging = false;
  node->next_dead = std::move(dead);
  dead = std::move(node);
  if (digging) return;
  digging = true;
  while (dead) {
    std::unique_ptr<Node> last = std::move(dead);
    dead = std::move(last->next_dead);
  }
  digging = false;
}

}  // namespace

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> count{0};
  return count.fetch_add(1, std::memory_order_relaxed);
}

std::shared_ptr<Node> new_node() {
  return {new Node, [](Node* node) { bury(std::unique_ptr<Node>(node)); }};
}

Slot::Slot(Shape s, DType d, std::shared_ptr<Node> node, std::size_t which_output)
    : shape(std::move(s)),
      dtype(d),
      number(next_number()),
      producer(std::move(node)),
      output(which_output) {}

Var::Var(Tensor value, Needs needs) : value_(std::move(value)) {
  if (needs == Needs::kNothing) return;
  QUIRE_CHECK(is_floating(value_.dtype()), "a Var that needs a gradient is ",
              to_string(value_.dtype()), ", expected f64, f32, bf16 or f16");
  slot_ = std::make_shared<Slot>(value_.shape(), value_.dtype(), nullptr);
}

Slot& Var::place(const char* what) const {
  QUIRE_CHECK(slot_ != nullptr, what, ": the Var of shape ", to_string(shape()),
              " needs no gradient");
  return *slot_;
}

bool Var::has_gradient() const { return slot_ && slot_->gradient.has_value(); }

const Tensor& Var::gradient() const {
  const Slot& slot = place("gradient");
  QUIRE_CHECK(
      slot.gradient.has_value(), "gradient: no backward pass has reached the Var of shape ",
      to_string(shape()),
      slot.producer && !slot.keeps ? ", which is no leaf; ask retain_gradient() first" : "");
  return *slot.gradient;
}

void Var::clear_gradient() { place("clear_gradient").gradient.reset(); }

void Var::retain_gradient() { place("retain_gradient").keeps = true; }

void Var::add_hook(std::function<Var(const Var&)> hook) {
  place("add_hook").hooks.push_back(std::move(hook));
}

}  // namespace quire::grad

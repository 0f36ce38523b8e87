#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "quire/grad/var.h"

namespace quire::grad {

/// One recorded call. `inputs` has a null for each input that needs no gradient. `backward` gets a
/// gradient for each output, an empty Var for one that the pass did not reach.
struct Node {
  std::string_view op;
  std::vector<std::shared_ptr<Slot>> inputs;
  std::size_t outputs = 1;
  std::function<std::vector<Var>(std::span<const Var>)> backward;  // empty once freed
  std::unique_ptr<Node> next_dead;
};

/// The place of one value on the tape: where its gradient comes together.
struct Slot {
  Slot(Shape s, DType d, std::shared_ptr<Node> node, std::size_t which_output = 0);
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  Shape shape;
  DType dtype;
  std::uint64_t number;            // in order of recording, over all threads
  std::shared_ptr<Node> producer;  // null for a leaf; the outputs of one call share it
  std::size_t output;              // which of the producer's outputs this is
  std::vector<std::function<Var(const Var&)>> hooks;
  bool keeps = false;  // the gradient, though it is no leaf
  std::optional<Tensor> gradient;
};

/// A node that is let go of without recursion, however long the tape behind it.
std::shared_ptr<Node> new_node();

/// Counts over all threads.
std::uint64_t next_number();

/// Sets whether this thread records; returns what it was.
bool set_recording(bool on);

}  // namespace quire::grad

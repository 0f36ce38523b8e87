#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "quire/grad/var.h"

namespace quire::grad {

/// One recorded call. `inputs` has a null for each input that needs no gradient.
struct Node {
  std::string_view op;
  std::vector<std::shared_ptr<Slot>> inputs;
  std::function<std::vector<Var>(const Var&)> backward;  // empty once freed
  std::unique_ptr<Node> next_dead;
};

/// The place of one value on the tape: where its gradient comes together.
struct Slot {
  Slot(Shape s, DType d, std::unique_ptr<Node> node);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  Shape shape;
  DType dtype;
  std::uint64_t number;            // in order of recording, over all threads
  std::unique_ptr<Node> producer;  // null for a leaf
  std::vector<std::function<Var(const Var&)>> hooks;
  bool keeps = false;  // the gradient, though it is no leaf
  std::optional<Tensor> gradient;
};

/// Counts over all threads.
std::uint64_t next_number();

/// Sets whether this thread records; returns what it was.
bool set_recording(bool on);

}  // namespace quire::grad

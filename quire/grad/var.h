#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "quire/tensor/tensor.h"

namespace quire::grad {

struct Slot;

/// Whether a new Var is a parameter, whose gradient backward() adds up, or a constant.
enum class Needs : std::uint8_t { kNothing, kGradient };

/// A tensor and its place on the tape. Copying a Var shares both. A Var that needs no gradient has
/// no place: it is a Tensor and one null pointer, and functions of such Vars record nothing.
class Var {
 public:
  /// An empty constant; as the gradient of an input it means "none".
  Var() = default;
  /// A constant.
  explicit Var(Tensor value) noexcept : value_(std::move(value)) {}
  /// A leaf. Throws ArgumentError for one that needs a gradient and is not f64, f32, bf16 or f16.
  explicit Var(Tensor value, Needs needs);

  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  DType dtype() const { return value_.dtype(); }
  bool needs_gradient() const { return slot_ != nullptr; }

  /// What backward() has added up for this leaf (or retained Var) since the last clear_gradient().
  /// `gradient` throws ArgumentError when there is none. To be read, not written: gradients of
  /// several Vars may share memory.
  bool has_gradient() const;
  const Tensor& gradient() const;
  void clear_gradient();

  /// The same values as a constant: no gradient flows through. Shares the memory, so the guard of
  /// versions still sees writes.
  Var detach() const { return Var(value_); }

  /// Asks backward() to keep the gradient of a Var that is not a leaf.
  void retain_gradient();

  /// Calls `hook` once per backward pass with this Var's whole gradient; what it returns takes the
  /// gradient's place (the same shape and dtype, or backward throws). Hooks run in the order they
  /// were added.
  void add_hook(std::function<Var(const Var& gradient)> hook);

  /// For wiring files (record.h): the place on the tape, null for a constant.
  const std::shared_ptr<Slot>& slot() const { return slot_; }
  Var(Tensor value, std::shared_ptr<Slot> slot)
      : value_(std::move(value)), slot_(std::move(slot)) {}

 private:
  Slot& place(const char* what) const;

  Tensor value_;
  std::shared_ptr<Slot> slot_;
};

}  // namespace quire::grad

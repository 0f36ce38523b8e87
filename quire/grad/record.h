#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "quire/grad/var.h"

/// How an op is wired: compute the value, ask `recording`, and record how to call the backward.
///
///   Var exp(const Var& x) {
///     Tensor out = quire::exp(x.value());
///     if (!recording(x)) return Var(out);
///     return record_once("exp", out, {x}, [out = Saved("exp", out)](const Tensor& dout) {
///       return Tensors{quire::exp_backward(dout, out.tensor())};
///     });
///   }
namespace quire::grad {

using Vars = std::vector<Var>;
using Tensors = std::vector<Tensor>;

/// False while a NoGradient (tape.h) lives in this thread.
bool recording_enabled();

/// True when a function of these Vars must stand on the tape.
template <class... V>
bool recording(const V&... inputs) {
  return (inputs.needs_gradient() || ...) && recording_enabled();
}
bool recording(std::span<const Var> inputs);

/// A tensor kept for backward, with its version: reading it after it was overwritten is an error,
/// never a silently wrong number. An op's own output is saved as a Tensor: a Var would own itself.
class Saved {
 public:
  Saved(std::string_view op, const Var& input);
  Saved(std::string_view op, const Tensor& output);
  /// Throws ArgumentError, naming the op, when the memory was written since.
  const Var& var() const;
  const Tensor& tensor() const { return var().value(); }

 private:
  std::string_view op_;
  Var var_;
  std::uint64_t version_;
};

/// The value of an op with a place on the tape. `backward` gets the output's gradient and returns
/// one gradient for each input, an empty Var where an input has none; it is written in functions of
/// Vars, so that it can be differentiated in turn. `op` must be a literal.
Var record(std::string_view op, Tensor value, Vars inputs,
           std::function<Vars(const Var&)> backward);

/// The same for an op of several results. One call of `backward` for all of them, with a gradient
/// each: an empty Var for a result that the pass did not reach.
std::vector<Var> record(std::string_view op, Tensors values, Vars inputs,
                        std::function<Vars(std::span<const Var>)> backward);

/// The same for a backward that is an op on tensors. A derivative of the gradients is refused with
/// an ArgumentError that names the op. An empty Tensor of rank 1 stands for "none".
Var record_once(std::string_view op, Tensor value, Vars inputs,
                std::function<Tensors(const Tensor&)> backward);
std::vector<Var> record_once(std::string_view op, Tensors values, Vars inputs,
                             std::function<Tensors(std::span<const Tensor>)> backward);

}  // namespace quire::grad

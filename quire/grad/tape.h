#pragma once

#include <span>
#include <vector>

#include "quire/grad/var.h"

namespace quire::grad {

/// What becomes of the tape after a backward pass. kFree lets go of the saved tensors as it walks;
/// kRetain keeps them for another pass; kCreate keeps them and puts the pass itself on the tape, so
/// that gradients have gradients.
enum class Graph : std::uint8_t { kFree, kRetain, kCreate };

/// Adds d out / d leaf · dout to the gradient of every leaf (and retained Var) that `out` depends
/// on.
///
/// out   any shape; without dout, one element
/// dout  the shape and dtype of out
///
/// Order   nodes in falling order of their recording; where a value was used more than once its
///         gradients are added in that order: the same program gives the same bits.
/// Throws  ArgumentError when out needs no gradient, on shapes and dtypes, for a tape that was
///         freed, for a saved tensor that was overwritten, for a second derivative that an op does
///         not have. No gradient of a leaf has changed then.
/// Memory  the gradients of values that are still to be walked.
void backward(const Var& out, Graph graph = Graph::kFree);
void backward(const Var& out, const Tensor& dout, Graph graph = Graph::kFree);

/// The gradients of `out` with respect to `inputs` (any Vars on the tape), which are returned and
/// added nowhere; zeros for an input that `out` does not depend on. Throws as `backward`, and for
/// an input that needs no gradient.
std::vector<Var> gradients(const Var& out, const Var& dout, std::span<const Var> inputs,
                           Graph graph = Graph::kFree);

/// While one lives, nothing that this thread computes goes onto the tape.
class NoGradient {
 public:
  NoGradient();
  ~NoGradient();
  NoGradient(const NoGradient&) = delete;
  NoGradient& operator=(const NoGradient&) = delete;

 private:
  bool before_;
};

}  // namespace quire::grad

#pragma once

#include <optional>
#include <vector>

#include "quire/ops/matmul/weight.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The matrices of all experts, each from D inputs to F outputs: a dense tensor, or one packed
/// weight (weight.h) for each expert, which may be quantized.
class ExpertWeights {
 public:
  /// weight_EDF is f64, f32, bf16 or f16 with any strides: a transposed view (weights stored as
  /// outputs × inputs) is read where it lies. Throws ArgumentError on rank and dtype.
  ExpertWeights(const Tensor& weight_EDF);  // NOLINT: a tensor is what most callers have

  /// One weight an expert, F rows × D columns, all of one type and size; at least one. They compute
  /// with f32, bf16 and f16 inputs. Throws ArgumentError.
  explicit ExpertWeights(std::vector<Weight> weights);

  std::int64_t experts() const { return E_; }
  std::int64_t inputs() const { return turned_ ? F_ : D_; }
  std::int64_t outputs() const { return turned_ ? D_ : F_; }

  /// The dense tensor; an empty one of rank 1 for packed weights.
  const Tensor& dense_EDF() const { return dense_EDF_; }
  const std::vector<Weight>& packed() const { return packed_; }
  bool is_packed() const { return !packed_.empty(); }
  bool is_turned() const { return turned_; }

  /// The same matrices from F inputs to D outputs, without a copy: what gradients flow through.
  ExpertWeights turned() const;

 private:
  Tensor dense_EDF_;
  std::vector<Weight> packed_;
  std::int64_t E_, D_, F_;
  bool turned_ = false;  // packed weights only: a dense tensor is transposed
};

/// One linear layer an expert: out = x · weight + bias.
struct ExpertLayer {
  ExpertWeights weight_EDF;
  std::optional<Tensor> bias_EF;  // of x's dtype
};

}  // namespace quire

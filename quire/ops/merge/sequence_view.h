#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Keys and values of one sequence that lie in tensors, as the view that ops on caches take.
///
/// k_GSK, v_GSU  f32, bf16, f16 or f64, the same; any strides: where the last dimension is not
///               contiguous a copy is made, else nothing is copied
///
/// Throws  ArgumentError on shapes and dtypes.
class SequenceView {
 public:
  SequenceView(const Tensor& k_GSK, const Tensor& v_GSU);
  /// Keys that are their own values.
  explicit SequenceView(const Tensor& k_GSK) : SequenceView(k_GSK, k_GSK) {}

  /// Sequence 0 of this view; it lives as long as this.
  KvView kv() const;

 private:
  Tensor k_GSK_, v_GSU_;
  std::int64_t length_ = 0;
};

}  // namespace quire

#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Pages that may be written: the same fields as those of a KvView.
struct KvPages {
  void* k_pages = nullptr;
  void* v_pages = nullptr;
  PageStrides k_strides, v_strides;
  KLayout k_layout = KLayout::kRows;
  DType dtype = DType::kF32;  // f32, bf16, f16 or i8 (then with scales)
  float* k_scale_PZG = nullptr;
  float* v_scale_PZG = nullptr;
  std::int64_t P = 0, Z = 0, G = 0, K = 0, U = 0;
};

/// Writes the keys and values of N tokens into slots of pages.
///
/// pages   the destination
/// k_NGK   f32, any strides     rounded to nearest even into the pages' dtype
/// v_NGU   f32, any strides     i8: one scale for each token and head, largest magnitude / 127
/// slot_N  i64                  page · Z + slot of each token; −1 skips it
///
/// Throws  ArgumentError on shapes, dtypes, and a slot outside [−1, P · Z) (with its place);
///         nothing is written then.
/// Order   a slot that is named twice holds the later token.
void kv_write(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU, const Tensor& slot_N);

}  // namespace quire

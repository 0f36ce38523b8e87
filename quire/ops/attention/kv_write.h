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
  DType dtype = DType::kF32;  // f64, f32, bf16, f16, i4, i4h, i8h or i8 (then with scales)
  float* k_scale_PZG = nullptr;
  float* v_scale_PZG = nullptr;
  std::int64_t P = 0, Z = 0, G = 0, K = 0, U = 0;
  // The guard of what a forward has read (KvSnapshot); null: not kept. Slots [0, used) of a page
  // hold keys: a write below counts the page's version up, a write behind raises `used`. Who
  // empties a page counts its version up as well.
  std::uint64_t* version_P = nullptr;
  std::int64_t* used_P = nullptr;  // null: every write counts
};

/// The pages to read: a view without a table, a length or a bias, which the caller adds.
KvView view_of(const KvPages& pages);

/// Writes the keys and values of N tokens into slots of pages.
///
/// pages   the destination
/// k_NGK   f32 (f64 for pages of f64), any strides; rounded to nearest even into the pages' dtype
/// v_NGU   the dtype of k; i8: one scale for each token and head, largest magnitude / 127; i4 and
///         i4h, i8h: kv_format.h
/// slot_N  i64 or i32           page · Z + slot of each token; −1 skips it
///
/// Throws  ArgumentError on shapes, dtypes, and a slot outside [−1, P · Z) (with its place);
///         nothing is written then.
/// Order   a slot that is named twice holds the later token.
void kv_write(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU, const Tensor& slot_N);

/// Gradients of what kv_write wrote.
struct KvWriteGradients {
  Tensor dk_NGK, dv_NGU;
};

/// The backward of kv_write: takes the gradients of the written slots out of the pages, which are
/// 0 there afterwards: what stood in a slot before it was overwritten had a gradient of its own.
///
/// gradients  pages of gradients, f32 or f64, as attention_backward adds to them
/// slot_N     as written; tokens that were skipped, or whose slot a later token took, get zeros
///
/// Throws  ArgumentError as kv_write does.
KvWriteGradients kv_write_backward(const KvPages& gradients, const Tensor& slot_N);

}  // namespace quire

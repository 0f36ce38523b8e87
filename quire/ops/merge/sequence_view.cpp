#include "quire/ops/merge/sequence_view.h"

#include "quire/base/error.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

// Rows whose elements follow one another.
Tensor with_rows(const Tensor& x) {
  return x.size(-1) <= 1 || x.strides().back() == 1 ? x : x.contiguous_copy();
}

PageStrides strides_of(const Tensor& x) { return {0, x.strides()[1], x.strides()[0]}; }

}  // namespace

SequenceView::SequenceView(const Tensor& k_GSK, const Tensor& v_GSU)
    : k_GSK_(with_rows(k_GSK)), v_GSU_(with_rows(v_GSU)) {
  const Dims dims = QUIRE_DIMS(k_GSK, v_GSU);
  const DType dtype = k_GSK.dtype();
  QUIRE_CHECK(
      dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF64,
      "k_GSK is ", to_string(dtype), "; keys are f32, bf16, f16 or f64");
  QUIRE_CHECK(v_GSU.dtype() == dtype, "v_GSU is ", to_string(v_GSU.dtype()), ", but k_GSK is ",
              to_string(dtype));
  length_ = dims['S'];
}

KvView SequenceView::kv() const {
  KvView kv;
  kv.k_pages = k_GSK_.data<void>();
  kv.v_pages = v_GSU_.data<void>();
  kv.k_strides = strides_of(k_GSK_);
  kv.v_strides = strides_of(v_GSU_);
  kv.dtype = k_GSK_.dtype();
  kv.P = 1;
  kv.Z = length_ > 0 ? length_ : 1;
  kv.G = k_GSK_.size(0);
  kv.K = k_GSK_.size(2);
  kv.U = v_GSU_.size(2);
  kv.length_BG = &length_;
  return kv;
}

}  // namespace quire

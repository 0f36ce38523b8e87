#include "quire/ops/attention/kv_write.h"

#include "quire/base/error.h"
#include "quire/ops/attention/hadamard.h"
#include "quire/ops/attention/kv_format.h"
#include "quire/ops/attention/kv_write_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_pages(const KvPages& pages) {
  const bool stores = pages.dtype == DType::kF64 || stores_kv(pages.dtype);
  const bool scales = pages.k_scale_PZG != nullptr && pages.v_scale_PZG != nullptr;
  const bool no_scales = pages.k_scale_PZG == nullptr && pages.v_scale_PZG == nullptr;
  QUIRE_CHECK(stores && (pages.dtype == DType::kI8 ? scales : no_scales), "pages are ",
              to_string(pages.dtype),
              "; kv_write stores f64, f32, bf16, f16, i4, i4h, i8h, and i8 with scales");
  QUIRE_CHECK(pages.k_layout == KLayout::kRows || pages.Z % 16 == 0, "pages have Z = ", pages.Z,
              "; keys in blocks need a multiple of 16");
  QUIRE_CHECK(pages.used_P == nullptr || pages.version_P != nullptr,
              "pages.used_P is kept for pages.version_P, which is missing");
}

/// The slots as i64, row-major, each inside the pages or −1.
Tensor checked_slots(const KvPages& pages, const Tensor& slot_N) {
  QUIRE_CHECK(slot_N.dtype() == DType::kI64 || slot_N.dtype() == DType::kI32, "slot_N is ",
              to_string(slot_N.dtype()), "; it must be i64 or i32");
  Tensor slots = slot_N.dtype() == DType::kI64 ? slot_N.contiguous_copy() : slot_N.to(DType::kI64);
  const auto* slot = slots.data<std::int64_t>();
  for (std::int64_t n = 0; n < slots.elements(); ++n) {
    QUIRE_CHECK(slot[n] >= -1 && slot[n] < pages.P * pages.Z, "slot_N[", n, "] is ", slot[n],
                ", but the pages have ", pages.P * pages.Z, " slots");
  }
  return slots;
}

kernel::KvSide key_side(const KvPages& pages) {
  return {pages.k_pages,
          pages.k_strides.page,
          pages.k_strides.slot,
          pages.k_strides.head,
          pages.k_layout == KLayout::kBlocks,
          pages.dtype,
          pages.k_scale_PZG,
          pages.Z,
          pages.G,
          pages.K};
}

kernel::KvSide value_side(const KvPages& pages) {
  return {pages.v_pages,
          pages.v_strides.page,
          pages.v_strides.slot,
          pages.v_strides.head,
          false,
          pages.dtype,
          pages.v_scale_PZG,
          pages.Z,
          pages.G,
          pages.U};
}

}  // namespace

KvView view_of(const KvPages& pages) {
  KvView view;
  view.k_pages = pages.k_pages;
  view.v_pages = pages.v_pages;
  view.k_strides = pages.k_strides;
  view.v_strides = pages.v_strides;
  view.k_layout = pages.k_layout;
  view.dtype = pages.dtype;
  view.k_scale_PZG = pages.k_scale_PZG;
  view.v_scale_PZG = pages.v_scale_PZG;
  view.P = pages.P;
  view.Z = pages.Z;
  view.G = pages.G;
  view.K = pages.K;
  view.U = pages.U;
  view.version_P = pages.version_P;
  return view;
}

void kv_write(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU,
              const Tensor& slot_N) {
  const Dims dims = QUIRE_DIMS(k_NGK, v_NGU, slot_N);
  QUIRE_CHECK(dims['G'] == pages.G && dims['K'] == pages.K && dims['U'] == pages.U, "k_NGK is ",
              to_string(k_NGK.shape()), " and v_NGU ", to_string(v_NGU.shape()),
              ", but the pages have G = ", pages.G, ", K = ", pages.K, ", U = ", pages.U);
  const DType wanted = pages.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  QUIRE_CHECK(k_NGK.dtype() == wanted && v_NGU.dtype() == wanted, "k_NGK is ",
              to_string(k_NGK.dtype()), " and v_NGU ", to_string(v_NGU.dtype()),
              "; kv_write takes ", to_string(wanted), " for pages of ", to_string(pages.dtype));
  check_pages(pages);
  const Tensor k = turns_keys(pages.dtype) ? hadamard(k_NGK) : k_NGK.contiguous_copy(),
               v = v_NGU.contiguous_copy(), slots = checked_slots(pages, slot_N);
  const auto* slot = slots.data<std::int64_t>();
  if (wanted == DType::kF64) {
    kernel::kv_write_f64_cpu(key_side(pages), k.data<double>(), slot, dims['N']);
    kernel::kv_write_f64_cpu(value_side(pages), v.data<double>(), slot, dims['N']);
  } else {
    kernel::kv_write_cpu({key_side(pages), k.data<float>(), slot, dims['N']});
    kernel::kv_write_cpu({value_side(pages), v.data<float>(), slot, dims['N']});
  }
  if (pages.version_P != nullptr)
    kernel::count_versions_cpu(slot, dims['N'], pages.Z, pages.used_P, pages.version_P);
}

KvWriteGradients kv_write_backward(const KvPages& gradients, const Tensor& slot_N) {
  const Dims dims = QUIRE_DIMS(slot_N);
  QUIRE_CHECK(gradients.dtype == DType::kF32 || gradients.dtype == DType::kF64,
              "pages of gradients are ", to_string(gradients.dtype), "; they must be f32 or f64");
  check_pages(gradients);
  const Tensor slots = checked_slots(gradients, slot_N);
  const auto* slot = slots.data<std::int64_t>();
  KvWriteGradients out{Tensor::empty({dims['N'], gradients.G, gradients.K}, gradients.dtype),
                       Tensor::empty({dims['N'], gradients.G, gradients.U}, gradients.dtype)};
  if (gradients.dtype == DType::kF64) {
    kernel::kv_take_cpu(key_side(gradients), slot, dims['N'], out.dk_NGK.mutable_data<double>());
    kernel::kv_take_cpu(value_side(gradients), slot, dims['N'], out.dv_NGU.mutable_data<double>());
  } else {
    kernel::kv_take_cpu(key_side(gradients), slot, dims['N'], out.dk_NGK.mutable_data<float>());
    kernel::kv_take_cpu(value_side(gradients), slot, dims['N'], out.dv_NGU.mutable_data<float>());
  }
  return out;
}

}  // namespace quire

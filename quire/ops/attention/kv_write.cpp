#include "quire/ops/attention/kv_write.h"

#include "quire/base/error.h"
#include "quire/ops/attention/kv_write_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

void kv_write(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU,
              const Tensor& slot_N) {
  const Dims dims = QUIRE_DIMS(k_NGK, v_NGU, slot_N);
  QUIRE_CHECK(dims['G'] == pages.G && dims['K'] == pages.K && dims['U'] == pages.U, "k_NGK is ",
              to_string(k_NGK.shape()), " and v_NGU ", to_string(v_NGU.shape()),
              ", but the pages have G = ", pages.G, ", K = ", pages.K, ", U = ", pages.U);
  QUIRE_CHECK(k_NGK.dtype() == DType::kF32 && v_NGU.dtype() == DType::kF32, "k_NGK is ",
              to_string(k_NGK.dtype()), " and v_NGU ", to_string(v_NGU.dtype()),
              "; kv_write takes f32");
  const bool stores =
      pages.dtype == DType::kF32 || pages.dtype == DType::kF16 || pages.dtype == DType::kBF16;
  const bool scales = pages.k_scale_PZG != nullptr && pages.v_scale_PZG != nullptr;
  const bool no_scales = pages.k_scale_PZG == nullptr && pages.v_scale_PZG == nullptr;
  QUIRE_CHECK((stores && no_scales) || (pages.dtype == DType::kI8 && scales), "pages are ",
              to_string(pages.dtype), "; kv_write stores f32, bf16, f16, and i8 with scales");
  QUIRE_CHECK(pages.k_layout == KLayout::kRows || pages.Z % 16 == 0, "pages have Z = ", pages.Z,
              "; keys in blocks need a multiple of 16");
  const Tensor k = k_NGK.contiguous_copy(), v = v_NGU.contiguous_copy(),
               slots = slot_N.contiguous_copy();
  const auto* slot = slots.data<std::int64_t>();
  for (std::int64_t n = 0; n < dims['N']; ++n) {
    QUIRE_CHECK(slot[n] >= -1 && slot[n] < pages.P * pages.Z, "slot_N[", n, "] is ", slot[n],
                ", but the pages have ", pages.P * pages.Z, " slots");
  }
  kernel::kv_write_cpu({pages.k_pages, pages.k_strides.page, pages.k_strides.slot,
                        pages.k_strides.head, pages.k_layout == KLayout::kBlocks, pages.dtype,
                        pages.k_scale_PZG, pages.Z, pages.G, pages.K, k.data<float>(), slot,
                        dims['N']});
  kernel::kv_write_cpu({pages.v_pages, pages.v_strides.page, pages.v_strides.slot,
                        pages.v_strides.head, false, pages.dtype, pages.v_scale_PZG, pages.Z,
                        pages.G, pages.U, v.data<float>(), slot, dims['N']});
}

}  // namespace quire

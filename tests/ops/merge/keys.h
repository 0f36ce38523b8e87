#pragma once

// What the tests of merging share: keys as vectors, one head of a view at a time.

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"
#include "tests/support/gradient_check.h"

namespace quire::test {

/// Keys or values of a head as a view has them.
inline std::vector<double> rows_of(const KvView& kv, std::int64_t b, std::int64_t g, bool values) {
  const std::int64_t length = kv.length_BG[kv.length_stride_G == 0 ? b : b * kv.G + g];
  std::vector<double> out;
  for (std::int64_t s = 0; s < length; ++s) {
    const std::int64_t page = ref::page_of(kv, b, g, s / kv.Z), slot = s % kv.Z;
    const float* scales = values ? kv.v_scale_PZG : kv.k_scale_PZG;
    const double scale = scales == nullptr ? 1 : double{scales[(page * kv.Z + slot) * kv.G + g]};
    for (std::int64_t x = 0; x < (values ? kv.U : kv.K); ++x) {
      const std::int64_t at =
          values ? page * kv.v_strides.page + slot * kv.v_strides.slot + g * kv.v_strides.head + x
                 : ref::key_index(kv, page, slot, g, x);
      out.push_back(scale * ref::element(values ? kv.v_pages : kv.k_pages, kv.dtype, at));
    }
  }
  return out;
}

/// Forms that caches have.
inline std::vector<PagedForm> paged_forms() {
  std::vector<PagedForm> out;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      PagedForm form;
      form.dtype = dtype;
      form.layout = layout;
      form.Z = layout == KLayout::kRows ? 5 : 32;
      form.G = 2;
      form.K = 20;
      form.U = 24;
      out.push_back(form);
    }
  }
  return out;
}

inline std::vector<float> narrow(const std::vector<double>& x) { return {x.begin(), x.end()}; }

inline Tensor floats(const std::vector<double>& x, Shape shape) {
  return tensor_of(x, std::move(shape), DType::kF32);
}

}  // namespace quire::test

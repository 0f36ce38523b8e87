#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

/// out[o] = Σ_t a[a_at[o·terms + t]] · b[b_at[o·terms + t]] for o < outputs: row-major matrices of
/// [N,K] and [K,M], numbered; [N,M] one after another.
struct Gemm {
  DType dtype;  // f32 or f64
  void* out;
  const void* a;
  const void* b;
  std::int64_t outputs, terms;
  const std::int64_t* a_at;
  const std::int64_t* b_at;
  std::int64_t N, M, K;
};

void gemm_cpu(const Gemm& args);

/// Up to 64 columns of one product: b is packed as [K, 64].
struct GemmBlock {
  float* out;  // its rows are out_step apart, `columns` of each are written
  const float* a;
  const float* packed;
  std::int64_t rows, columns, K, out_step;
  bool add;  // to what stands in out
};

QUIRE_DECLARE_KERNEL(void, gemm_block, const GemmBlock& args)

}  // namespace quire::kernel

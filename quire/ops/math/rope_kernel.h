#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

struct Rope {
  float* x_NHK;
  std::int64_t row_stride, head_stride;
  const float* const* turns_N;  // per row: R/2 cosines, then R/2 sines
  std::int64_t N, H;
  std::int64_t pairs;  // R/2
  std::int64_t mate;   // from a number to its mate: 1 (neighbours) or R/2 (halves)
  float cosine_factor = 1, sine_factor = 1;  // −1 turns back
};

void rope_cpu(const Rope& args);

/// The same in f64, which has no table: cosines and sines are computed here.
struct RopeF64 {
  double* x_NHK;
  std::int64_t row_stride, head_stride;
  const std::int64_t* positions_N;
  const double* frequencies;  // [pairs]
  std::int64_t N, H, pairs, mate;
  double cosine_factor, sine_factor;  // with the attention factor
};

void rope_f64_cpu(const RopeF64& args);

QUIRE_DECLARE_KERNEL(void, rope_rows, const Rope& args, std::int64_t begin, std::int64_t end)

}  // namespace quire::kernel

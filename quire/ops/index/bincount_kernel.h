#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"

namespace quire::kernel {

/// counts[x[n]] += 1 for values in [0, size); others are passed over.
struct Count {
  std::int64_t* counts;
  const void* x;
  std::int64_t size, elements;
  DType dtype;  // not floating
};
void count_cpu(const Count& args);

/// The largest value and the first negative one (at: its position, -1: none).
struct CountRange {
  std::int64_t largest = -1, negative = 0, negative_at = -1;
};
CountRange count_range_cpu(const void* x, std::int64_t elements, DType dtype);

/// sums[x[n]] += weights[n], both f32 or both f64, values in range.
struct WeightedCount {
  void* sums;
  const void* x;
  const void* weights;
  std::int64_t elements;
  DType x_dtype, weight_dtype;
};
void weighted_count_cpu(const WeightedCount& args);

/// out[bin] += 1; f32 or f64.
struct Histogram {
  void* out;
  const void* x;
  std::int64_t elements, bins;
  double low, high;  // both 0: the range of x
  DType dtype;
};
/// False, and nothing is written, when the range of x is not finite.
bool histogram_cpu(const Histogram& args);

}  // namespace quire::kernel

#include "quire/ops/index/bincount.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/ops/index/bincount_kernel.h"

namespace quire {
namespace {

void check_integers(const Tensor& x) {
  QUIRE_CHECK(!is_floating(x.dtype()) && x.dtype() != DType::kBool, "x is ", to_string(x.dtype()),
              ", expected an integer dtype");
}

// The number of counts of a bincount.
std::int64_t check_bincount(const Tensor& x, const Tensor& x_N, std::int64_t min_length) {
  check_integers(x_N);
  QUIRE_CHECK(x_N.rank() == 1, "x: rank is ", x_N.rank(), ", expected 1");
  QUIRE_CHECK(min_length >= 0, "min_length is ", min_length, ", expected at least 0");
  const kernel::CountRange range = kernel::count_range_cpu(x.data<void>(), x.elements(), x.dtype());
  QUIRE_CHECK(range.negative_at < 0, "x[", range.negative_at, "] is ", range.negative,
              ", expected at least 0");
  QUIRE_CHECK(range.largest < std::numeric_limits<std::int64_t>::max(), "x has the value ",
              range.largest, ", one more would be the number of counts");
  return std::max(range.largest + 1, min_length);
}

Tensor count(const Tensor& x, std::int64_t size) {
  Tensor out = Tensor::zeros({size}, DType::kI64);
  if (size == 0) return out;
  kernel::count_cpu({.counts = out.mutable_data<std::int64_t>(),
                     .x = x.data<void>(),
                     .size = size,
                     .elements = x.elements(),
                     .dtype = x.dtype()});
  return out;
}

}  // namespace

Tensor bincount(const Tensor& x_N, std::int64_t min_length) {
  const Tensor x = x_N.contiguous_copy();
  return count(x, check_bincount(x, x_N, min_length));
}

Tensor bincount(const Tensor& x_N, const Tensor& weights_N, std::int64_t min_length) {
  const Tensor x = x_N.contiguous_copy();
  const std::int64_t size = check_bincount(x, x_N, min_length);
  QUIRE_CHECK(weights_N.rank() == 1, "weights: rank is ", weights_N.rank(), ", expected 1");
  QUIRE_CHECK(weights_N.elements() == x.elements(), "weights: size is ", weights_N.elements(),
              " at dim 0, but x has ", x.elements());
  if (x.elements() == 0) return count(x, size);
  const DType dtype = weights_N.dtype() == DType::kF32 ? DType::kF32 : DType::kF64;
  const Tensor weights = weights_N.to(dtype);
  Tensor out = Tensor::zeros({size}, dtype);
  if (size == 0) return out;
  kernel::weighted_count_cpu({.sums = out.mutable_data<void>(),
                              .x = x.data<void>(),
                              .weights = weights.data<void>(),
                              .elements = x.elements(),
                              .x_dtype = x.dtype(),
                              .weight_dtype = dtype});
  return out;
}

Tensor continuous_count(const Tensor& x, std::int64_t size) {
  check_integers(x);
  QUIRE_CHECK(size >= 0, "size is ", size, ", expected at least 0");
  return count(x.contiguous_copy(), size);
}

Tensor histc(const Tensor& x, std::int64_t bins, double low, double high) {
  QUIRE_CHECK(x.dtype() == DType::kF32 || x.dtype() == DType::kF64, "x is ", to_string(x.dtype()),
              ", expected f32 or f64");
  QUIRE_CHECK(bins > 0, "bins is ", bins, ", expected at least 1");
  QUIRE_CHECK(std::isfinite(low) && std::isfinite(high) && low <= high, "low is ", low,
              " and high ", high, ", expected finite numbers, low at most high");
  const Tensor values = x.contiguous_copy();
  Tensor out = Tensor::zeros({bins}, x.dtype());
  const bool finite = kernel::histogram_cpu({.out = out.mutable_data<void>(),
                                             .x = values.data<void>(),
                                             .elements = values.elements(),
                                             .bins = bins,
                                             .low = low,
                                             .high = high,
                                             .dtype = x.dtype()});
  QUIRE_CHECK(finite, "x has infinities or NaN, so that its range gives no bins: say low and high");
  return out;
}

}  // namespace quire

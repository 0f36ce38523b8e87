#include <algorithm>
#include <cmath>
#include <concepts>
#include <vector>

#include "quire/ops/index/bincount_kernel.h"
#include "quire/ops/index/element.h"

namespace quire::kernel {
namespace {

template <class Body>
void with_integer(DType dtype, Body&& body) {
  with_type(dtype, [&]<class T>() {
    if constexpr (std::integral<T>) body.template operator()<T>();
  });
}

template <class T>
bool histogram(const Histogram& args) {
  const T* x = static_cast<const T*>(args.x);
  T low = static_cast<T>(args.low), high = static_cast<T>(args.high);
  if (low == high && args.elements > 0) {
    if (low == 0) {
      low = high = x[0];
      for (std::int64_t n = 0; n < args.elements; ++n) {
        low = combine<Combine::kAmin>(low, x[n]);
        high = combine<Combine::kAmax>(high, x[n]);
      }
    }
    if (!std::isfinite(low) || !std::isfinite(high)) return false;
  }
  if (low == high) {
    low -= 1;
    high += 1;
  }
  std::vector<std::int64_t> counts(static_cast<std::size_t>(args.bins), 0);
  for (std::int64_t n = 0; n < args.elements; ++n) {
    if (!(x[n] >= low && x[n] <= high)) continue;
    const T part = (x[n] - low) * static_cast<T>(args.bins) / (high - low);
    const std::int64_t bin = std::min(static_cast<std::int64_t>(part), args.bins - 1);
    ++counts[static_cast<std::size_t>(bin)];
  }
  for (std::int64_t bin = 0; bin < args.bins; ++bin)
    static_cast<T*>(args.out)[bin] = static_cast<T>(counts[static_cast<std::size_t>(bin)]);
  return true;
}

}  // namespace

void count_cpu(const Count& args) {
  with_integer(args.dtype, [&]<class T>() {
    const T* x = static_cast<const T*>(args.x);
    for (std::int64_t n = 0; n < args.elements; ++n) {
      const auto value = static_cast<std::int64_t>(x[n]);
      if (value >= 0 && value < args.size) ++args.counts[value];
    }
  });
}

CountRange count_range_cpu(const void* x, std::int64_t elements, DType dtype) {
  CountRange range;
  with_integer(dtype, [&]<class T>() {
    const T* values = static_cast<const T*>(x);
    for (std::int64_t n = 0; n < elements; ++n) {
      const auto value = static_cast<std::int64_t>(values[n]);
      range.largest = std::max(range.largest, value);
      if (value < 0 && range.negative_at < 0) {
        range.negative = value;
        range.negative_at = n;
      }
    }
  });
  return range;
}

void weighted_count_cpu(const WeightedCount& args) {
  with_integer(args.x_dtype, [&]<class T>() {
    const T* x = static_cast<const T*>(args.x);
    const auto add = [&](auto* sums, const auto* weights) {
      for (std::int64_t n = 0; n < args.elements; ++n)
        sums[static_cast<std::int64_t>(x[n])] += weights[n];
    };
    if (args.weight_dtype == DType::kF32) {
      add(static_cast<float*>(args.sums), static_cast<const float*>(args.weights));
    } else {
      add(static_cast<double*>(args.sums), static_cast<const double*>(args.weights));
    }
  });
}

bool histogram_cpu(const Histogram& args) {
  return args.dtype == DType::kF32 ? histogram<float>(args) : histogram<double>(args);
}

}  // namespace quire::kernel

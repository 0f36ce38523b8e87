#pragma once

#include <cstdint>

namespace quire::kernel {

template <class T>
struct Groups {
  T *k, *v, *weight, *peak, *count, *bias;  // rows of K and of U numbers, and one for each row
};

/// combine_groups() with everything checked and made plain. T is float or double.
template <class T>
struct CombineGroups {
  Groups<const T> a, b;
  Groups<T> out;
  std::int64_t rows, K, U;
  bool log_count;
};
void combine_groups_cpu(const CombineGroups<float>& args);
void combine_groups_cpu(const CombineGroups<double>& args);

}  // namespace quire::kernel

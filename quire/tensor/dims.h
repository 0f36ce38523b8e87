#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "quire/tensor/tensor.h"

namespace quire {

/// Sizes by letter, read off the names of tensors (docs/shapes.md): `src_ND` has rank 2, sizes N
/// and D.
class Dims {
 public:
  struct Named {
    std::string_view name;  // "src_ND": the letters are what follows the last underscore
    const Tensor* tensor;
  };
  /// Binds each letter to the first size seen and compares the rest.
  /// Throws ArgumentError: "src_ND: N is 4, but index_N has N = 5", or "src_ND: rank is 3, expected
  /// 2". The names must live as long as this does (the macro's are literals).
  explicit Dims(std::initializer_list<Named> tensors);

  /// The size of a letter; throws ArgumentError when no tensor had it.
  std::int64_t operator[](char letter) const;
  /// Binds a size that stands in a plain argument, or compares it: bind('H', heads, "spec.heads").
  void bind(char letter, std::int64_t size, std::string_view name);

 private:
  std::array<std::int64_t, 26> size_;  // -1: not bound
  std::array<std::string_view, 26> from_;
};

}  // namespace quire

/// QUIRE_DIMS(src_ND, index_N): the Dims of 1 to 8 tensors, read off the variables' names.
#define QUIRE_DIMS(...)                                                                     \
  ::quire::Dims(                                                                            \
      {QUIRE_DIMS_PICK(__VA_ARGS__, QUIRE_DIMS_8, QUIRE_DIMS_7, QUIRE_DIMS_6, QUIRE_DIMS_5, \
                       QUIRE_DIMS_4, QUIRE_DIMS_3, QUIRE_DIMS_2, QUIRE_DIMS_1, )(__VA_ARGS__)})
#define QUIRE_DIMS_PICK(a, b, c, d, e, f, g, h, name, ...) name
#define QUIRE_DIMS_1(a) \
  { #a, &(a) }
#define QUIRE_DIMS_2(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_1(__VA_ARGS__)
#define QUIRE_DIMS_3(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_2(__VA_ARGS__)
#define QUIRE_DIMS_4(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_3(__VA_ARGS__)
#define QUIRE_DIMS_5(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_4(__VA_ARGS__)
#define QUIRE_DIMS_6(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_5(__VA_ARGS__)
#define QUIRE_DIMS_7(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_6(__VA_ARGS__)
#define QUIRE_DIMS_8(a, ...) QUIRE_DIMS_1(a), QUIRE_DIMS_7(__VA_ARGS__)

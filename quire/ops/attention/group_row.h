#pragma once

// Where the parts of a row lie in the forms that round in groups. A row is cut into groups of 32
// numbers, the last one perhaps shorter; a group is its header, halves of f16, and its codes. In a
// block of 16 keys each of these parts is 16 times as wide, one for each key.

#include <cstdint>

namespace quire::kernel {

inline constexpr std::int64_t kGroup = 32;

/// i4 and i4h: scale and lowest number, then (n + 1) / 2 bytes: byte i holds number i below and
/// number (n + 1) / 2 + i above.
struct FormI4 {
  static constexpr std::int64_t kHeader = 4;  // bytes
  [[gnu::always_inline]] static constexpr std::int64_t code_bytes(std::int64_t n) {
    return (n + 1) / 2;
  }
  /// Numbers of a group of n that its first vector of 16 codes holds.
  [[gnu::always_inline]] static constexpr std::int64_t in_first(std::int64_t n) {
    return (n + 1) / 2;
  }
};

/// i8h: scale, then a byte for each number.
struct FormI8H {
  static constexpr std::int64_t kHeader = 2;
  [[gnu::always_inline]] static constexpr std::int64_t code_bytes(std::int64_t n) { return n; }
  [[gnu::always_inline]] static constexpr std::int64_t in_first(std::int64_t n) {
    return n < 16 ? n : 16;
  }
};

/// Numbers of the group that begins at number k of a row of n.
[[gnu::always_inline]] constexpr std::int64_t group_size(std::int64_t n, std::int64_t k) {
  return n - k < kGroup ? n - k : kGroup;
}
template <class Form>
[[gnu::always_inline]] constexpr std::int64_t group_bytes(std::int64_t size) {
  return Form::kHeader + Form::code_bytes(size);
}
/// Bytes of a row of n numbers.
template <class Form>
[[gnu::always_inline]] constexpr std::int64_t group_row_bytes(std::int64_t n) {
  const std::int64_t rest = n % kGroup;
  return n / kGroup * group_bytes<Form>(kGroup) + (rest == 0 ? 0 : group_bytes<Form>(rest));
}

}  // namespace quire::kernel

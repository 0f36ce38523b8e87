#pragma once

// Where the parts of a row of i4 lie. A row is cut into groups of 32 numbers, the last one perhaps
// shorter; a group of n is its scale and its lowest number, two halves, and (n + 1) / 2 bytes of
// codes: byte i holds number i below and number (n + 1) / 2 + i above. In a block of 16 keys each
// of these parts is 16 times as wide, one for each key.

#include <cstdint>

namespace quire::kernel {

inline constexpr std::int64_t kI4Group = 32;
inline constexpr std::int64_t kI4Header = 4;  // bytes before the codes: scale, lowest number

/// Numbers of the group that begins at number k of a row of n.
[[gnu::always_inline]] constexpr std::int64_t i4_group_size(std::int64_t n, std::int64_t k) {
  return n - k < kI4Group ? n - k : kI4Group;
}
[[gnu::always_inline]] constexpr std::int64_t i4_code_bytes(std::int64_t group) {
  return (group + 1) / 2;
}
[[gnu::always_inline]] constexpr std::int64_t i4_group_bytes(std::int64_t group) {
  return kI4Header + i4_code_bytes(group);
}
/// Bytes of a row of n numbers.
[[gnu::always_inline]] constexpr std::int64_t i4_row_bytes(std::int64_t n) {
  const std::int64_t rest = n % kI4Group;
  return n / kI4Group * i4_group_bytes(kI4Group) + (rest == 0 ? 0 : i4_group_bytes(rest));
}

}  // namespace quire::kernel

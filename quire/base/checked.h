#pragma once

#include <cstdint>
#include <optional>

namespace quire {

/// An unsigned 64-bit size whose arithmetic remembers overflow instead of wrapping. Every size that
/// is computed from outside numbers (files, requests) goes through it: build the whole expression,
/// then ask `value()` once.
class Checked {
 public:
  constexpr Checked(std::uint64_t value) : value_(value) {}  // NOLINT: numbers convert on purpose

  friend constexpr Checked operator+(Checked a, Checked b) {
    Checked out(0);
    out.overflow_ =
        __builtin_add_overflow(a.value_, b.value_, &out.value_) || a.overflow_ || b.overflow_;
    return out;
  }
  friend constexpr Checked operator*(Checked a, Checked b) {
    Checked out(0);
    out.overflow_ =
        __builtin_mul_overflow(a.value_, b.value_, &out.value_) || a.overflow_ || b.overflow_;
    return out;
  }
  /// The smallest multiple of `unit` (> 0) that is not below this.
  constexpr Checked padded_to(std::uint64_t unit) const {
    const std::uint64_t over = value_ % unit;
    return over == 0 ? *this : *this + Checked(unit - over);
  }

  constexpr bool overflowed() const { return overflow_; }
  /// Nothing when any step overflowed.
  constexpr std::optional<std::uint64_t> value() const {
    return overflow_ ? std::nullopt : std::optional<std::uint64_t>(value_);
  }
  /// True when nothing overflowed and the value is at most `limit`.
  constexpr bool at_most(std::uint64_t limit) const { return !overflow_ && value_ <= limit; }

 private:
  std::uint64_t value_;
  bool overflow_ = false;
};

}  // namespace quire

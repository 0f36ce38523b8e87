#include "quire/tensor/convert.h"

#include <bit>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/half.h"

namespace quire::detail {
namespace {

// The nearest float towards zero with its last bit set where bits were lost: rounding this once
// more, to a type at least two bits shorter, equals rounding `x` once.
float to_odd_float(double x) {
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || std::isnan(x)) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(static_cast<double>(nearest)) > std::abs(x)) bits -= 1;
  return std::bit_cast<float>(bits | 1u);
}

// The same for an integer that has more bits than a double.
double to_odd_double(std::int64_t x) {
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  if (x >= -kExact && x <= kExact) return static_cast<double>(x);
  const std::int64_t lost = x & 0x7ff;
  return static_cast<double>((x >> 11) | (lost != 0 ? 1 : 0)) * 2048.0;
}

template <class T>
inline constexpr bool kIsShort = std::same_as<T, Half> || std::same_as<T, BFloat16>;
template <class T>
inline constexpr bool kIsFloating = std::floating_point<T> || kIsShort<T>;

template <class To>
To shorten(float x) {
  if constexpr (std::same_as<To, Half>) {
    return to_half(x);
  } else {
    return to_bfloat16(x);
  }
}

template <class To, class From>
To convert_one(From x) {
  if constexpr (kIsShort<From>) {
    return convert_one<To>(to_float(x));
  } else if constexpr (std::same_as<To, From>) {
    return x;
  } else if constexpr (kIsShort<To>) {
    if constexpr (std::same_as<From, float>) {
      return shorten<To>(x);
    } else if constexpr (std::same_as<From, double>) {
      return shorten<To>(to_odd_float(x));
    } else {
      return shorten<To>(to_odd_float(to_odd_double(std::int64_t{x})));
    }
  } else if constexpr (std::floating_point<To>) {
    return static_cast<To>(x);
  } else {
    const std::int64_t value = x;
    const bool fits = value >= std::int64_t{std::numeric_limits<To>::min()} &&
                      value <= std::int64_t{std::numeric_limits<To>::max()};
    QUIRE_CHECK(fits, "to: the value ", value, " does not fit the new dtype");
    return static_cast<To>(value);
  }
}

template <class F>
void with_type(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kF64:
      return body(double{});
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(BFloat16{});
    case DType::kF16:
      return body(Half{});
    case DType::kI64:
      return body(std::int64_t{});
    case DType::kI32:
      return body(std::int32_t{});
    case DType::kI16:
      return body(std::int16_t{});
    case DType::kI8:
      return body(std::int8_t{});
    case DType::kU8:
      return body(std::uint8_t{});
    case DType::kBool:
      return body(bool{});
    case DType::kI4:  // of no tensor
    case DType::kI4H:
    case DType::kI8H:
      return;
  }
}

template <class T>
void gather(T* out, const T* in, std::span<const std::int64_t> shape,
            std::span<const std::int64_t> strides) {
  // An odometer over all dimensions but the last, whatever their number.
  const std::size_t outer = shape.size() - 1;
  const std::int64_t inner = shape[outer], step = strides[outer];
  std::vector<std::int64_t> index(outer, 0);
  for (;;) {
    if (step == 1) {
      std::memcpy(out, in, static_cast<std::size_t>(inner) * sizeof(T));
    } else {
      for (std::int64_t i = 0; i < inner; ++i) out[i] = in[i * step];
    }
    out += inner;
    std::size_t dim = outer;
    while (dim > 0) {
      --dim;
      in += strides[dim];
      if (++index[dim] < shape[dim]) break;
      in -= shape[dim] * strides[dim];
      index[dim] = 0;
      if (dim == 0) return;
    }
    if (outer == 0) return;
  }
}

}  // namespace

void gather_strided(std::byte* out, const std::byte* in, std::size_t size,
                    std::span<const std::int64_t> shape, std::span<const std::int64_t> strides) {
  for (const std::int64_t n : shape) {
    if (n == 0) return;
  }
  if (shape.empty()) {
    std::memcpy(out, in, size);
    return;
  }
  const auto run = [&](auto unit) {
    using T = decltype(unit);
    gather(reinterpret_cast<T*>(out), reinterpret_cast<const T*>(in), shape, strides);
  };
  switch (size) {
    case 1:
      return run(std::uint8_t{});
    case 2:
      return run(std::uint16_t{});
    case 4:
      return run(std::uint32_t{});
    default:
      return run(std::uint64_t{});
  }
}

void convert(void* out, DType to, const void* in, DType from, std::int64_t count) {
  with_type(from, [&](auto source) {
    with_type(to, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      if constexpr (kIsFloating<From> && !kIsFloating<To>) {
        throw ArgumentError(concat("to: ", to_string(from), " does not convert to ", to_string(to),
                                   "; round it to an integer first"));
      } else {
        To* target_data = static_cast<To*>(out);
        const From* source_data = static_cast<const From*>(in);
        for (std::int64_t i = 0; i < count; ++i) {
          target_data[i] = convert_one<To>(source_data[i]);
        }
      }
    });
  });
}

}  // namespace quire::detail

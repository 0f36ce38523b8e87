#include "quire/ops/attention/kv_format.h"

#include <cmath>
#include <cstring>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/ops/attention/group_row.h"

namespace quire {
namespace {

/// Calls body(form) with the grouped form of `dtype`; whether it has one.
template <class Body>
bool with_form(DType dtype, Body&& body) {
  const bool i4 = dtype == DType::kI4 || dtype == DType::kI4H;
  if (i4) body(kernel::FormI4{});
  if (dtype == DType::kI8H) body(kernel::FormI8H{});
  return i4 || dtype == DType::kI8H;
}

/// Calls part(bytes of a lane) for each part of a row of n numbers, in order.
template <class Form, class Part>
void each_part(std::int64_t n, Part&& part) {
  for (std::int64_t k = 0; k < n; k += kernel::kGroup) {
    for (std::int64_t i = 0; i < Form::kHeader; i += 2) part(std::int64_t{2});
    for (std::int64_t i = Form::code_bytes(kernel::group_size(n, k)); i > 0; --i)
      part(std::int64_t{1});
  }
}

template <class T, class Widen>
void widen_elements(const std::byte* from, std::int64_t n, float* to, Widen widen) {
  for (std::int64_t i = 0; i < n; ++i) {
    T x;
    std::memcpy(&x, from + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    to[i] = widen(x);
  }
}

template <class Form>
void widen_groups(const std::byte* from, std::int64_t n, float* to) {
  for (std::int64_t k = 0; k < n; k += kernel::kGroup) {
    const std::int64_t size = kernel::group_size(n, k), bytes = Form::code_bytes(size);
    float header[2] = {};
    widen_elements<Half>(from, Form::kHeader / 2, header, [](Half x) { return to_float(x); });
    for (std::int64_t i = 0; i < size; ++i) {
      const auto byte = static_cast<std::uint8_t>(from[Form::kHeader + i % bytes]);
      if constexpr (Form::kHeader == 2)
        to[k + i] = static_cast<float>(static_cast<std::int8_t>(byte)) * header[0];
      else
        to[k + i] =
            std::fma(static_cast<float>(i < bytes ? byte & 15 : byte >> 4), header[0], header[1]);
    }
    from += kernel::group_bytes<Form>(size);
  }
}

}  // namespace

bool stores_kv(DType dtype) {
  for (const DType form : kKvForms)
    if (form == dtype) return true;
  return false;
}

bool turns_keys(DType dtype) { return dtype == DType::kI4H || dtype == DType::kI8H; }

std::string kv_formats() {
  std::string out;
  for (const DType form : kKvForms) {
    if (!out.empty()) out += ", ";
    out += to_string(form);
  }
  return out;
}

std::int64_t kv_unit_bytes(DType dtype) {
  QUIRE_CHECK(stores_kv(dtype) || dtype == DType::kF64, "keys and values cannot be stored as ",
              to_string(dtype), "; they may be ", kv_formats());
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  return size == 0 ? 1 : size;
}

std::int64_t kv_row_stride(DType dtype, std::int64_t n) {
  std::int64_t stride = n;
  with_form(dtype, [&]<class Form>(Form) { stride = kernel::group_row_bytes<Form>(n); });
  return stride;
}

std::int64_t kv_row_bytes(DType dtype, std::int64_t n) {
  return kv_row_stride(dtype, n) * kv_unit_bytes(dtype);
}

std::int64_t kv_scale_bytes(DType dtype) {
  return dtype == DType::kI8 ? static_cast<std::int64_t>(sizeof(float)) : 0;
}

void each_kv_lane_part(DType dtype, std::int64_t n,
                       const std::function<void(std::int64_t offset, std::int64_t bytes)>& part) {
  std::int64_t at = 0;
  const auto next = [&](std::int64_t bytes) {
    part(at, bytes);
    at += 16 * bytes;
  };
  if (with_form(dtype, [&]<class Form>(Form) { each_part<Form>(n, next); })) return;
  const std::int64_t bytes = kv_unit_bytes(dtype);
  for (std::int64_t k = 0; k < n; ++k) next(bytes);
}

void kv_widen_row(DType dtype, const std::byte* row, std::int64_t n, float scale, float* to) {
  if (with_form(dtype, [&]<class Form>(Form) { widen_groups<Form>(row, n, to); })) return;
  switch (dtype) {
    case DType::kF16:
      return widen_elements<Half>(row, n, to, [](Half x) { return to_float(x); });
    case DType::kBF16:
      return widen_elements<BFloat16>(row, n, to, [](BFloat16 x) { return to_float(x); });
    case DType::kI8:
      return widen_elements<std::int8_t>(
          row, n, to, [&](std::int8_t x) { return static_cast<float>(x) * scale; });
    default:
      return widen_elements<float>(row, n, to, [](float x) { return x; });
  }
}

std::int64_t kv_bytes_per_token(DType dtype, std::int64_t G, std::int64_t K, std::int64_t U) {
  return G * (kv_row_bytes(dtype, K) + kv_row_bytes(dtype, U) + 2 * kv_scale_bytes(dtype));
}

}  // namespace quire

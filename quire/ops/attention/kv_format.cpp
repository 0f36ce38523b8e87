#include "quire/ops/attention/kv_format.h"

#include "quire/base/error.h"
#include "quire/ops/attention/i4_row.h"

namespace quire {
namespace {

bool is_i4(DType dtype) { return dtype == DType::kI4 || dtype == DType::kI4H; }

}  // namespace

bool stores_kv(DType dtype) {
  for (const DType form : kKvForms)
    if (form == dtype) return true;
  return false;
}

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
  return is_i4(dtype) ? 1 : static_cast<std::int64_t>(size_of(dtype));
}

std::int64_t kv_row_stride(DType dtype, std::int64_t n) {
  return is_i4(dtype) ? kernel::i4_row_bytes(n) : n;
}

std::int64_t kv_row_bytes(DType dtype, std::int64_t n) {
  return kv_row_stride(dtype, n) * kv_unit_bytes(dtype);
}

std::int64_t kv_scale_bytes(DType dtype) {
  return dtype == DType::kI8 ? static_cast<std::int64_t>(sizeof(float)) : 0;
}

void each_kv_lane_part(DType dtype, std::int64_t n,
                       const std::function<void(std::int64_t offset, std::int64_t bytes)>& part) {
  if (!is_i4(dtype)) {
    const std::int64_t bytes = kv_unit_bytes(dtype);
    for (std::int64_t k = 0; k < n; ++k) part(16 * k * bytes, bytes);
    return;
  }
  std::int64_t at = 0;
  const auto next = [&](std::int64_t bytes) {
    part(at, bytes);
    at += 16 * bytes;
  };
  for (std::int64_t k = 0; k < n; k += kernel::kI4Group) {
    next(kernel::kI4Header / 2);  // scales
    next(kernel::kI4Header / 2);  // lowest numbers
    for (std::int64_t i = kernel::i4_code_bytes(kernel::i4_group_size(n, k)); i > 0; --i) next(1);
  }
}

std::int64_t kv_bytes_per_token(DType dtype, std::int64_t G, std::int64_t K, std::int64_t U) {
  return G * (kv_row_bytes(dtype, K) + kv_row_bytes(dtype, U) + 2 * kv_scale_bytes(dtype));
}

}  // namespace quire

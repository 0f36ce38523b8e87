#include "quire/ops/attention/attention_check.h"

#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/attention/hadamard.h"
#include "quire/ops/attention/kv_format.h"
#include "quire/ops/attention/visible.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

// Positions and their differences stay far from the end of 64 bits.
constexpr std::int64_t kLastPosition = std::int64_t{1} << 48;

void check_view(const KvView& kv, std::int64_t H) {
  QUIRE_CHECK(kv.P >= 0 && kv.Z > 0 && kv.G > 0 && kv.K > 0 && kv.U > 0, "kv: P is ", kv.P, ", Z ",
              kv.Z, ", G ", kv.G, ", K ", kv.K, ", U ", kv.U, "; all but P must be positive");
  QUIRE_CHECK(H % kv.G == 0, "q_NHK: H is ", H, ", which is not a multiple of kv.G = ", kv.G);
  QUIRE_CHECK(stores_kv(kv.dtype) || kv.dtype == DType::kF64, "kv.dtype is ", to_string(kv.dtype),
              "; attention reads f32, f16, bf16, i8, i4, i4h, i8h and f64");
  QUIRE_CHECK((kv.dtype == DType::kI8) == (kv.k_scale_PZG != nullptr) &&
                  (kv.dtype == DType::kI8) == (kv.v_scale_PZG != nullptr),
              "kv.dtype is ", to_string(kv.dtype),
              "; k_scale_PZG and v_scale_PZG belong to i8, and only to it");
  QUIRE_CHECK(kv.length_BG != nullptr, "kv.length_BG is missing");
  QUIRE_CHECK(
      kv.bias == nullptr || kv.bias_heads == 1 || kv.bias_heads == kv.G || kv.bias_heads == H,
      "kv.bias_heads is ", kv.bias_heads, "; it may be 1, G = ", kv.G, " or H = ", H);
  QUIRE_CHECK(kv.k_layout == KLayout::kRows || kv.Z % 16 == 0, "kv.Z is ", kv.Z,
              "; keys in blocks need a multiple of 16");
}

/// Every page that a sequence's keys lie in exists.
void check_table(const KvView& kv, std::int64_t b, std::int64_t g) {
  const std::int64_t length = kernel::view_length(kv, b, g), first = kernel::view_first(kv, b, g);
  const std::int64_t pages = length / kv.Z + (length % kv.Z != 0 ? 1 : 0);
  QUIRE_CHECK(length >= 0, "kv.length of sequence ", b, " is ", length);
  QUIRE_CHECK(first >= 0 && first <= kLastPosition, "kv.first of sequence ", b, " is ", first,
              "; it may be 0 to ", kLastPosition);
  const std::int32_t* row = nullptr;
  std::int64_t width = 1;
  if (kv.table != nullptr && kv.table_start_J != nullptr) {
    row = kv.table + kv.table_start_J[b];
    width = kv.table_start_J[b + 1] - kv.table_start_J[b];
  } else if (kv.table != nullptr) {
    row = kv.table + (kv.table_head_stride == 0 ? b * kv.W : (b * kv.G + g) * kv.table_head_stride);
    width = kv.W;
  }
  QUIRE_CHECK(pages <= width && length <= kLastPosition, "kv.length of sequence ", b, " is ",
              length, ", but its table has ", width, " pages of ", kv.Z);
  for (std::int64_t w = 0; w < pages; ++w) {
    const std::int64_t page = row == nullptr ? b : row[w];
    QUIRE_CHECK(page >= 0 && page < kv.P, "kv.table: page ", w, " of sequence ", b, " is ", page,
                ", but there are P = ", kv.P);
  }
}

void check_sequences(const Tensor& start_J, const KvView& kv, const AttentionSpec& spec,
                     std::int64_t N) {
  const std::int64_t B = start_J.size(0) - 1;
  const auto* start = start_J.data<std::int32_t>();
  QUIRE_CHECK(start[0] == 0 && start[B] == N, "start_J begins with ", start[0], " and ends with ",
              start[B], "; it must go from 0 to N = ", N);
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t T = start[b + 1] - start[b];
    QUIRE_CHECK(T >= 0, "start_J falls from ", start[b], " to ", start[b + 1], " at ", b + 1);
    for (std::int64_t g = 0; g < kv.G; ++g) check_table(kv, b, g);
    const bool positions_matter = spec.window_left != kUnlimited ||
                                  spec.window_right != kUnlimited || spec.slope_H != nullptr;
    if (spec.alignment != Alignment::kUnset || !positions_matter) continue;
    for (std::int64_t g = 0; g < kv.G; ++g) {
      const std::int64_t S = kernel::view_length(kv, b, g);
      QUIRE_CHECK(S == T, "spec.alignment is unset, but sequence ", b, " has ", T, " queries and ",
                  S, " keys");
    }
  }
}

}  // namespace

Tensor queries_for(const KvView& kv, const Tensor& q_NHK) {
  if (turns_keys(kv.dtype)) return hadamard(q_NHK);
  const DType dtype = kv.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  return (q_NHK.dtype() == dtype ? q_NHK : q_NHK.to(dtype)).contiguous_copy();
}

AttentionSpec checked_attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                                const AttentionSpec& spec) {
  const Dims dims = QUIRE_DIMS(q_NHK, start_J);
  check_view(kv, dims['H']);
  QUIRE_CHECK(dims['K'] == kv.K, "q_NHK: K is ", dims['K'], ", but kv has K = ", kv.K);
  QUIRE_CHECK(q_NHK.dtype() == DType::kF32 || q_NHK.dtype() == DType::kBF16 ||
                  q_NHK.dtype() == DType::kF16 || q_NHK.dtype() == DType::kF64,
              "q_NHK is ", to_string(q_NHK.dtype()), "; attention takes f32, bf16, f16 and f64");
  QUIRE_CHECK((q_NHK.dtype() == DType::kF64) == (kv.dtype == DType::kF64), "q_NHK is ",
              to_string(q_NHK.dtype()), ", but kv.dtype is ", to_string(kv.dtype),
              "; f64 goes with f64 only");
  QUIRE_CHECK(start_J.dtype() == DType::kI32 && dims['J'] >= 1, "start_J is ",
              to_string(start_J.dtype()), " ", to_string(start_J.shape()),
              "; it must be i32 [B + 1]");
  QUIRE_CHECK(spec.softcap >= 0 && spec.scale >= 0, "spec.softcap is ", spec.softcap,
              " and spec.scale ", spec.scale);
  QUIRE_CHECK(spec.window_left >= 0 && spec.window_right >= 0, "spec.window is (", spec.window_left,
              ", ", spec.window_right, ")");
  QUIRE_CHECK(spec.mask_stride >= 0 && spec.mask_stride_B >= 0 && spec.mask_stride_H >= 0,
              "spec.mask_stride is ", spec.mask_stride, ", of sequences ", spec.mask_stride_B,
              " and of heads ", spec.mask_stride_H, "; none may be negative");
  check_sequences(start_J, kv, spec, dims['N']);

  AttentionSpec plain = spec;
  if (plain.scale == 0) plain.scale = 1.0 / std::sqrt(static_cast<double>(kv.K));
  if (plain.alignment == Alignment::kUnset) plain.alignment = Alignment::kBottomRight;
  return plain;
}

std::int64_t checked_keys(const KvView& kv, std::int64_t b) {
  check_view(kv, kv.G);
  QUIRE_CHECK(b >= 0, "sequence ", b, " of a view");
  for (std::int64_t g = 0; g < kv.G; ++g) {
    check_table(kv, b, g);
    QUIRE_CHECK(kernel::view_length(kv, b, g) == kernel::view_length(kv, b, 0), "kv head ", g,
                " of sequence ", b, " has ", kernel::view_length(kv, b, g),
                " keys, but head 0 has ", kernel::view_length(kv, b, 0));
  }
  return kernel::view_length(kv, b, 0);
}

}  // namespace quire

#pragma once

// Attention as naive loops over queries and keys, following the table page by page. `double` is the
// truth, `float` the yardstick: what a plain program in f32 would lose.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "quire/base/half.h"
#include "quire/ops/attention/attention_spec.h"
#include "quire/ops/attention/kv_view.h"

namespace ref {

template <class T>
struct Attention {
  std::vector<T> out_NHU, lse_NH;
  double largest_value = 0, largest_score = 0;  // magnitudes among the terms
};

inline std::int64_t page_of(const quire::KvView& kv, std::int64_t b, std::int64_t g,
                            std::int64_t w) {
  if (kv.table == nullptr) return b;
  if (kv.table_start_J != nullptr) return kv.table[kv.table_start_J[b] + w];
  if (kv.table_head_stride == 0) return kv.table[b * kv.W + w];
  return kv.table[(b * kv.G + g) * kv.table_head_stride + w];
}

/// A stored number, exactly.
inline double element(const void* pages, quire::DType dtype, std::int64_t i) {
  switch (dtype) {
    case quire::DType::kF16:
      return double{quire::to_float(static_cast<const quire::Half*>(pages)[i])};
    case quire::DType::kBF16:
      return double{quire::to_float(static_cast<const quire::BFloat16*>(pages)[i])};
    case quire::DType::kF64:
      return static_cast<const double*>(pages)[i];
    case quire::DType::kI8:
      return static_cast<const std::int8_t*>(pages)[i];
    default:
      return double{static_cast<const float*>(pages)[i]};
  }
}

/// Where element k of a key lies.
inline std::int64_t key_index(const quire::KvView& kv, std::int64_t page, std::int64_t slot,
                              std::int64_t g, std::int64_t k) {
  const std::int64_t base = page * kv.k_strides.page + g * kv.k_strides.head;
  if (kv.k_layout == quire::KLayout::kRows) return base + slot * kv.k_strides.slot + k;
  return base + slot / 16 * 16 * kv.k_strides.slot + k * 16 + slot % 16;
}

inline bool sees(const quire::AttentionSpec& spec, std::int64_t position, std::int64_t key) {
  if (spec.window_left != quire::kUnlimited && position - key > spec.window_left) return false;
  return spec.window_right == quire::kUnlimited || key - position <= spec.window_right;
}

/// One query with one head. `t` of `queries` is its place in its sequence.
template <class T>
void attention_row(Attention<T>& result, const float* q_K, std::int64_t b, std::int64_t h,
                   std::int64_t H, std::int64_t t, std::int64_t queries, const quire::KvView& kv,
                   const quire::AttentionSpec& spec) {
  const T infinity = std::numeric_limits<T>::infinity();
  const std::int64_t g = h / (H / kv.G), at = b * kv.G + g;
  const std::int64_t length = kv.length_BG[kv.length_stride_G == 0 ? b : at];
  const std::int64_t first =
      kv.first_BG == nullptr ? 0 : kv.first_BG[kv.length_stride_G == 0 ? b : at];
  const std::int64_t position =
      spec.alignment == quire::Alignment::kTopLeft ? first + t : first + length - queries + t;
  const T scale =
      spec.scale == 0 ? 1 / std::sqrt(static_cast<T>(kv.K)) : static_cast<T>(spec.scale);
  std::vector<T> scores;
  std::vector<std::int64_t> slots;
  T largest = spec.sink_H == nullptr ? -infinity : static_cast<T>(spec.sink_H[h]);
  for (std::int64_t s = 0; s < length; ++s) {
    if (!sees(spec, position, first + s)) continue;
    const std::int64_t page = page_of(kv, b, g, s / kv.Z), slot = s % kv.Z;
    const std::int64_t key = page * kv.Z + slot;
    T bias = 0;
    if (kv.bias != nullptr) {
      const std::int64_t head = kv.bias_heads == 1 ? 0 : kv.bias_heads == kv.G ? g : h;
      bias += static_cast<T>(kv.bias[key * kv.bias_heads + head]);
    }
    const std::int64_t mask =
        b * spec.mask_stride_B + h * spec.mask_stride_H + t * spec.mask_stride + s;
    if (spec.mask_TS != nullptr) bias += static_cast<T>(spec.mask_TS[mask]);
    if (spec.allow_TS != nullptr && spec.allow_TS[mask] == 0) continue;
    if (bias == -infinity) continue;
    T score = 0;
    for (std::int64_t k = 0; k < kv.K; ++k) {
      T x = static_cast<T>(element(kv.k_pages, kv.dtype, key_index(kv, page, slot, g, k)));
      if (kv.k_scale_PZG != nullptr) x *= static_cast<T>(kv.k_scale_PZG[key * kv.G + g]);
      score += static_cast<T>(q_K[k]) * x;
    }
    score *= scale;
    result.largest_score = std::max(result.largest_score, std::abs(static_cast<double>(score)));
    if (spec.softcap > 0) {
      const T cap = static_cast<T>(spec.softcap);
      score = cap * std::tanh(score / cap);
    }
    if (spec.slope_H != nullptr)
      score += static_cast<T>(spec.slope_H[h]) * static_cast<T>(first + s - position);
    score += bias;
    result.largest_score = std::max(result.largest_score, std::abs(static_cast<double>(score)));
    scores.push_back(score);
    slots.push_back(s);
    largest = std::max(largest, score);
  }
  std::vector<T> out(static_cast<std::size_t>(kv.U), T{0});
  T sum = spec.sink_H == nullptr || largest == -infinity
              ? T{0}
              : std::exp(static_cast<T>(spec.sink_H[h]) - largest);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const T weight = std::exp(scores[i] - largest);
    sum += weight;
    const std::int64_t page = page_of(kv, b, g, slots[i] / kv.Z), slot = slots[i] % kv.Z;
    for (std::int64_t u = 0; u < kv.U; ++u) {
      const std::int64_t index =
          page * kv.v_strides.page + slot * kv.v_strides.slot + g * kv.v_strides.head + u;
      T v = static_cast<T>(element(kv.v_pages, kv.dtype, index));
      if (kv.v_scale_PZG != nullptr)
        v *= static_cast<T>(kv.v_scale_PZG[(page * kv.Z + slot) * kv.G + g]);
      result.largest_value = std::max(result.largest_value, std::abs(static_cast<double>(v)));
      out[static_cast<std::size_t>(u)] += weight * v;
    }
  }
  for (const T x : out) result.out_NHU.push_back(sum == 0 ? T{0} : x / sum);
  result.lse_NH.push_back(sum == 0 ? -infinity : largest + std::log(sum));
}

/// q f32 [N, H, K]; start [B + 1].
template <class T>
Attention<T> attention(const std::vector<float>& q_NHK, const std::vector<std::int32_t>& start_J,
                       std::int64_t H, const quire::KvView& kv, const quire::AttentionSpec& spec) {
  Attention<T> result;
  for (std::size_t b = 0; b + 1 < start_J.size(); ++b) {
    for (std::int64_t n = start_J[b]; n < start_J[b + 1]; ++n) {
      for (std::int64_t h = 0; h < H; ++h) {
        attention_row(result, q_NHK.data() + (n * H + h) * kv.K, static_cast<std::int64_t>(b), h, H,
                      n - start_J[b], start_J[b + 1] - start_J[b], kv, spec);
      }
    }
  }
  return result;
}

}  // namespace ref

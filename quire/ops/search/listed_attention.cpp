#include "quire/ops/search/listed_attention.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/search/listed_attention_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_list(const ListedKeys& list, std::int64_t H, std::int64_t K, const KvView& first) {
  const KvView& kv = list.rows;
  QUIRE_CHECK(kv.dtype == DType::kF32 || kv.dtype == DType::kBF16 || kv.dtype == DType::kF16 ||
                  (kv.dtype == DType::kI8 && kv.v_scale_PZG != nullptr),
              "rows are ", to_string(kv.dtype), "; expected f32, bf16, f16, or i8 with scales");
  QUIRE_CHECK(kv.P == 1 && kv.table == nullptr && kv.K == K && kv.G > 0 && H % kv.G == 0 &&
                  kv.G == first.G && kv.U == first.U,
              "rows have P = ", kv.P, ", K = ", kv.K, ", U = ", kv.U, ", G = ", kv.G,
              "; q_1HK has H = ", H, " and K = ", K, ", and the first list U = ", first.U);
  QUIRE_CHECK(list.score_HW != nullptr || kv.k_layout == KLayout::kRows,
              "keys lie in blocks, but are to be read one by one");
  for (std::int64_t g = 0; g < kv.G; ++g) {
    const std::int64_t n = list.length_G[g];
    QUIRE_CHECK(n >= 0 && n <= list.W, "kv head ", g, " lists ", n, " keys of ", list.W);
    const std::int32_t* slot = list.slot_GW + g * list.W;
    std::int32_t lowest = 0, highest = -1;
    for (std::int64_t i = 0; i < n; ++i) {
      lowest = std::min(lowest, slot[i]);
      highest = std::max(highest, slot[i]);
    }
    QUIRE_CHECK(lowest >= 0 && highest < kv.Z, "kv head ", g, " lists slot ",
                lowest < 0 ? lowest : highest, " of ", kv.Z);
  }
}

/// Rows that are a multiple of 16 long.
Tensor padded(const Tensor& q_1HK, std::int64_t width) {
  const std::int64_t H = q_1HK.size(1), K = q_1HK.size(2);
  if (K == width) return q_1HK.contiguous_copy();
  const Tensor q = q_1HK.contiguous_copy();
  Tensor out = Tensor::zeros({1, H, width}, DType::kF32);
  for (std::int64_t h = 0; h < H; ++h)
    std::copy_n(q.data<float>() + h * K, K, out.mutable_data<float>() + h * width);
  return out;
}

}  // namespace

std::vector<AttentionResult> listed_attention(const Tensor& q_1HK,
                                              std::span<const ListedKeys> lists, double scale,
                                              double softcap) {
  QUIRE_CHECK(q_1HK.rank() == 3 && q_1HK.size(0) == 1 && q_1HK.dtype() == DType::kF32, "q_1HK is ",
              to_string(q_1HK.dtype()), " ", to_string(q_1HK.shape()), "; expected f32 [1, H, K]");
  QUIRE_CHECK(scale >= 0 && softcap >= 0, "scale is ", scale, " and softcap ", softcap);
  const std::int64_t H = q_1HK.size(1), K = q_1HK.size(2);
  std::vector<AttentionResult> out;
  if (lists.empty()) return out;
  const std::int64_t U = lists.front().rows.U;
  std::vector<kernel::ListedPart> parts;
  for (const ListedKeys& list : lists) {
    check_list(list, H, K, lists.front().rows);
    out.push_back({Tensor::empty({1, H, U}, DType::kF32), Tensor::empty({1, H}, DType::kF32)});
    parts.push_back({list.rows, list.slot_GW, list.W, list.length_G, list.score_HW, list.sink_H,
                     out.back().out_NHU.mutable_data<float>(),
                     out.back().lse_NH.mutable_data<float>()});
  }
  const Tensor q = padded(q_1HK, (K + 15) / 16 * 16);
  const double plain = scale == 0 ? 1 / std::sqrt(static_cast<double>(K)) : scale;
  kernel::listed_attention_cpu({q.data<float>(), parts.data(),
                                static_cast<std::int64_t>(parts.size()), H, lists.front().rows.G, K,
                                U, static_cast<float>(plain), static_cast<float>(softcap)});
  return out;
}

}  // namespace quire

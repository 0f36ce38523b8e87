#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// The anchors of one head, of length 1 and less their mean c, in 8 bits: a ≈ c + scale · code.
/// With a key k less any centre the product of the two codes is told in whole numbers. What it can
/// be off by, at most, says which anchors need not be looked at exactly.
struct AnchorCodes {
  const std::int8_t* rows;       // [M, width], width is K rounded up to 16
  const float* scale_M;          // what a code is worth
  const std::int32_t* offset_M;  // 128 times the sum of a row's codes
  const float* center_M;         // (a − c) · centre
  const float* center_K;         // of the keys
  // The most, over m: |a − c|, |a − c − scale · code|, |(a − c) · centre|; and |c|.
  double length, off, centered, mean_length;
};

/// nearest_anchor() with everything checked and made plain. T is float or double.
template <class T>
struct NearestAnchorArgs {
  KvView kv;
  std::int64_t b, S, M;
  const T* anchor_GMK;  // contiguous
  T* unit_GMK;          // scratch: anchors of length 1
  std::int64_t* group_GS;
  T* cosine_GS;
  const AnchorCodes* codes_G = nullptr;  // null, or `rows` null: every product is made exactly
};
void nearest_anchor_cpu(const NearestAnchorArgs<float>& args);
void nearest_anchor_cpu(const NearestAnchorArgs<double>& args);

/// What a thread needs: keys as they are and in codes, and the anchors that may be the nearest.
inline constexpr std::int64_t kAnchorsKept = 2048;
struct NearestAnchorScratch {
  float* columns;        // [K, 64]
  std::uint8_t* codes;   // [width / 4, 64, 4]
  std::int32_t* anchor;  // [kAnchorsKept]: which anchor was kept for which of the 64 keys
  std::uint32_t* lanes;  // [kAnchorsKept]
  float* score;          // [kAnchorsKept, 16]
};

/// Adds the keys [slot, slot + count) of kv head g, without scales.
QUIRE_DECLARE_KERNEL(void, add_key_columns, const NearestAnchorArgs<float>& args, std::int64_t g,
                     std::int64_t slot, int count, double* sum_K, float* columns)

/// Keys [slot, slot + count) of kv head g; slot is a multiple of 64, count at most 64.
QUIRE_DECLARE_KERNEL(void, nearest_anchor_span, const NearestAnchorArgs<float>& args,
                     std::int64_t g, std::int64_t slot, int count,
                     const NearestAnchorScratch& scratch)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

/// One segment of a sequence: slots [begin, begin + n), M clusters in each head.
struct ClusterSegment {
  KvView kv;
  std::int64_t b, begin, n, M, iterations;
  std::int64_t* group_GN;  // the result, row_step apart
  std::int64_t row_step;
};
void cluster_segment_cpu(const ClusterSegment& args);

/// Clusters of all segments as numbers of one head: empty ones dropped, large ones split by slot,
/// members in order.
struct NumberClusters {
  std::int64_t G, S, begin, n, segment, largest;
  const std::int64_t* segment_M;  // clusters of each segment before that
  std::int64_t* group_GS;         // in: within the segment; out: within the head
  std::int64_t* member_GN;
  std::int64_t* groups_G;
};
void number_clusters_cpu(const NumberClusters& args);
/// start_GJ from the groups that were numbered.
void cluster_starts_cpu(const NumberClusters& args, std::int64_t J, std::int64_t* start_GJ);

/// Codes of 64 keys: each less the mean, divided by its largest number, in 8 bits. Of head g:
/// `columns` as dot4 wants them, [spans, width / 4, 64, 4] plus 128; `rows` as [n, width]; `unit`
/// the factor that gives a key the length 1, 0 for a key of length 0. width is K rounded up to 16.
struct KeyCodes {
  std::uint8_t* columns;
  std::int8_t* rows;
  float* unit_N;
};

/// Codes keys [span · 64, span · 64 + count) of a segment. `scratch` is 64 · (K + 16) floats.
QUIRE_DECLARE_KERNEL(void, code_keys, const ClusterSegment& args, std::int64_t g, std::int64_t span,
                     int count, const float* mean_K, const KeyCodes& codes, float* scratch)
/// Adds the keys [slot, slot + count) to sum_K.
QUIRE_DECLARE_KERNEL(void, add_keys, const ClusterSegment& args, std::int64_t g, std::int64_t slot,
                     int count, float* sum_K, float* scratch)

/// Centroids in 8 bits: [M, width], what a code is worth, and 128 times the sum of a row's codes.
struct CentroidCodes {
  const std::int8_t* rows;
  const float* scale_M;
  const std::int32_t* offset_M;
  std::int64_t M, width;
};
/// The nearest centroid of 64 keys.
QUIRE_DECLARE_KERNEL(void, nearest_codes, const CentroidCodes& centroids,
                     const std::uint8_t* columns, std::int64_t* group64)
/// to[i] += share · codes[i], i < width, a multiple of 16.
QUIRE_DECLARE_KERNEL(void, add_codes, float* to, const std::int8_t* codes, float share,
                     std::int64_t width)
/// The codes of a sum of keys: divided by its largest number. Returns what a code is worth when the
/// row has length 1, or 0 for a row of length 0.
QUIRE_DECLARE_KERNEL(float, code_row, const float* from, std::int64_t width, std::int8_t* to,
                     std::int32_t* offset)

}  // namespace quire::kernel

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// Keys that are named one by one, for each kv head its own.
struct ListedKeys {
  KvView rows;                  // one page (P = 1), keys in rows; lengths do not count
  const std::int32_t* slot_GW;  // which slots: the first length of each head
  std::int64_t W = 0;
  const std::int64_t* length_G;
  /// [H, W]: what the scores are, where they are known (keys are not read then); null: scale · q·k.
  const float* score_HW = nullptr;
  const float* sink_H = nullptr;  // a logit without a value
};

/// Softmax attention of one query to each of several lists of keys, which it sees whole:
///
///   out = softmax(scale · q·k + 0) · v     (softcapped as in attention())
///
/// q_1HK    f32
/// scale    0: 1/√K
/// softcap  0: none; known scores have it already
///
/// Returns a result for each list, for merge_attention(). An empty list gives 0 and −inf.
///
/// Throws  ArgumentError on shapes, dtypes (f32, bf16, f16, i8 with scales), layouts and slots.
/// Order   a partial result per 128 listed keys, in their order; bits depend neither on threads
///         nor on where keys lie. They are not those of attention(), whose keys lie in blocks.
/// Memory  the results, one partial result per 128 keys, and 128 scores a row for each thread.
/// Source  as attention(); rows are multiplied as they lie, since few queries do not pay for
///         turning them.
std::vector<AttentionResult> listed_attention(const Tensor& q_1HK,
                                              std::span<const ListedKeys> lists, double scale = 0,
                                              double softcap = 0);

}  // namespace quire

#pragma once

#include <cstdint>

#include "quire/base/isa.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

inline constexpr std::int64_t kListedKeys = 128;  // of a partial result

struct ListedPart {
  KvView rows;
  const std::int32_t* slot_GW;
  std::int64_t W;
  const std::int64_t* length_G;
  const float* score_HW;
  const float* sink_H;
  float *out_HU, *lse_H;
};

/// listed_attention() with everything checked and made plain.
struct ListedAttention {
  const float* q_HK;  // rows of K rounded up to 16, filled up with zeros
  const ListedPart* parts;
  std::int64_t count, H, G, K, U;
  float scale, softcap;
};
void listed_attention_cpu(const ListedAttention& args);

/// Of keys or values that are no whole number of vectors.
inline std::int64_t listed_row_floats(const ListedAttention& args) {
  return 4 * ((args.K > args.U ? args.K : args.U) + 16);
}

/// The softmax over listed keys [first, first + n) of kv head g, n at most 128. `scratch`: 128 for
/// each row of the group, and listed_row_floats().
QUIRE_DECLARE_KERNEL(void, listed_chunk, const ListedAttention& args, const ListedPart& part,
                     std::int64_t g, std::int64_t first, std::int64_t n, const SoftmaxState& state,
                     float* scratch)

}  // namespace quire::kernel

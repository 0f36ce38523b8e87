#pragma once

#include <cstdint>

#include "quire/ops/attention/attention_kernel.h"

namespace quire::kernel {

/// attention_cpu() of sequences whose first `shared` keys are the same, as shared_keys() tells it.
void shared_attention_cpu(const AttentionForward& args, std::int64_t shared);

}  // namespace quire::kernel

#pragma once

#include <cstdint>

namespace quire::model {

/// Bytes that this process could still take: the kernel's estimate of free memory, or what a
/// control group leaves, whichever is less. Returns INT64_MAX where neither is known.
std::int64_t available_memory();

}  // namespace quire::model

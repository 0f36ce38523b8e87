#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

/// Rows of D floats to read: data + index[n] · D for n in [begin, end). The index has N entries;
/// those behind `end` are fetched ahead.
struct ReadRows {
  const float* data;
  const std::int64_t* index;
  std::int64_t begin, end, N, D;
};

/// The sum of everything read.
QUIRE_DECLARE_KERNEL(float, read_rows, const ReadRows& args)

}  // namespace quire::kernel

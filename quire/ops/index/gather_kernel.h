#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

struct Walk;

struct Gather {
  const Walk* walk;  // place: self, plain: out
  void* out;
  const void* self;
  std::int64_t element_bytes;  // 1, 2, 4 or 8
};

/// False when a value of the index is out of range: out holds anything then.
bool gather_cpu(const Gather& args);

/// Rows to copy: row index[n · index_step] of self to row n of out; sizes and steps in bytes.
struct GatherRows {
  std::byte* out;
  const std::byte* self;
  const std::int64_t* index;
  std::int64_t out_step, self_step, index_step, row_bytes, count;
  bool stream;  // past the cache: rows of out begin at multiples of 64 bytes and are whole lines
};

QUIRE_DECLARE_KERNEL(void, gather_rows, const GatherRows& args)

}  // namespace quire::kernel

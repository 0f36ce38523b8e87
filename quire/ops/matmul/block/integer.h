#pragma once

// What a block type with integers hands to the product: 32 columns of 16 rows as bytes, and what
// they stand for.

#include "quire/base/simd.h"

namespace quire::kernel::QUIRE_ISA_NS {

/// value(row r, column 4q + j) = scale[r] · (quads[q] byte 4r + j − zero point) + minimum[r].
struct Integers {
  Bytes quads[8];
  F32 scale, minimum;
};

}  // namespace quire::kernel::QUIRE_ISA_NS

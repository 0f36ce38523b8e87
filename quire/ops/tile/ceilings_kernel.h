#pragma once

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

/// Operands of one step of the chains below: this many vectors of 16 floats or 64 bytes.
inline constexpr int kChains = 12;
inline constexpr int kOperands = 16;

/// Sum of `count` floats, a multiple of 128: nothing but reading.
QUIRE_DECLARE_KERNEL(float, stream_read, const float* x, std::int64_t count)
/// `steps` times kChains independent FMAs of 16 floats. `operands`: kOperands vectors.
QUIRE_DECLARE_KERNEL(float, fma_chains, const float* operands, std::int64_t steps)
/// `steps` times kChains independent dot4 of 64 bytes. `operands`: kOperands vectors.
QUIRE_DECLARE_KERNEL(float, dot4_chains, const std::uint8_t* operands, std::int64_t steps)

}  // namespace quire::kernel

#pragma once

// The vectors of quire/base/simd.h, one function each, for every instruction set.

#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

enum class Probe {
  kLoadStore,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFma,
  kMax,
  kMin,
  kAbs,
  kSqrt,
  kRound,
  kScaleByPower,
  kSelectLess,
  kNotLess,
  kFmaOne,
  kExp,
  kSet1,
  kZero,
};

enum class Widen { kF16, kBF16, kI8, kU8 };
enum class Narrow { kF16, kBF16, kI8 };

/// out[16] = operation on 16 floats each.
QUIRE_DECLARE_KERNEL(void, probe, Probe operation, const float* a, const float* b, const float* c,
                     float* out)
QUIRE_DECLARE_KERNEL(void, probe_widen, Widen from, const void* in, float* out)
QUIRE_DECLARE_KERNEL(void, probe_narrow, Narrow to, const float* in, void* out)
QUIRE_DECLARE_KERNEL(void, probe_keep_lanes, const float* x, int begin, int end, const float* other,
                     float* out)
/// out has n floats.
QUIRE_DECLARE_KERNEL(void, probe_first, const float* in, int n, float* loaded16, float* out)
/// In place.
QUIRE_DECLARE_KERNEL(void, probe_transpose, float* square256)
QUIRE_DECLARE_KERNEL(bool, probe_all_finite, const float* x)
QUIRE_DECLARE_KERNEL(float, probe_reduce_add, const float* x)
QUIRE_DECLARE_KERNEL(float, probe_reduce_max, const float* x)
/// out[i] = start + Σ_j a[4i + j] · b[4i + j], as floats.
QUIRE_DECLARE_KERNEL(void, probe_dot4, std::int32_t start, const std::uint8_t* a,
                     const std::int8_t* b, float* out)
QUIRE_DECLARE_KERNEL(void, probe_nibbles, const std::uint8_t* in, std::uint8_t* low,
                     std::uint8_t* high)
QUIRE_DECLARE_KERNEL(void, probe_repeat4, const std::uint8_t* in, std::uint8_t* out)

enum class Pairing { kLoadStore, kRepeat, kUp, kHalves, kUp32First, kUp32Second, kLow, kHigh };
/// out = 16 pairs of the bf16 at `a`, and at `b` where the operation takes two.
QUIRE_DECLARE_KERNEL(void, probe_pairs, Pairing operation, const std::uint16_t* a,
                     const std::uint16_t* b, std::uint16_t* out32)
QUIRE_DECLARE_KERNEL(void, probe_widen_pairs, const std::uint16_t* in32, float* low, float* high)
/// These two want has_bf16_dot(), or the portable vectors.
QUIRE_DECLARE_KERNEL(void, probe_round_pairs, const float* in32, std::uint16_t* out32)
QUIRE_DECLARE_KERNEL(void, probe_dot2, const float* acc, const std::uint16_t* a32,
                     const std::uint16_t* b32, float* out)

}  // namespace quire::kernel

#pragma once

#include <cstdint>

namespace quire {

/// What stands between the two layers of an expert. With a the first and b the second number of a
/// pair, σ(z) = 1 / (1 + e^−z) and gelu(z) = z · σ(√(8/π) · (z + 0.044715 z³)), the tanh form:
///
///   kSwiglu         a · σ(a) · b
///   kSwigluClamped  a' · σ(α · a') · (b' + 1)   a' = min(a, limit), b' = b held to ±limit
///   kGlu            a · σ(b)                    torch.nn.GLU: the second number is the gate
///   kGeglu          gelu(a) · b
///   kReglu          max(a, 0) · b
///   kRelu, kRelu2, kGelu, kSilu  of one number: max(z, 0), max(z, 0)², gelu(z), z · σ(z)
enum class ActivationKind : std::uint8_t {
  kSwiglu,
  kSwigluClamped,
  kGlu,
  kGeglu,
  kReglu,
  kRelu,
  kRelu2,
  kGelu,
  kSilu
};

/// Where the pairs of a row of 2F numbers stand: a in the first half and b in the second, or side
/// by side.
enum class PairLayout : std::uint8_t { kHalves, kInterleaved };

}  // namespace quire

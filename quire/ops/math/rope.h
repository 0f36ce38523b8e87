#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quire/tensor/tensor.h"

namespace quire {

/// Which two numbers of a head turn together. kInterleaved: 2i and 2i + 1 (the first paper, GPT-J,
/// GGUF's llama architecture). kHalfSplit: i and i + R/2 (GPT-NeoX, Qwen, Hugging Face folders,
/// GGUF's qwen and gemma).
enum class RopePairing : std::uint8_t { kInterleaved, kHalfSplit };

/// How the frequencies of a model are changed for contexts longer than those it was first trained
/// on.
enum class RopeScaling : std::uint8_t { kNone, kLinear, kYarn, kLlama3 };

/// What a model says about its rotary embedding. Pair i turns by f(i) a position; unscaled,
/// f(i) = theta^(−2i / R) / factors[i]. kLinear divides by `factor`. kYarn divides slow pairs,
/// keeps fast ones, blends between, and scales cos and sin by the attention factor (so scores by
/// its square). kLlama3 does so by wavelength, without an attention factor.
struct RopeSpec {
  RopePairing pairing = RopePairing::kHalfSplit;
  std::int64_t rotary = 0;  // R: the first R numbers of a head turn, the rest stay; even, at most K
  double theta = 10000;     // > 1
  std::vector<float> factors = {};  // empty, or R/2 divisors > 0 (GGUF's rope_freqs.weight)

  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;  // > 0; all but kNone
  /// > 0; kYarn, kLlama3: the context that the model was first trained on.
  double original_context = 0;
  double beta_fast = 32;  // kYarn: pairs that turn more often than this within it are kept
  double beta_slow = 1;   // kYarn: pairs that turn less often are divided
  /// kYarn: multiplies cos and sin; 0 means yarn_attention_factor(factor).
  double attention_factor = 0;
  bool truncate = true;  // kYarn: the blend begins and ends at whole pairs
  /// kLlama3: wavelengths over original_context / this are divided.
  double low_frequency_factor = 1;
  /// kLlama3: wavelengths under original_context / this are kept.
  double high_frequency_factor = 4;

  bool operator==(const RopeSpec&) const = default;
};

/// 0.1 · ln(factor) + 1, or 1 for a factor of at most 1. GGUF's rope.scaling.attn_factor (1 when
/// absent) multiplies this.
double yarn_attention_factor(double factor);

/// f(i) of each pair, in radians per position, [R/2].
/// Throws ArgumentError for a field out of range, naming it.
/// Source: Su et al. 2021 (RoPE); Chen et al. 2023 (linear); Peng et al. 2023 (YaRN); the Llama 3.1
/// model card's code.
std::vector<double> rope_frequencies(const RopeSpec& spec);

/// The cosines and sines of a RopeSpec, made for 64 positions at a time when first asked for, and
/// kept: R · 4 bytes a position. Angles are computed in double and rounded once, so position 10
/// million is as exact as position 1. May be used from several threads; copies share what is made.
class RopeTable {
 public:
  /// Throws ArgumentError as rope_frequencies does.
  explicit RopeTable(RopeSpec spec);
  ~RopeTable();
  RopeTable(const RopeTable&);
  RopeTable(RopeTable&&) noexcept;
  RopeTable& operator=(const RopeTable&);
  RopeTable& operator=(RopeTable&&) noexcept;

  const RopeSpec& spec() const;

  /// Turns each pair (a, b) of row n and head h by the angle α = position[n] · f(i), in place, with
  /// the attention factor m (1 but for kYarn):
  ///
  ///   a' = m · (a · cos α − b · sin α)      b' = m · (a · sin α + b · cos α)
  ///
  /// x_NHK      f32 or f64, the last dimension contiguous, rows and heads at any stride but 0
  /// positions  [N], each in [0, 2^40)
  ///
  /// Throws  ArgumentError on shapes, dtypes, strides, K < R, and positions (with the value).
  /// Order   element by element: bits depend on nothing but the pair and its position.
  void apply(Tensor& x_NHK, std::span<const std::int64_t> positions) const;

  /// The same for rows at first, first + 1, …
  void apply(Tensor& x_NHK, std::int64_t first) const;

 private:
  friend Tensor rope(const Tensor&, const RopeTable&, std::span<const std::int64_t>);
  friend Tensor rope_backward(const Tensor&, const RopeTable&, std::span<const std::int64_t>);
  friend Tensor rope_inverse(const Tensor&, const RopeTable&, std::span<const std::int64_t>);
  enum class Turn : std::uint8_t { kForward, kBackward, kInverse };
  void apply(Tensor& x_NHK, std::span<const std::int64_t> positions, Turn turn) const;
  Tensor turned(const Tensor& x_NHK, std::span<const std::int64_t> positions, Turn turn) const;

  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// RopeTable::apply into a new tensor, and its two companions:
///
///   rope           turns by α and scales by m
///   rope_backward  turns by −α and scales by m: the gradient of x, from that of rope(x)
///   rope_inverse   turns by −α and divides by m: rope_inverse(rope(x)) = x
///
/// x_NHK      f64, f32, bf16 or f16, any strides; bf16 and f16 are turned in f32 and rounded once
/// positions  [N], each in [0, 2^40)
/// returns    a row-major tensor of x's dtype
///
/// Throws  ArgumentError as RopeTable::apply does.
Tensor rope(const Tensor& x_NHK, const RopeTable& table, std::span<const std::int64_t> positions);
Tensor rope_backward(const Tensor& dout_NHK, const RopeTable& table,
                     std::span<const std::int64_t> positions);
Tensor rope_inverse(const Tensor& x_NHK, const RopeTable& table,
                    std::span<const std::int64_t> positions);

/// The positions of a packed batch: sequence b has start[b+1] − start[b] rows and begins at
/// first[b], or at 0 when `first` is empty.
///
/// start_J  i32 [B+1], start[0] = 0, ascending
///
/// Throws  ArgumentError on dtype, order, and a `first` of another length than B.
std::vector<std::int64_t> packed_positions(const Tensor& start_J,
                                           std::span<const std::int64_t> first = {});

}  // namespace quire

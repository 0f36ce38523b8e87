#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quire/ops/search/sketch_run.h"
#include "quire/tensor/tensor.h"

namespace quire {

struct SketchedKeys;

/// The keys of a kv head in two bits for each number: not what a key is, but how it differs from a
/// mean that it shares with others,
///
///   key_i ≈ mean + scale_i · weight ⊙ (code_i − 1½)      code 0 to 3
///
/// where scale_i makes the sketch's product with the key's own difference what it is without
/// rounding. What a query gives a key is then its product with the mean, and a product of small
/// whole numbers.
///
/// Source  two bits and the correcting factor: as RaBitQ (Gao and Long 2024) has them, without its
///         rotation: weights do for keys what it does for vectors of unknown form.
class KeySketches {
 public:
  /// weight_K: how far each number lies from the means, beside the others; finite, above 0.
  /// Throws ArgumentError.
  explicit KeySketches(std::span<const float> weight_K);

  /// Adds keys behind those that are there. rest_NK: f32, keys less their means; one that is not
  /// finite is sketched as its mean. Throws ArgumentError on shape and dtype.
  void add(const Tensor& rest_NK);
  /// Keeps the first n. Throws ArgumentError for more than there are.
  void truncate(std::int64_t n);

  std::int64_t size() const { return size_; }
  /// Scores are made of so many keys at a time: as many places are wanted behind the last one.
  static constexpr std::int64_t kAtOnce = 16;
  /// Codes, whole spans of 64 numbers, and a scale of 16 bits.
  static std::int64_t bytes_per_key(std::int64_t K) { return 16 * spans_of(K) + 2; }

 private:
  friend void sketch_scores(const KeySketches&, const SketchedKeys&, const Tensor&, double,
                            Tensor&);
  void resize(std::int64_t n);
  static std::int64_t spans_of(std::int64_t K) { return (K + 63) / 64; }

  std::int64_t K_, size_ = 0;
  std::vector<float> weight_, one_by_weight_;     // whole spans; 0 behind K
  std::vector<std::vector<std::uint8_t>> codes_;  // of each span: 16 bytes a key
  std::vector<std::uint16_t> scale_;              // bf16
};

/// C runs of keys of which scores are wanted, and what their means score.
struct SketchedKeys {
  std::span<const SketchRun> runs;
  std::span<const float> mean_RC;  // scale · q·mean
};

/// What each query of a group gives each key of the runs, one run behind the other:
///
///   score[r, i] = mean[r, c] + scale · q_r·(key_i − mean_c)      by the sketch
///
/// q_RK      f32
/// score_RW  f32, with kAtOnce places more than the runs have keys; those hold nothing of use
///
/// In the calling thread. Throws ArgumentError on shapes, dtypes and runs.
/// Order   queries are rounded to 8 bits; whole numbers from there: each score depends on nothing
///         but its query, mean and key.
/// Memory  64 bytes for each 16 numbers of the queries.
void sketch_scores(const KeySketches& sketches, const SketchedKeys& keys, const Tensor& q_RK,
                   double scale, Tensor& score_RW);

/// Scores become shares of attention, e^(score − total[r]), in place; rank[i] is their sum over
/// the queries. As many of each row as rank has. Throws ArgumentError on shapes and dtypes.
void shares_of_scores(Tensor& score_RW, std::span<const float> total_R, std::span<float> rank);

/// log Σ of the shares of each run that are not taken (u8, a place for each key), −inf of none:
/// rest[r, run]. The runs lie as sketch_scores() put them. Throws ArgumentError on shapes and
/// dtypes.
void shares_not_taken(const Tensor& share_RW, std::span<const std::uint8_t> taken_W,
                      std::span<const SketchRun> runs, std::span<float> rest_RC);

}  // namespace quire

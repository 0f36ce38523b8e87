#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quire/cache/kv_cache.h"
#include "quire/cache/policy.h"
#include "quire/ops/attention/attention.h"

namespace quire::cache {

/// What the queries of a reading leave behind, for one layer: as much as a policy asks for.
class QueryObserver {
 public:
  QueryObserver(const LayerSpec& spec, const Observe& observe);

  /// Queries of tokens first, first + 1, …, and the log-sum-exp of their scores over the keys of
  /// `view`.
  void see(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view, std::int64_t first);
  /// The same of the second reading of a piece: its queries; `tokens` of the view's keys are the
  /// document's, the others the copy's.
  void see_again(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view,
                 std::int64_t tokens);
  /// Fills `head` with what is known of its kv head; `view` holds the context's keys.
  void tell(HeadContext& head, const KvView& view);
  /// What a policy that asks for less would have been left. Throws ArgumentError for more.
  QueryObserver narrowed(const Observe& observe) const;
  /// The last queries, [tokens, H, K], as many as were asked for and seen.
  Tensor window_queries() const;
  /// What those got, [tokens, H, U]; known once something was told.
  const Tensor& window_outputs() const { return window_out_NHU_; }
  /// Forgets all.
  void clear();

 private:
  void add_mass(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view);
  void add_moments(const Tensor& q_NHK, std::int64_t first);
  void add_window(const Tensor& q_NHK);
  void finish(const KvView& view);

  LayerSpec spec_;
  Observe observe_;
  std::optional<RopeTable> rope_;
  std::vector<float> window_;  // the last queries, [tokens, H, K]
  Tensor window_out_NHU_ = Tensor::zeros({0}, DType::kF32);
  std::vector<double> mass_SG_;      // of the reading
  std::vector<float> peak_SG_;       // of the second reading
  std::vector<double> sum_, outer_;  // [H, K], [H, K, K]: upper triangles until finished
  std::int64_t counted_ = 0;         // queries in the sums
  bool finished_ = false;
  std::vector<float> reading_GS_, window_GS_, peak_GS_;  // when finished
};

/// One sequence of N queries.
Tensor one_sequence(std::int64_t N);

/// Contiguous f32 rows, to the rows of `to` from the n-th on.
void put_rows(const Tensor& rows, Tensor& to, std::int64_t n);

/// The share that the attention behind lse `part` has of that behind `whole`, averaged over the
/// heads of the last query.
double mass_of(const Tensor& part_NH, const Tensor& whole_NH);

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/generate/feed.h"
#include "quire/generate/session.h"

namespace quire::generate {
namespace {

constexpr std::int64_t kSlice = 64;  // rows whose logits are in memory at once

void check_positions(std::span<const std::int64_t> at, std::int64_t tokens) {
  for (std::size_t i = 0; i < at.size(); ++i) {
    QUIRE_CHECK(at[i] >= 0 && at[i] < tokens, "at: position ", at[i], " of ", tokens, " tokens");
    QUIRE_CHECK(i == 0 || at[i - 1] < at[i], "at: position ", at[i], " follows ", at[i - 1],
                "; they must ascend");
  }
}

// −log softmax(logits)[target].
double negative_log_likelihood(const float* logits, std::int64_t V, std::int32_t target) {
  const float largest = *std::max_element(logits, logits + V);
  double sum = 0;
  for (std::int64_t v = 0; v < V; ++v) sum += std::exp(double{logits[v]} - double{largest});
  return std::log(sum) + double{largest} - double{logits[target]};
}

/// Collects what a Score says while the rows of hidden states come by, in order.
class Scorer {
 public:
  Scorer(const model::Model& model, std::span<const std::int32_t> ids,
         std::span<const std::int64_t> at)
      : model_(model), ids_(ids), at_(at) {
    score_.nll.reserve(ids.size());
  }

  /// Rows of the tokens first, first + 1, …
  void take(const Tensor& hidden_ND, std::int64_t first) {
    const std::int64_t rows = hidden_ND.size(0);
    for (std::int64_t begin = 0; begin < rows; begin += kSlice) {
      const std::int64_t end = std::min(rows, begin + kSlice);
      const std::int64_t position = first + begin;
      // After the last token nothing follows that could be compared: it counts only when asked for.
      const bool is_wanted = next_ < at_.size() && at_[next_] < first + end;
      if (position + 1 == tokens() && !is_wanted) continue;
      take_logits(model_.logits(hidden_ND.slice(0, begin, end)), position);
    }
  }

  Score result() && {
    if (next_ == 0) score_.logits_PV = Tensor::empty({0, V_}, DType::kF32);
    // Positions that were not reached have no row.
    score_.logits_PV = score_.logits_PV.slice(0, 0, static_cast<std::int64_t>(next_));
    double sum = 0;
    for (const double nll : score_.nll) sum += nll;
    score_.nll_mean = score_.nll.empty() ? std::numeric_limits<double>::quiet_NaN()
                                         : sum / static_cast<double>(score_.nll.size());
    score_.perplexity = std::exp(score_.nll_mean);
    return std::move(score_);
  }

 private:
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids_.size()); }

  void take_logits(const Tensor& logits_NV, std::int64_t position) {
    V_ = logits_NV.size(1);
    const float* logits = logits_NV.data<float>();
    const std::int64_t rows = logits_NV.size(0);
    const std::int64_t compared = std::min(rows, tokens() - 1 - position);
    const std::size_t before = score_.nll.size();
    score_.nll.resize(before + static_cast<std::size_t>(compared));
    thread_pool().run(compared, [&](std::int64_t row) {
      const std::int32_t target = ids_[static_cast<std::size_t>(position + row + 1)];
      QUIRE_CHECK(target >= 0 && target < V_, "ids[", position + row + 1, "] is ", target,
                  ", but the model has V = ", V_);
      score_.nll[before + static_cast<std::size_t>(row)] =
          negative_log_likelihood(logits + row * V_, V_, target);
    });
    for (; next_ < at_.size() && at_[next_] < position + rows; ++next_) {
      keep_row(logits + (at_[next_] - position) * V_);
    }
  }

  void keep_row(const float* logits) {
    if (next_ == 0) {
      score_.logits_PV = Tensor::empty({static_cast<std::int64_t>(at_.size()), V_}, DType::kF32);
    }
    float* out = score_.logits_PV.mutable_data<float>() + static_cast<std::int64_t>(next_) * V_;
    std::memcpy(out, logits, static_cast<std::size_t>(V_) * sizeof(float));
  }

  const model::Model& model_;
  std::span<const std::int32_t> ids_;
  std::span<const std::int64_t> at_;
  std::size_t next_ = 0;  // of at_
  std::int64_t V_ = 0;
  Score score_;
};

}  // namespace

Score score(const model::Model& model, std::span<const std::int32_t> ids, cache::KvCache& cache,
            std::span<const std::int64_t> at, std::int64_t chunk, const Progress& progress) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  QUIRE_CHECK(tokens > 0, "there is no token to score");
  QUIRE_CHECK(cache.length() == 0, "score begins with an empty cache, but this one holds ",
              cache.length(), " tokens");
  check_positions(at, tokens);
  const std::int64_t step = checked_chunk(chunk, model);
  check_room(tokens, 0, cache.capacity());
  Scorer scorer(model, ids, at);
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const std::int64_t end = std::min(tokens, begin + step);
    scorer.take(forward(model, ids, begin, end, cache), begin);
    if (progress && !progress(end)) break;
  }
  return std::move(scorer).result();
}

}  // namespace quire::generate

#include "quire/cache/query_observer.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_mass.h"

namespace quire::cache {

Tensor one_sequence(std::int64_t N) {
  Tensor start_J = Tensor::empty({2}, DType::kI32);
  start_J.mutable_data<std::int32_t>()[0] = 0;
  start_J.mutable_data<std::int32_t>()[1] = static_cast<std::int32_t>(N);
  return start_J;
}

void put_rows(const Tensor& rows, Tensor& to, std::int64_t n) {
  const std::int64_t row = to.elements() / to.size(0);
  std::copy_n(rows.data<float>(), rows.elements(), to.mutable_data<float>() + n * row);
}

double mass_of(const Tensor& part_NH, const Tensor& whole_NH) {
  const std::int64_t H = part_NH.size(1), last = (part_NH.size(0) - 1) * H;
  double sum = 0;
  for (std::int64_t h = last; h < last + H; ++h)
    sum += std::exp(double{part_NH.data<float>()[h]} - double{whole_NH.data<float>()[h]});
  return sum / static_cast<double>(H);
}

QueryObserver::QueryObserver(const LayerSpec& spec, const Observe& observe)
    : spec_(spec), observe_(observe) {
  QUIRE_CHECK(observe.window >= 0 && observe.moments_from >= 0 && observe.reread >= 0,
              "a policy asks for the attention of the last ", observe.window,
              " tokens, and for queries from ", observe.moments_from);
  if (observe.moments && spec.rope.rotary > 0) rope_.emplace(spec.rope);
}

void QueryObserver::see(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view,
                        std::int64_t first) {
  QUIRE_CHECK(!finished_, "queries are observed only until reading ends");
  if (observe_.reading_mass) add_mass(q_NHK, lse_NH, view);
  if (observe_.window > 0) add_window(q_NHK);
  if (observe_.moments) add_moments(q_NHK, first);
}

void QueryObserver::add_mass(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view) {
  AttentionSpec spec = spec_.attention;
  spec.alignment = Alignment::kBottomRight;
  const Tensor mass_PZG = attention_mass(q_NHK, one_sequence(q_NHK.size(0)), view, spec, lse_NH);
  const auto count = static_cast<std::size_t>(*view.length_BG * spec_.G);
  if (mass_SG_.size() < count) mass_SG_.resize(count);
  const float* mass = mass_PZG.data<float>();
  for (std::size_t i = 0; i < count; ++i) mass_SG_[i] += double{mass[i]};
}

void QueryObserver::see_again(const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view,
                              std::int64_t tokens) {
  QUIRE_CHECK(!finished_, "queries are observed only until reading ends");
  AttentionSpec spec = spec_.attention;
  spec.alignment = Alignment::kBottomRight;
  const Tensor peak_PZG =
      attention_mass(q_NHK, one_sequence(q_NHK.size(0)), view, spec, lse_NH, MassOf::kLargest);
  const auto count = static_cast<std::size_t>(tokens * spec_.G);
  if (peak_SG_.size() < count) peak_SG_.resize(count);
  const float* peak = peak_PZG.data<float>();
  for (std::size_t i = 0; i < count; ++i) peak_SG_[i] = std::max(peak_SG_[i], peak[i]);
}

void QueryObserver::add_window(const Tensor& q_NHK) {
  const Tensor q = q_NHK.contiguous_copy();
  window_.insert(window_.end(), q.data<float>(), q.data<float>() + q.elements());
  const auto most = static_cast<std::size_t>(observe_.window * spec_.H * spec_.K);
  if (window_.size() > most)
    window_.erase(window_.begin(), window_.end() - static_cast<std::ptrdiff_t>(most));
}

/// Row after row, each element one chain: the same bits however the text was cut into steps.
void QueryObserver::add_moments(const Tensor& q_NHK, std::int64_t first) {
  const std::int64_t H = spec_.H, K = spec_.K, N = q_NHK.size(0);
  Tensor q = q_NHK.contiguous_copy();
  if (rope_) {
    std::vector<std::int64_t> positions(static_cast<std::size_t>(N));
    for (std::int64_t n = 0; n < N; ++n) positions[static_cast<std::size_t>(n)] = first + n;
    q = rope_inverse(q, *rope_, positions);
  }
  if (sum_.empty()) {
    sum_.resize(static_cast<std::size_t>(H * K));
    outer_.resize(static_cast<std::size_t>(H * K * K));
  }
  const std::int64_t skip = std::clamp<std::int64_t>(observe_.moments_from - first, 0, N);
  counted_ += N - skip;
  const float* rows = q.data<float>();
  thread_pool().run(H, [&](std::int64_t h) {
    double* sum = sum_.data() + h * K;
    double* outer = outer_.data() + h * K * K;
    std::vector<double> x(static_cast<std::size_t>(K));
    for (std::int64_t n = skip; n < N; ++n) {
      const float* row = rows + (n * H + h) * K;
      for (std::int64_t i = 0; i < K; ++i) x[static_cast<std::size_t>(i)] = double{row[i]};
      for (std::int64_t i = 0; i < K; ++i) {
        const double xi = x[static_cast<std::size_t>(i)];
        sum[i] += xi;
        for (std::int64_t j = i; j < K; ++j)
          outer[i * K + j] += xi * x[static_cast<std::size_t>(j)];
      }
    }
  });
}

/// Turns sums into what policies are told.
void QueryObserver::finish(const KvView& view) {
  finished_ = true;
  const std::int64_t G = spec_.G, S = *view.length_BG;
  const auto by_head = [&](const auto* mass_SG) {
    std::vector<float> out(static_cast<std::size_t>(G * S));
    for (std::int64_t s = 0; s < S; ++s)
      for (std::int64_t g = 0; g < G; ++g)
        out[static_cast<std::size_t>(g * S + s)] = static_cast<float>(mass_SG[s * G + g]);
    return out;
  };
  if (observe_.reading_mass) reading_GS_ = by_head(mass_SG_.data());
  if (observe_.reread > 0) {
    peak_SG_.resize(static_cast<std::size_t>(S * G));
    peak_GS_ = by_head(peak_SG_.data());
  }
  if (observe_.window > 0) {
    const Tensor q_NHK = window_queries();
    const std::int64_t T = q_NHK.size(0);
    AttentionSpec spec = spec_.attention;
    spec.alignment = Alignment::kBottomRight;
    const AttentionResult all = attention(q_NHK, one_sequence(T), view, spec);
    window_out_NHU_ = all.out_NHU;
    window_GS_ =
        by_head(attention_mass(q_NHK, one_sequence(T), view, spec, all.lse_NH).data<float>());
  }
  if (counted_ == 0) return;
  const std::int64_t H = spec_.H, K = spec_.K;
  const double scale = 1 / static_cast<double>(counted_);
  for (double& x : sum_) x *= scale;
  for (std::int64_t h = 0; h < H; ++h) {
    const double* mean = sum_.data() + h * K;
    double* outer = outer_.data() + h * K * K;
    for (std::int64_t i = 0; i < K; ++i) {
      for (std::int64_t j = i; j < K; ++j)
        outer[j * K + i] = outer[i * K + j] = outer[i * K + j] * scale - mean[i] * mean[j];
    }
  }
}

void QueryObserver::tell(HeadContext& head, const KvView& view) {
  if (!finished_) finish(view);
  const auto S = static_cast<std::size_t>(head.tokens), g = static_cast<std::size_t>(head.g);
  if (!reading_GS_.empty()) head.reading_mass_S = std::span(reading_GS_).subspan(g * S, S);
  if (!peak_GS_.empty()) head.reread_peak_S = std::span(peak_GS_).subspan(g * S, S);
  if (!window_GS_.empty()) head.window_mass_S = std::span(window_GS_).subspan(g * S, S);
  if (sum_.empty()) return;
  const auto K = static_cast<std::size_t>(spec_.K), R = static_cast<std::size_t>(head.group());
  head.mean_RK = std::span(sum_).subspan(g * R * K, R * K);
  head.cov_RKK = std::span(outer_).subspan(g * R * K * K, R * K * K);
}

QueryObserver QueryObserver::narrowed(const Observe& observe) const {
  QUIRE_CHECK(observe_.covers(observe) && !finished_,
              "a policy asks for more than the reading was observed for");
  QueryObserver out(*this);
  out.observe_ = observe;
  const auto most = static_cast<std::size_t>(observe.window * spec_.H * spec_.K);
  if (out.window_.size() > most)
    out.window_.erase(out.window_.begin(), out.window_.end() - static_cast<std::ptrdiff_t>(most));
  if (observe.reread == 0) out.peak_SG_ = {};
  if (!observe.moments) out.sum_ = out.outer_ = {};
  return out;
}

Tensor QueryObserver::window_queries() const {
  const auto tokens = static_cast<std::int64_t>(window_.size()) / (spec_.H * spec_.K);
  return Tensor::of<float>(window_, {tokens, spec_.H, spec_.K});
}

void QueryObserver::clear() { *this = QueryObserver(spec_, observe_); }

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kBehind = KeySketches::kAtOnce;

std::size_t unsigned_of(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The part of its attention that each head of a group has in any case, and what its shares add up
/// to.
struct TakenMass {
  std::vector<double> has_R, whole_R;
};

/// Tokens by rank until each head of the group has the part of its attention that was asked for.
void take_mass(const TieredHead& head, const float* rank_L, TakenMass mass,
               const SearchBudget& budget, std::uint8_t* taken_L) {
  const std::int64_t L = head.share_RL.size(1);
  const float* share_RL = head.share_RL.data<float>();
  std::vector<double>& has = mass.has_R;
  std::vector<std::int64_t> order(unsigned_of(head.looked_at));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return rank_L[a] > rank_L[b]; });
  std::int64_t tokens = 0;
  for (const std::int64_t i : order) {
    const bool enough = *std::min_element(has.begin(), has.end()) >= budget.mass;
    if ((enough && tokens >= budget.min_tokens) || tokens == budget.max_tokens) break;
    taken_L[i] = 1;
    ++tokens;
    for (std::size_t r = 0; r < has.size(); ++r)
      has[r] += double{share_RL[static_cast<std::int64_t>(r) * L + i]} / mass.whole_R[r];
  }
}

}  // namespace

/// The clusters whose tokens are looked at one by one: the best of all kv heads.
void TieredCache::Impl::shorten(const TieredLayer& layer, TieredFound& found,
                                const SearchBudget& budget, std::int64_t budget_tokens) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, C = found.C;
  // Bytes are the layer's: a head that looks far around takes what another does not need.
  const std::int64_t rows = budget.read >= 0 ? 1 : G;
  std::int64_t tokens = G / rows * std::max(spec.shortlist * budget_tokens, spec.clusters.largest);
  if (budget_tokens == 0) tokens = 0;
  // A mass may take any of them.
  if (budget.mass >= 0) tokens = G / rows * index.tokens();
  found.short_GC = select_clusters(found.rank_GC.view({rows, G / rows * C}),
                                   found.size_GC.view({rows, G / rows * C}), tokens)
                       .taken_GM.view({G, C});
  std::int64_t all = 0;
  for (std::int64_t g = 0; g < G; ++g) {
    const std::uint8_t* is_short = found.shortlist(g).data();
    const std::int64_t* size = found.sizes(g);
    TieredHead& head = found.head(g);
    head.first = all;
    for (std::int64_t c = 0; c < C; ++c) head.looked_at += is_short[c] * size[c];
    all += head.looked_at;
  }
  found.rank.resize(unsigned_of(all));
  found.is_taken.resize(unsigned_of(all + kBehind));
}

/// What a kv head's queries give each token of the shortlist, by its sketch.
void TieredCache::Impl::look_closer(const TieredLayer& layer, const Tensor& q_1HK, std::int64_t g,
                                    TieredFound& found) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, K = layer.spec.K;
  const AttentionSpec& attention = layer.spec.attention;
  TieredHead& head = found.head(g);
  const std::uint8_t* is_short = found.shortlist(g).data();
  const std::int64_t* size = found.sizes(g);
  for (std::int64_t c = 0; c < found.C; ++c) {
    if (is_short[c] == 0) continue;
    head.runs.push_back({index.first_member(g, found.cluster(g, c)), size[c]});
    head.of_run.push_back(static_cast<std::int32_t>(c));
  }
  const std::int64_t runs = std::ssize(head.runs), n = head.looked_at;
  std::vector<float> mean_RC;
  mean_RC.reserve(unsigned_of(R * runs));
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h)
    for (const std::int32_t c : head.of_run)
      mean_RC.push_back(found.score_1HC.data<float>()[h * found.C + c] -
                        index.bias()[unsigned_of(found.cluster(g, c) * G + g)]);
  const std::int64_t L = n + kBehind;
  head.share_RL = Tensor::empty({R, L}, DType::kF32);
  sketch_scores(index.sketches(g), {head.runs, mean_RC},
                q_1HK.slice(1, g * R, (g + 1) * R).view({R, K}), attention.scale, head.share_RL);
  float* score = head.share_RL.mutable_data<float>();
  if (const double cap = attention.softcap; cap != 0)
    for (std::int64_t r = 0; r < R; ++r)
      for (float& x : std::span(score + r * L, unsigned_of(n)))
        x = static_cast<float>(cap * std::tanh(double{x} / cap));
  shares_of_scores(head.share_RL, found.totals(g),
                   std::span(found.rank).subspan(unsigned_of(head.first), unsigned_of(n)));
}

TieredShortlist TieredCache::Impl::shortlist_of(const TieredFound& found) const {
  TieredShortlist out;
  for (const TieredHead& head : found.heads_G) {
    out.tokens += static_cast<double>(head.looked_at);
    out.clusters += static_cast<double>(std::ssize(head.runs) - head.whole);
  }
  return out;
}

std::int64_t TieredCache::Impl::tokens_to_take(const TieredLayer& layer, const TieredFound& found,
                                               const SearchBudget& budget,
                                               const TieredPlan& plan) const {
  const std::int64_t G = layer.spec.G;
  if (plan.bytes < 0) return plan.tokens;
  // The shortlist is known now, and with it what is left for keys and values.
  const std::int64_t left = plan.bytes - index_bytes_read(layer, found.W, shortlist_of(found));
  const std::int64_t tokens = left / (layer.rows.bytes_per_token() / G + 4);
  return std::clamp(tokens, G * std::min(budget.min_tokens, plan.tokens),
                    G * std::min(budget.max_tokens, layer.index->tokens()));
}

/// The best tokens of all kv heads.
void TieredCache::Impl::choose(const TieredLayer& layer, TieredFound& found,
                               const SearchBudget& budget, std::int64_t tokens,
                               const TieredKnown& known) const {
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G;
  const std::span<const float> rank(found.rank);
  const std::span<std::uint8_t> taken(found.is_taken);
  for (std::int64_t g = 0; g < G && budget.mass >= 0; ++g) {
    // All of it, as the sketches have it.
    TakenMass mass;
    for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
      const double whole = log_add(double{known.lse_1H.data<float>()[h]}, rest_of(found, h));
      mass.has_R.push_back(std::exp(double{known.hot.lse_NH.data<float>()[h]} - whole));
      mass.whole_R.push_back(std::exp(whole - double{found.total_H[unsigned_of(h)]}));
    }
    const auto first = unsigned_of(found.head(g).first);
    take_mass(found.head(g), rank.data() + first, mass, budget, taken.data() + first);
  }
  if (budget.mass >= 0) return;
  if (budget.read >= 0) return select_best(rank, tokens, taken.first(rank.size()));
  for (const TieredHead& head : found.heads_G) {
    const std::size_t first = unsigned_of(head.first), n = unsigned_of(head.looked_at);
    select_best(rank.subspan(first, n), tokens, taken.subspan(first, n));
  }
}

/// How many tokens and whole clusters a kv head took, and what is left of the others.
void TieredCache::Impl::count_taken(TieredFound& found, std::int64_t g) const {
  TieredHead& head = found.head(g);
  const std::uint8_t* taken = found.taken(g);
  for (std::size_t run = 0; run < head.runs.size(); ++run) {
    const std::int64_t n = head.runs[run].n;
    std::int64_t of_run = 0;
    for (std::int64_t i = 0; i < n; ++i) of_run += taken[i];
    head.tokens += of_run;
    head.whole += of_run == n ? 1 : 0;
    if (of_run < n) head.in_part.push_back(static_cast<std::int32_t>(run));
    taken += n;
  }
}

/// The log-sum-exp of what query head h gives the tokens of the shortlist, by their sketches: to
/// those that it attends to exactly, or to the others.
double TieredCache::Impl::sketched(const TieredFound& found, std::int64_t h, bool is_taken) const {
  const std::int64_t R = std::ssize(found.total_H) / std::ssize(found.heads_G), g = h / R;
  const TieredHead& head = found.head(g);
  const float* share = head.share_RL.data<float>() + h % R * head.share_RL.size(1);
  double sum = 0;
  const std::uint8_t* taken = found.taken(g);
  for (std::int64_t i = 0; i < head.looked_at; ++i)
    if ((taken[i] != 0) == is_taken) sum += double{share[i]};
  return std::log(sum) + double{found.total_H[unsigned_of(h)]};
}

/// The same over all in the clusters that were looked at, but for what it attends to exactly.
double TieredCache::Impl::rest_of(const TieredFound& found, std::int64_t h) const {
  const std::int64_t R = std::ssize(found.total_H) / std::ssize(found.heads_G), g = h / R;
  std::vector<float> mass;
  for (std::int64_t c = 0; c < found.C; ++c)
    if (found.shortlist(g)[unsigned_of(c)] == 0)
      mass.push_back(found.mass_1HC.data<float>()[h * found.C + c]);
  return log_add(sketched(found, h, false), log_sum_exp(mass));
}

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/query_observer.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kPage = ClusterIndex::kPage;
constexpr std::int64_t kLeastPages = 4;  // that are opened
// Bytes of the index to look into for each byte of keys and values that the budget can take: at
// smaller budgets it is the choice that decides.
constexpr double kIndexPerKeys = 0.75;
constexpr float kMostSpread = 3;  // that half a variance adds to an estimate
// What a rank adds for the farthest key of a cluster is a tangent from there on: heads that look
// for one earlier token (the one behind the last time this word stood there) give it a score up to
// 4 standard deviations above the mean of its cluster.
constexpr float kMostFar = 12;
constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

std::span<const float> row_of(const Tensor& x_1HC, std::int64_t h) {
  const std::int64_t C = x_1HC.size(2);
  return {x_1HC.data<float>() + h * C, static_cast<std::size_t>(C)};
}

/// What may come on top of a score where x is half the variance: x itself up to `most`, and behind
/// that 2√(most · x) − most, its tangent over the standard deviation. One key far above the others
/// is then looked for.
float highest(float half_variance, float most) {
  if (half_variance < most) return half_variance;
  return 2 * std::sqrt(most * half_variance) - most;
}

/// Σ w x²
float weighted_square(std::span<const float> w, const float* x) {
  float sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) sum += w[i] * x[i] * x[i];
  return sum;
}

/// The best pages of a kv head, ascending, by what their tokens receive together; mass_1RP: of its
/// heads.
void best_pages(const Tensor& mass_1RP, std::span<const float> bias_P, std::span<std::int32_t> to) {
  const std::int64_t R = mass_1RP.size(1), P = mass_1RP.size(2);
  // Every page takes one place, whatever stands in it: rank by the whole mass, not by token.
  Tensor bias_1P = Tensor::zeros({1, P}, DType::kF32), size_1P = Tensor::empty({1, P}, DType::kI64),
         hot_1R = Tensor::empty({1, R}, DType::kF32);
  std::fill_n(size_1P.mutable_data<std::int64_t>(), P, 1);
  std::fill_n(hot_1R.mutable_data<float>(), R, -std::numeric_limits<float>::infinity());
  for (std::int64_t p = 0; p < P; ++p)
    if (std::isinf(bias_P[static_cast<std::size_t>(p)]))
      bias_1P.mutable_data<float>()[p] = bias_P[static_cast<std::size_t>(p)];
  const Tensor rank_1P = cluster_rank(mass_1RP, bias_1P, hot_1R).view({1, P});
  const Selection best = select_clusters(rank_1P, size_1P, static_cast<std::int64_t>(to.size()));
  std::size_t at = 0;
  for (std::int64_t p = 0; p < P; ++p)
    if (best.taken_GM.data<std::uint8_t>()[p] != 0) to[at++] = static_cast<std::int32_t>(p);
}

}  // namespace

double log_add(double a, double b) {
  const double largest = std::max(a, b);
  if (largest == kMinusInfinity) return largest;
  return largest + std::log(std::exp(a - largest) + std::exp(b - largest));
}

std::int64_t TieredCache::Impl::pages_to_open(const TieredLayer& layer,
                                              std::int64_t budget_tokens) const {
  const std::int64_t pages = layer.index->pages();
  if (layer.index->tokens() < spec.two_levels_from) return pages;
  std::int64_t open = spec.opened;
  if (open == 0) {
    const std::int64_t tokens = budget_tokens * layer.rows.bytes_per_token() / layer.spec.G;
    open = static_cast<std::int64_t>(kIndexPerKeys * static_cast<double>(tokens) /
                                     index_bytes_of_page(layer));
  }
  // Twice what the budget can take, so that there is something to choose from.
  const std::int64_t tokens_of_page = kPage * spec.clusters.tokens_per_cluster;
  open = std::max({open, kLeastPages, 2 * budget_tokens / tokens_of_page});
  return std::min(pages, open);
}

/// Of a page that is opened, but for what its shortlist takes.
double TieredCache::Impl::index_bytes_of_page(const TieredLayer& layer) const {
  const double values = spec.estimate ? spec.own_values : 0;
  return static_cast<double>(kPage) * (static_cast<double>(layer.index->key_bytes()) +
                                       values * static_cast<double>(layer.index->value_bytes()));
}

std::int64_t TieredCache::Impl::index_bytes_read(const TieredLayer& layer, std::int64_t open,
                                                 const TieredShortlist& of) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t pages = index.pages();
  const double opened = static_cast<double>(open) * index_bytes_of_page(layer);
  const bool values = spec.estimate && (spec.own_values < 1 || open < pages);
  const std::int64_t supers =
      pages * ((open < pages ? index.key_bytes() : 0) + (values ? index.value_bytes() : 0));
  const auto sketch = static_cast<double>(KeySketches::bytes_per_key(layer.spec.K));
  const double own = spec.estimate ? of.clusters * static_cast<double>(index.value_bytes()) : 0;
  return layer.spec.G * (std::llround(opened) + supers) + std::llround(of.tokens * sketch + own);
}

TieredPlan TieredCache::Impl::plan(const TieredLayer& layer, const SearchBudget& budget,
                                   std::int64_t end) const {
  const std::int64_t all = layer.index->tokens();
  const auto for_tokens = [&](std::int64_t tokens) {
    return TieredPlan{pages_to_open(layer, tokens), tokens};
  };
  if (budget.tokens >= 0) return for_tokens(std::min(budget.tokens, all));
  if (budget.fraction == 1 || budget.mass == 1 || budget.read == 1) return for_tokens(all);
  const auto bounded = [&](std::int64_t tokens) {
    return std::min(all, std::clamp(tokens, budget.min_tokens, budget.max_tokens));
  };
  // A mass can be reached only where all are looked at.
  if (budget.mass >= 0) return {layer.index->pages(), bounded(all)};
  if (budget.fraction >= 0)
    return for_tokens(
        bounded(static_cast<std::int64_t>(budget.fraction * static_cast<double>(all))));
  const std::int64_t token = layer.rows.bytes_per_token(), hot = end - all;
  const double may = budget.read * static_cast<double>(end * token);
  const std::int64_t left = static_cast<std::int64_t>(may) - hot * token;
  const std::int64_t each = token + layer.spec.G * 4;
  const auto bytes = [&](std::int64_t tokens) {
    const std::int64_t open = pages_to_open(layer, tokens);
    const double pages = static_cast<double>(layer.index->pages()),
                 of_page = static_cast<double>(all) / pages,
                 looked_at = std::min(static_cast<double>(spec.shortlist * tokens),
                                      of_page * static_cast<double>(open)) *
                             static_cast<double>(layer.spec.G);
    const TieredShortlist shortlist{looked_at, looked_at / of_page * static_cast<double>(kPage)};
    return index_bytes_read(layer, open, shortlist) + tokens * each;
  };
  // The more is to be selected the more of the index is read: narrowed down from both sides.
  std::int64_t low = 0, high = std::max<std::int64_t>(0, left / each);
  while (low < high) {
    const std::int64_t tokens = (low + high + 1) / 2;
    if (bytes(tokens) <= left) {
      low = tokens;
    } else {
      high = tokens - 1;
    }
  }
  TieredPlan out = for_tokens(bounded(low));
  out.bytes = left;
  return out;
}

bool TieredCache::Impl::covers(const TieredLayer& layer, const SearchBudget& budget,
                               std::int64_t end) const {
  if (!layer.index || layer.index->end() < 0) return true;
  return budget.mass < 0 ? plan(layer, budget, end).tokens >= layer.index->tokens()
                         : budget.mass == 1;
}

/// The pages that a kv head opens, and what the others receive.
void TieredCache::Impl::open_best(const TieredLayer& layer, std::int64_t g, TieredFound& found,
                                  TieredKnown& known) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, pages = index.pages();
  std::vector<float> bias(static_cast<std::size_t>(pages));
  for (std::int64_t p = 0; p < pages; ++p)
    bias[static_cast<std::size_t>(p)] = index.super_bias()[static_cast<std::size_t>(p * G + g)];
  const std::span<std::int32_t> opened =
      std::span(found.opened_GW)
          .subspan(static_cast<std::size_t>(g * found.W), static_cast<std::size_t>(found.W));
  best_pages(found.super_mass_1HP.slice(1, g * R, (g + 1) * R), bias, opened);
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    std::vector<float> closed(row_of(found.super_mass_1HP, h).begin(),
                              row_of(found.super_mass_1HP, h).end());
    for (const std::int32_t p : opened)
      closed[static_cast<std::size_t>(p)] = -std::numeric_limits<float>::infinity();
    float& lse = known.lse_1H.mutable_data<float>()[h];
    lse = static_cast<float>(log_add(double{lse}, log_sum_exp(closed)));
  }
}

/// Scores the clusters of what is opened, and ranks them.
void TieredCache::Impl::look(const TieredLayer& layer, const Tensor& q_1HK, TieredFound& found,
                             TieredKnown& known) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, pages = index.pages();
  const double scale = layer.spec.attention.scale;
  KvView clusters = index.all_clusters();
  if (!found.opened_GW.empty()) {
    KvView supers = index.supers();
    supers.length_BG = &pages;
    found.super_mass_1HP = cluster_mass(q_1HK, supers, 0, scale);
    thread_pool().run(G, [&](std::int64_t g) { open_best(layer, g, found, known); });
    clusters = index.clusters();
    clusters.table = found.opened_GW.data();
    clusters.W = clusters.table_head_stride = found.W;
  }
  clusters.length_BG = &found.C;
  found.score_1HC = cluster_mass(q_1HK, clusters, 0, scale);
  found.mass_1HC = Tensor::empty(found.score_1HC.shape(), DType::kF32);
  found.total_H.resize(static_cast<std::size_t>(layer.spec.H));
  found.heads_G.resize(static_cast<std::size_t>(G));
  found.rank_GC = Tensor::empty({G, found.C}, DType::kF32);
  found.size_GC = Tensor::empty({G, found.C}, DType::kI64);
  thread_pool().run(G, [&](std::int64_t g) { rank(layer, q_1HK, g, found, known); });
}

/// What is known of the clusters that a kv head opened.
struct TieredCache::Impl::OpenedClusters {
  std::vector<float> bias_C, spread_C, farthest_C;
};

TieredCache::Impl::OpenedClusters TieredCache::Impl::opened(const TieredLayer& layer,
                                                            std::int64_t g,
                                                            TieredFound& found) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, C = found.C;
  OpenedClusters out;
  for (std::vector<float>* of : {&out.bias_C, &out.spread_C, &out.farthest_C})
    of->resize(static_cast<std::size_t>(C));
  auto* size = found.size_GC.mutable_data<std::int64_t>() + g * C;
  for (std::int64_t first = 0; first < C; first += kPage) {
    const std::int64_t m = found.cluster(g, first);
    for (std::int64_t i = 0; i < kPage; ++i) {
      const auto c = static_cast<std::size_t>(first + i),
                 at = static_cast<std::size_t>((m + i) * G + g);
      out.bias_C[c] = index.bias()[at];
      out.spread_C[c] = index.spread()[at];
      out.farthest_C[c] = index.farthest()[at];
      size[c] = std::ssize(index.members(g, m + i));
    }
  }
  return out;
}

/// Ranks what a kv head opened, by what one token of a cluster may receive: each head's attention,
/// to all that is known and to what was opened, adds up to 1. Scores become what Jensen's
/// inequality says that the mean key counts too little: half the variance of the scores of its
/// cluster, told from one number of the cluster and the head's profile. The rank adds more of it
/// than the estimate: a cluster may be wide because of the one key that is asked for.
void TieredCache::Impl::rank(const TieredLayer& layer, const Tensor& q_1HK, std::int64_t g,
                             TieredFound& found, const TieredKnown& known) const {
  const std::int64_t R = layer.spec.H / layer.spec.G, K = layer.spec.K, C = found.C;
  const AttentionSpec& attention = layer.spec.attention;
  const OpenedClusters of = opened(layer, g, found);
  const double given = attention.scale;
  const double scale = given == 0 ? 1 / std::sqrt(static_cast<double>(K)) : given;
  Tensor hope_RC = Tensor::empty({R, C}, DType::kF32);
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    const float half = static_cast<float>(0.5 * scale * scale) *
                       weighted_square(layer.index->profile(g), q_1HK.data<float>() + h * K);
    const float* score = std::as_const(found.score_1HC).data<float>() + h * C;
    float* mass = found.mass_1HC.mutable_data<float>() + h * C;
    float* hope = hope_RC.mutable_data<float>() + (h - g * R) * C;
    for (std::size_t c = 0; c < of.bias_C.size(); ++c) {
      const float bias = of.bias_C[c], more = half * of.spread_C[c];
      mass[c] = score[c] + std::min(kMostSpread, more);
      // All of its tokens a little, or the farthest one alone.
      hope[c] =
          std::max(highest(more, kMostSpread), highest(half * of.farthest_C[c], kMostFar) - bias);
      hope[c] = bias == kNone ? kNone : hope[c] + score[c] - bias;
    }
    double rest = double{known.lse_1H.data<float>()[h]};
    if (attention.softcap != 0) {
      // What was not opened is not softcapped.
      rest = double{known.hot.lse_NH.data<float>()[h]};
      for (std::size_t c = 0; c < of.bias_C.size(); ++c) {
        mass[c] = capped(score[c], of.bias_C[c], attention.softcap);
        hope[c] = capped(hope[c], 0, attention.softcap);
      }
    }
    found.total_H[static_cast<std::size_t>(h)] =
        static_cast<float>(log_add(rest, log_sum_exp(row_of(found.mass_1HC, h))));
  }
  shares_of_scores(hope_RC, found.totals(g),
                   {found.rank_GC.mutable_data<float>() + g * C, static_cast<std::size_t>(C)});
}

/// What a query attends to exactly.
TieredFound TieredCache::Impl::find(TieredLayer& layer, const Tensor& q_1HK, std::int64_t end,
                                    const SearchBudget& budget, TieredKnown& known) const {
  const std::int64_t G = layer.spec.G, H = layer.spec.H;
  const TieredPlan planned = plan(layer, budget, end);
  known.hot = over_hot(layer, q_1HK, end);
  known.lse_1H = Tensor::empty({1, H}, DType::kF32);
  std::copy_n(known.hot.lse_NH.data<float>(), H, known.lse_1H.mutable_data<float>());
  TieredFound found;
  found.W = planned.pages;
  found.C = found.W * kPage;
  if (found.W < layer.index->pages()) found.opened_GW.resize(static_cast<std::size_t>(G * found.W));
  look(layer, q_1HK, found, known);
  shorten(layer, found, budget, planned.tokens);
  thread_pool().run(G, [&](std::int64_t g) { look_closer(layer, q_1HK, g, found); });
  choose(layer, found, budget, tokens_to_take(layer, found, budget, planned), known);
  return found;
}

SearchResult TieredCache::search(std::int64_t layer, const Tensor& q_HK,
                                 const SearchBudget& budget) {
  TieredLayer& at = impl_->at(layer);
  check_budget(budget);
  const std::int64_t H = at.spec.H, G = at.spec.G, K = at.spec.K;
  QUIRE_CHECK((q_HK.shape() == Shape{H, K}) && q_HK.dtype() == DType::kF32, "q_HK is ",
              to_string(q_HK.dtype()), " ", to_string(q_HK.shape()), ", expected f32 ",
              to_string(Shape{H, K}));
  SearchResult out;
  out.heads_G.resize(static_cast<std::size_t>(G));
  out.covered_H.assign(static_cast<std::size_t>(H), 1);
  if (!at.index || at.index->end() < 0) return out;
  TieredKnown known;
  const Tensor q_1HK = q_HK.contiguous_copy().view({1, H, K});
  const TieredFound found = impl_->find(at, q_1HK, at.length, budget, known);
  for (std::int64_t g = 0; g < G; ++g) {
    FoundTokens& head = out.heads_G[static_cast<std::size_t>(g)];
    const std::span<const std::int32_t> all = at.index->all_members(g);
    const std::uint8_t* taken = found.taken(g);
    const float* rank = found.rank.data() + found.head(g).first;
    for (std::int64_t i = 0; i < found.head(g).looked_at; ++i)
      if (taken[i] != 0) head.scores.push_back(rank[i]);
    found.each_taken(g, [&](std::int64_t member) {
      head.positions.push_back(all[static_cast<std::size_t>(member)]);
    });
  }
  for (std::int64_t h = 0; h < H; ++h) {
    const double closed_and_hot = double{known.lse_1H.data<float>()[h]};
    const double taken = impl_->sketched(found, h, true);
    const double have = log_add(double{known.hot.lse_NH.data<float>()[h]}, taken);
    const double whole = log_add(log_add(closed_and_hot, taken), impl_->rest_of(found, h));
    out.covered_H[static_cast<std::size_t>(h)] = std::min(1.0, std::exp(have - whole));
  }
  return out;
}

SearchResult TieredCache::search(std::int64_t layer, const Tensor& q_HK, std::int64_t top_k) {
  return search(layer, q_HK, SearchBudget{.tokens = top_k});
}

}  // namespace quire::cache

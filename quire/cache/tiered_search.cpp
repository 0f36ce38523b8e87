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
constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

std::span<const float> row_of(const Tensor& x_1HC, std::int64_t h) {
  const std::int64_t C = x_1HC.size(2);
  return {x_1HC.data<float>() + h * C, static_cast<std::size_t>(C)};
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

/// Clusters by rank until each head of the group has the part of its attention that was asked for.
Tensor take_mass(const Tensor& rank_1C, const Tensor& size_1C, const Tensor& mass_1RC,
                 const Tensor& known_1R, const Tensor& hot_1R, const SearchBudget& budget) {
  const std::int64_t R = mass_1RC.size(1), C = mass_1RC.size(2);
  const float* rank = rank_1C.data<float>();
  const auto* size = size_1C.data<std::int64_t>();
  std::vector<double> total(static_cast<std::size_t>(R)), share = total;
  for (std::int64_t r = 0; r < R; ++r) {
    const auto at = static_cast<std::size_t>(r);
    total[at] = log_add(double{known_1R.data<float>()[r]}, log_sum_exp(row_of(mass_1RC, r)));
    share[at] = std::exp(double{hot_1R.data<float>()[r]} - total[at]);
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(C));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return rank[a] > rank[b]; });
  Tensor taken = Tensor::zeros({1, C}, DType::kU8);
  std::int64_t tokens = 0;
  for (const std::int64_t c : order) {
    const bool enough = *std::min_element(share.begin(), share.end()) >= budget.mass;
    if (enough && tokens >= budget.min_tokens) break;
    if (size[c] == 0) continue;
    if (tokens + size[c] > budget.max_tokens) break;
    taken.mutable_data<std::uint8_t>()[c] = 1;
    tokens += size[c];
    for (std::int64_t r = 0; r < R; ++r) {
      const auto at = static_cast<std::size_t>(r);
      share[at] += std::exp(double{mass_1RC.data<float>()[r * C + c]} - total[at]);
    }
  }
  return taken;
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

/// Of a page that is opened.
double TieredCache::Impl::index_bytes_of_page(const TieredLayer& layer) const {
  const double values = spec.estimate > 0 ? std::min(spec.estimate, spec.own_values) : 0;
  return static_cast<double>(kPage) * (static_cast<double>(layer.index->key_bytes()) +
                                       values * static_cast<double>(layer.index->value_bytes()));
}

std::int64_t TieredCache::Impl::index_bytes_read(const TieredLayer& layer,
                                                 std::int64_t open) const {
  const std::int64_t pages = layer.index->pages();
  const std::int64_t opened = std::llround(static_cast<double>(open) * index_bytes_of_page(layer));
  const bool values = spec.estimate > 0 && (spec.own_values < 1 || open < pages);
  const std::int64_t supers = pages * ((open < pages ? layer.index->key_bytes() : 0) +
                                       (values ? layer.index->value_bytes() : 0));
  return layer.spec.G * (opened + supers);
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
  // The more is to be selected the more of the index is read: narrowed down from both sides.
  std::int64_t low = 0, high = std::max<std::int64_t>(0, left / each);
  while (low < high) {
    const std::int64_t tokens = (low + high + 1) / 2;
    const std::int64_t index = index_bytes_read(layer, pages_to_open(layer, tokens));
    (index + tokens * each <= left ? low : high) =
        index + tokens * each <= left ? tokens : tokens - 1;
  }
  return for_tokens(bounded(low));
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
  found.mass_1HC = cluster_mass(q_1HK, clusters, 0, scale);
  found.rank_GC = Tensor::empty({G, found.C}, DType::kF32);
  found.size_GC = Tensor::empty({G, found.C}, DType::kI64);
  thread_pool().run(G, [&](std::int64_t g) { rank(layer, q_1HK, g, found, known); });
}

/// Ranks what a kv head opened: each head's attention, to all that is known and to what was opened,
/// adds up to 1. Scores become what Jensen's inequality says that the mean key counts too little:
/// half the variance of the scores of its cluster, told from one number of the cluster and the
/// head's profile.
void TieredCache::Impl::rank(const TieredLayer& layer, const Tensor& q_1HK, std::int64_t g,
                             TieredFound& found, const TieredKnown& known) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, K = layer.spec.K, C = found.C;
  Tensor bias_1C = Tensor::empty({1, C}, DType::kF32);
  float* bias = bias_1C.mutable_data<float>();
  auto* size = found.size_GC.mutable_data<std::int64_t>() + g * C;
  std::vector<float> spread(static_cast<std::size_t>(C));
  for (std::int64_t first = 0; first < C; first += kPage) {
    const std::int64_t m = found.cluster(g, first);
    const float* const biases = index.bias().data() + m * G + g;
    const float* const spreads = index.spread().data() + m * G + g;
    for (std::int64_t i = 0; i < kPage; ++i) {
      bias[first + i] = biases[i * G];
      spread[static_cast<std::size_t>(first + i)] = spreads[i * G];
      size[first + i] = std::ssize(index.members(g, m + i));
    }
  }
  const double given = layer.spec.attention.scale;
  const double scale = given == 0 ? 1 / std::sqrt(static_cast<double>(K)) : given;
  for (std::int64_t h = g * R; h < (g + 1) * R && layer.spec.attention.softcap == 0; ++h) {
    const float half = static_cast<float>(0.5 * scale * scale) *
                       weighted_square(index.profile(g), q_1HK.data<float>() + h * K);
    float* mass = found.mass_1HC.mutable_data<float>() + h * C;
    for (std::int64_t c = 0; c < C; ++c)
      mass[c] += std::min(3.0f, half * spread[static_cast<std::size_t>(c)]);
  }
  const Tensor rank = cluster_rank(found.mass_1HC.slice(1, g * R, (g + 1) * R), bias_1C,
                                   known.lse_1H.slice(1, g * R, (g + 1) * R));
  std::copy_n(rank.data<float>(), C, found.rank_GC.mutable_data<float>() + g * C);
}

/// The best clusters of all kv heads.
void TieredCache::Impl::choose(const TieredLayer& layer, TieredFound& found,
                               const SearchBudget& budget, std::int64_t budget_tokens,
                               const TieredKnown& known) const {
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, C = found.C;
  if (budget.mass >= 0) {
    found.taken_GC = Tensor::empty({G, C}, DType::kU8);
    for (std::int64_t g = 0; g < G; ++g) {
      const Tensor taken = take_mass(
          found.rank_GC.slice(0, g, g + 1), found.size_GC.slice(0, g, g + 1),
          found.mass_1HC.slice(1, g * R, (g + 1) * R), known.lse_1H.slice(1, g * R, (g + 1) * R),
          known.hot.lse_NH.slice(1, g * R, (g + 1) * R), budget);
      std::copy_n(taken.data<std::uint8_t>(), C,
                  found.taken_GC.mutable_data<std::uint8_t>() + g * C);
    }
    return;
  }
  // Bytes are the layer's: a head that looks far around takes what another does not need.
  const std::int64_t rows = budget.read >= 0 ? 1 : G;
  found.taken_GC =
      select_clusters(found.rank_GC.view({rows, G / rows * C}),
                      found.size_GC.view({rows, G / rows * C}), G / rows * budget_tokens)
          .taken_GM.view({G, C});
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
  choose(layer, found, budget, planned.tokens, known);
  found.taken_flags = found.taken_GC.data<std::uint8_t>();
  for (std::int64_t g = 0; g < G; ++g) {
    TieredHead head;
    const std::uint8_t* taken = found.taken_flags + g * found.C;
    const std::int64_t* size = found.sizes(g);
    for (std::int64_t c = 0; c < found.C; ++c) {
      head.clusters += taken[c];
      head.tokens += taken[c] * size[c];
    }
    found.heads_G.push_back(head);
  }
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
    for (std::int64_t c = 0; c < found.C; ++c) {
      if (!found.taken(g, c)) continue;
      const std::span<const std::int32_t> members = at.index->members(g, found.cluster(g, c));
      head.positions.insert(head.positions.end(), members.begin(), members.end());
      head.scores.insert(head.scores.end(), members.size(),
                         found.rank_GC.data<float>()[g * found.C + c]);
    }
  }
  for (std::int64_t h = 0; h < H; ++h) {
    const std::int64_t g = h / (H / G);
    const std::span<const float> mass = row_of(found.mass_1HC, h);
    std::vector<float> taken, rest;
    for (std::int64_t c = 0; c < found.C; ++c)
      (found.taken(g, c) ? taken : rest).push_back(mass[static_cast<std::size_t>(c)]);
    const double have = log_add(known.hot.lse_NH.data<float>()[h], log_sum_exp(taken));
    const double whole =
        log_add(log_add(known.lse_1H.data<float>()[h], log_sum_exp(taken)), log_sum_exp(rest));
    out.covered_H[static_cast<std::size_t>(h)] = std::min(1.0, std::exp(have - whole));
  }
  return out;
}

SearchResult TieredCache::search(std::int64_t layer, const Tensor& q_HK, std::int64_t top_k) {
  return search(layer, q_HK, SearchBudget{.tokens = top_k});
}

}  // namespace quire::cache

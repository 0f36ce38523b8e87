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
constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// log Σ e^x
double log_sum(std::span<const float> x) {
  double largest = kMinusInfinity, sum = 0;
  for (const float one : x) largest = std::max(largest, double{one});
  if (largest == kMinusInfinity) return largest;
  for (const float one : x) sum += std::exp(double{one} - largest);
  return largest + std::log(sum);
}

std::span<const float> row_of(const Tensor& x_1HC, std::int64_t h) {
  const std::int64_t C = x_1HC.size(2);
  return {x_1HC.data<float>() + h * C, static_cast<std::size_t>(C)};
}

/// The best pages of each head, ascending, by what their tokens receive together.
std::vector<std::int32_t> best_pages_of(const Tensor& mass_1HP, std::span<const float> bias_PG,
                                        std::int64_t G, std::int64_t W) {
  const std::int64_t P = mass_1HP.size(2), H = mass_1HP.size(1);
  // Every page takes one place, whatever stands in it: rank by the whole mass, not by token.
  Tensor bias_GM = Tensor::zeros({G, P}, DType::kF32), size_GM = Tensor::empty({G, P}, DType::kI64),
         hot_NH = Tensor::empty({1, H}, DType::kF32);
  std::fill_n(size_GM.mutable_data<std::int64_t>(), G * P, 1);
  std::fill_n(hot_NH.mutable_data<float>(), H, -std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < G * P; ++i) {
    const float bias = bias_PG[static_cast<std::size_t>(i % P * G + i / P)];
    if (std::isinf(bias)) bias_GM.mutable_data<float>()[i] = bias;
  }
  const Tensor rank_GM = cluster_rank(mass_1HP, bias_GM, hot_NH).view({G, P});
  const Selection best = select_clusters(rank_GM, size_GM, W);
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < G * P; ++i)
    if (best.taken_GM.data<std::uint8_t>()[i] != 0) out.push_back(static_cast<std::int32_t>(i % P));
  return out;
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
    total[at] = log_add(double{known_1R.data<float>()[r]}, log_sum(row_of(mass_1RC, r)));
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
  // Twice what the budget can take, so that there is something to choose from.
  const std::int64_t tokens_of_page = kPage * spec.clusters.tokens_per_cluster;
  return std::min(pages, std::max(spec.opened, 2 * budget_tokens / tokens_of_page));
}

std::int64_t TieredCache::Impl::index_bytes_read(const TieredLayer& layer,
                                                 std::int64_t budget_tokens) const {
  const std::int64_t pages = layer.index->pages(), open = pages_to_open(layer, budget_tokens);
  const std::int64_t value = spec.estimate > 0 ? layer.index->value_bytes() : 0;
  const std::int64_t keys = open * kPage + (open < pages ? pages : 0);
  return layer.spec.G * keys * (layer.index->key_bytes() + value);
}

std::int64_t TieredCache::Impl::budget_tokens(const TieredLayer& layer, const SearchBudget& budget,
                                              std::int64_t end) const {
  const std::int64_t all = layer.index->tokens();
  if (budget.tokens >= 0) return std::min(budget.tokens, all);
  if (budget.fraction == 1 || budget.mass == 1 || budget.read == 1) return all;
  std::int64_t tokens = all;
  if (budget.fraction >= 0) {
    tokens = static_cast<std::int64_t>(budget.fraction * static_cast<double>(all));
  } else if (budget.read >= 0) {
    const std::int64_t token = layer.rows.bytes_per_token(), hot = end - all;
    const double may = budget.read * static_cast<double>(end * token);
    const std::int64_t left = static_cast<std::int64_t>(may) - hot * token;
    const std::int64_t each = token + layer.spec.G * 4;
    // The index is read more the more is to be selected: once over is near enough.
    const std::int64_t first = std::max<std::int64_t>(0, left - index_bytes_read(layer, 0)) / each;
    tokens = (left - index_bytes_read(layer, first)) / each;
  }
  return std::min(all, std::clamp(tokens, budget.min_tokens, budget.max_tokens));
}

std::int64_t TieredCache::Impl::to_look_for(const TieredLayer& layer, const SearchBudget& budget,
                                            std::int64_t end) const {
  return budget.mass < 0 ? budget_tokens(layer, budget, end) : budget.min_tokens;
}

bool TieredCache::Impl::covers(const TieredLayer& layer, const SearchBudget& budget,
                               std::int64_t end) const {
  if (!layer.index || layer.index->end() < 0) return true;
  return budget.mass < 0 ? budget_tokens(layer, budget, end) >= layer.index->tokens()
                         : budget.mass == 1;
}

/// Scores what is opened.
TieredFound TieredCache::Impl::look(TieredLayer& layer, const Tensor& q_1HK,
                                    std::int64_t budget_tokens) {
  TieredFound found;
  ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, pages = index.pages();
  const double scale = layer.spec.attention.scale;
  found.W = pages_to_open(layer, budget_tokens);
  found.C = found.W * kPage;
  if (found.W < pages) {
    KvView supers = index.supers();
    supers.length_BG = &pages;
    found.super_mass_1HP = cluster_mass(q_1HK, supers, 0, scale);
    found.opened_GW = best_pages_of(found.super_mass_1HP, index.super_bias(), G, found.W);
  }
  const KvView clusters = clusters_of(layer, found);
  found.mass_1HC = cluster_mass(q_1HK, clusters, 0, scale);
  return found;
}

/// The best clusters of one kv head, whose heads' attention, to all that is known and to what was
/// opened, adds up to 1 each.
void TieredCache::Impl::choose(const TieredLayer& layer, TieredFound& found, std::int64_t g,
                               const SearchBudget& budget, std::int64_t budget_tokens,
                               const TieredKnown& known) const {
  const ClusterIndex& index = *layer.index;
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, C = found.C;
  TieredHead& head = found.heads_G[static_cast<std::size_t>(g)];
  Tensor bias_GM = Tensor::empty({1, C}, DType::kF32), size_GM = Tensor::empty({1, C}, DType::kI64);
  float* bias = bias_GM.mutable_data<float>();
  auto* size = size_GM.mutable_data<std::int64_t>();
  const std::span<const float> from = index.bias();
  for (std::int64_t c = 0; c < C; ++c) {
    const std::int64_t m = found.cluster(g, c);
    bias[c] = from[static_cast<std::size_t>(m * G + g)];
    size[c] = static_cast<std::int64_t>(index.members(g, m).size());
  }
  const Tensor mass_1RC = found.mass_1HC.slice(1, g * R, (g + 1) * R);
  const Tensor lse_1R = known.lse_1H.slice(1, g * R, (g + 1) * R);
  head.rank_1C = cluster_rank(mass_1RC, bias_GM, lse_1R).view({1, C});
  if (budget.mass < 0) {
    head.taken_1C = select_clusters(head.rank_1C, size_GM, budget_tokens).taken_GM;
  } else {
    head.taken_1C = take_mass(head.rank_1C, size_GM, mass_1RC, lse_1R,
                              known.hot.lse_NH.slice(1, g * R, (g + 1) * R), budget);
  }
  const std::uint8_t* taken = head.taken_1C.data<std::uint8_t>();
  for (std::int64_t c = 0; c < C; ++c) {
    if (taken[c] == 0) continue;
    ++head.clusters;
    const std::span<const std::int32_t> members = index.members(g, found.cluster(g, c));
    head.positions.insert(head.positions.end(), members.begin(), members.end());
  }
}

/// What a query attends to exactly; what is left to estimate goes to `rest`.
TieredFound TieredCache::Impl::find(TieredLayer& layer, const Tensor& q_1HK, std::int64_t end,
                                    const SearchBudget& budget, TieredKnown& known, KeyList* rest) {
  const std::int64_t G = layer.spec.G, tokens = budget_tokens(layer, budget, end);
  TieredFound found = look(layer, q_1HK, to_look_for(layer, budget, end));
  known = over_known(layer, q_1HK, found, end);
  found.heads_G.resize(static_cast<std::size_t>(G));
  if (rest != nullptr) *rest = KeyList(G, found.C, layer.spec.H);
  thread_pool().run(G, [&](std::int64_t g) {
    choose(layer, found, g, budget, tokens, known);
    if (rest != nullptr) add_rest(layer, found, g, *rest);
  });
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
    head.positions = found.head(g).positions;
    for (std::int64_t c = 0; c < found.C; ++c)
      if (found.taken(g, c))
        head.scores.insert(head.scores.end(), at.index->members(g, found.cluster(g, c)).size(),
                           found.head(g).rank_1C.data<float>()[c]);
  }
  for (std::int64_t h = 0; h < H; ++h) {
    const std::int64_t g = h / (H / G);
    const std::span<const float> mass = row_of(found.mass_1HC, h);
    std::vector<float> taken, rest;
    for (std::int64_t c = 0; c < found.C; ++c)
      (found.taken(g, c) ? taken : rest).push_back(mass[static_cast<std::size_t>(c)]);
    double left = log_sum(rest);
    if (known.closed) left = log_add(left, known.closed->lse_NH.data<float>()[h]);
    const double have = log_add(known.hot.lse_NH.data<float>()[h], log_sum(taken));
    out.covered_H[static_cast<std::size_t>(h)] = std::exp(have - log_add(have, left));
  }
  return out;
}

SearchResult TieredCache::search(std::int64_t layer, const Tensor& q_HK, std::int64_t top_k) {
  return search(layer, q_HK, SearchBudget{.tokens = top_k});
}

}  // namespace quire::cache

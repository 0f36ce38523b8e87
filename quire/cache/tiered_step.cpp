#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/cache/query_observer.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kPage = ClusterIndex::kPage;
constexpr float kNone = -std::numeric_limits<float>::infinity();

/// A score that was not softcapped when its centroid was scored; log n comes on top.
float capped(float mass, float log_count, double softcap) {
  if (softcap == 0) return mass;
  const auto score = static_cast<double>(mass - log_count);
  return static_cast<float>(softcap * std::tanh(score / softcap)) + log_count;
}

}  // namespace

/// The ordinary attention of the last N of `end` tokens, in the order of their positions.
AttentionResult TieredCache::Impl::over_all(TieredLayer& layer, const Tensor& q_NHK,
                                            std::int64_t end) const {
  AttentionSpec whole = layer.spec.attention;
  whole.alignment = Alignment::kBottomRight;
  HeldTokens all = all_tokens(layer, end);
  all.view.length_BG = &end;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), all.view, whole);
}

/// Sinks, staging and recent tokens.
AttentionResult TieredCache::Impl::over_hot(TieredLayer& layer, const Tensor& q_1HK,
                                            std::int64_t end) const {
  const AttentionSpec& attention = layer.spec.attention;
  const HeldKeys hot = hot_keys(layer, end);
  ListedKeys list = hot.keys();
  list.sink_H = attention.sink_H;
  return listed_attention(q_1HK, std::span(&list, 1), attention.scale, attention.softcap)[0];
}

/// The estimate of what a kv head did not open.
void TieredCache::Impl::add_closed(const TieredLayer& layer, const TieredFound& found,
                                   std::int64_t g, KeyList& to) const {
  const std::int64_t R = layer.spec.H / layer.spec.G, pages = layer.index->pages();
  const std::span<const float> bias = layer.index->super_bias();
  const std::int32_t* opened = found.opened_GW.data() + g * found.W;
  const std::int32_t* const last = opened + found.W;
  for (std::int64_t p = 0; p < pages; ++p) {
    if (opened != last && *opened == p) {
      ++opened;
      continue;
    }
    const float log_count = bias[static_cast<std::size_t>(p * layer.spec.G + g)];
    if (log_count == kNone) continue;
    for (std::int64_t h = g * R; h < (g + 1) * R; ++h)
      to.set_score(h, to.length(g),
                   capped(found.super_mass_1HP.data<float>()[h * pages + p], log_count,
                          layer.spec.attention.softcap));
    to.add(g, p);
  }
}

/// Which of the clusters that a head looked at are the `count` best of those not taken: u8 [1, C].
Tensor TieredCache::Impl::best_rest(const TieredLayer& layer, const TieredFound& found,
                                    std::int64_t g, double share) const {
  Tensor one_1C = Tensor::zeros({1, found.C}, DType::kI64);
  std::int64_t filled = 0;
  for (std::int64_t c = 0; c < found.C; ++c) {
    if (layer.index->members(g, found.cluster(g, c)).empty()) continue;
    one_1C.mutable_data<std::int64_t>()[c] = 1;
    ++filled;
  }
  const auto count = static_cast<std::int64_t>(share * static_cast<double>(filled));
  return select_clusters(found.rank_GC.slice(0, g, g + 1), one_1C, found.head(g).clusters + count)
      .taken_GM;
}

/// What was opened and not taken, to be estimated: all of it, or its best part. The best stand with
/// their own mean values; the others of a page together, with the page's.
void TieredCache::Impl::add_rest(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                                 TieredRest& to) const {
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, C = found.C;
  const std::span<const float> bias = layer.index->bias();
  const double softcap = layer.spec.attention.softcap;
  Tensor estimated, own;
  if (spec.estimate < 1) estimated = best_rest(layer, found, g, spec.estimate);
  if (spec.own_values < 1) own = best_rest(layer, found, g, spec.own_values);
  const float* mass = found.mass_1HC.data<float>();
  const auto width = static_cast<std::size_t>(C);
  std::vector<float> together(width, kNone);  // 0: stands with its page
  std::vector<std::uint8_t> is_page(width / kPage);
  for (std::int64_t c = 0; c < C; ++c) {
    const std::int64_t m = found.cluster(g, c);
    const float log_count = bias[static_cast<std::size_t>(m * G + g)];
    if (found.taken(g, c) || log_count == kNone) continue;
    if (spec.estimate < 1 && estimated.data<std::uint8_t>()[c] == 0) continue;
    if (spec.own_values < 1 && own.data<std::uint8_t>()[c] == 0) {
      together[static_cast<std::size_t>(c)] = 0;
      is_page[static_cast<std::size_t>(c / kPage)] = 1;
      continue;
    }
    for (std::int64_t h = g * R; h < (g + 1) * R; ++h)
      to.clusters.set_score(h, to.clusters.length(g), capped(mass[h * C + c], log_count, softcap));
    to.clusters.add(g, m);
  }
  if (spec.own_values == 1) return;
  std::vector<float> row(width), sums(is_page.size());
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    std::copy_n(mass + h * C, C, row.begin());
    for (std::int64_t c = 0; softcap != 0 && c < C; ++c)
      row[static_cast<std::size_t>(c)] =
          capped(row[static_cast<std::size_t>(c)],
                 bias[static_cast<std::size_t>(found.cluster(g, c) * G + g)], softcap);
    log_sum_exp_of_16(row, together, sums);
    std::int64_t at = to.pages.length(g);
    for (std::size_t page = 0; page < sums.size(); ++page)
      if (is_page[page] != 0) to.pages.set_score(h, at++, sums[page]);
  }
  for (std::size_t page = 0; page < is_page.size(); ++page)
    if (is_page[page] != 0)
      to.pages.add(g, found.cluster(g, static_cast<std::int64_t>(page) * kPage) / kPage);
}

/// The query at position end − 1.
AttentionResult TieredCache::Impl::attend_row(TieredLayer& layer, const Tensor& q_1HK,
                                              std::int64_t end) {
  TieredKnown known;
  TieredRest rest{{layer.spec.G, 0}, {layer.spec.G, 0}};
  const TieredFound found = find(layer, q_1HK, end, spec.budget, known, &rest);
  const HeldKeys tokens = selected_keys(layer, found);
  std::vector<ListedKeys> lists{tokens.keys()};
  if (spec.estimate > 0) lists.push_back(rest.clusters.keys(layer.index->all_clusters()));
  if (spec.estimate > 0) lists.push_back(rest.pages.keys(layer.index->supers()));
  const AttentionSpec& attention = layer.spec.attention;
  const std::vector<AttentionResult> parts =
      listed_attention(q_1HK, lists, attention.scale, attention.softcap);
  const AttentionResult exact = merge_attention(known.hot, parts[0]);
  AttentionResult out = exact;
  for (std::size_t i = 1; i < parts.size(); ++i) out = merge_attention(out, parts[i]);
  note_mass(layer, found, known, exact.lse_NH, out.lse_NH);
  note(layer, found, end, found.W);
  return out;
}

/// How much of the attention was exact, and estimated; what was dropped counts in neither.
void TieredCache::Impl::note_mass(TieredLayer& layer, const TieredFound& found,
                                  const TieredKnown& known, const Tensor& exact_1H,
                                  const Tensor& whole_1H) const {
  layer.mass_exact = mass_of(exact_1H, whole_1H);
  layer.mass_estimated = 1 - layer.mass_exact;
  if (spec.estimate == 1) return;
  Tensor all_1H = Tensor::empty({1, layer.spec.H}, DType::kF32);
  const std::int64_t group = layer.spec.H / layer.spec.G;
  for (std::int64_t h = 0; h < layer.spec.H; ++h) {
    const double hot = known.hot.lse_NH.data<float>()[h];
    const double closed = known.lse_1H.data<float>()[h];  // with the hot ones
    double lse = exact_1H.data<float>()[h];
    if (closed > hot) lse = log_add(lse, closed + std::log1p(-std::exp(hot - closed)));
    for (std::int64_t c = 0; c < found.C; ++c)
      if (!found.taken(h / group, c))
        lse = log_add(lse, found.mass_1HC.data<float>()[h * found.C + c]);
    all_1H.mutable_data<float>()[h] = static_cast<float>(lse);
  }
  layer.mass_exact = mass_of(exact_1H, all_1H);
  layer.mass_estimated = mass_of(whole_1H, all_1H) - layer.mass_exact;
}

/// The ledger of a query.
void TieredCache::Impl::note(TieredLayer& layer, const TieredFound& found, std::int64_t end,
                             std::int64_t pages) const {
  const std::int64_t G = layer.spec.G, token = layer.rows.bytes_per_token() / G;
  const std::int64_t hot = end - layer.index->tokens();
  layer.selected = 0;
  std::int64_t taken = 0;
  for (const TieredHead& head : found.heads_G) {
    layer.selected += static_cast<std::int64_t>(head.positions.size());
    taken += head.clusters;
  }
  const std::int64_t moved = offloaded ? layer.selected : 0;
  layer.estimated = 0;
  for (std::int64_t g = 0; g < G; ++g) layer.estimated += layer.index->clusters_of(g);
  if (!found.opened_GW.empty()) layer.estimated = G * (found.C + layer.index->pages() - found.W);
  layer.estimated =
      static_cast<std::int64_t>(spec.estimate * static_cast<double>(layer.estimated - taken));
  layer.bytes_slow = moved * token;
  layer.bytes_hot = (hot * G + layer.selected - moved) * token;
  layer.bytes_index = index_bytes_read(layer, pages) + layer.selected * 4;
}

Tensor TieredCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  return attend_part(layer, q_NHK).out_NHU;
}

AttentionResult TieredCache::attend_part(std::int64_t layer, const Tensor& q_NHK) {
  Impl& impl = *impl_;
  TieredLayer& at = impl.at(layer);
  const std::int64_t N = q_NHK.size(0), first = at.length - N;
  QUIRE_CHECK(first >= 0, "q_NHK has ", N, " queries, but the layer has ", at.length, " tokens");
  if (N == 0) return impl.over_all(at, q_NHK, at.length);
  impl.attended = impl.built >= 0;
  const Tensor q = q_NHK.contiguous_copy();
  AttentionResult out;
  std::int64_t n = 0;
  while (n < N) {
    // Queries that see everything come at once.
    std::int64_t last = n;
    for (; last < N; ++last) {
      impl.follow(at, first + last + 1);
      if (impl.built >= 0 && !impl.covers(at, impl.spec.budget, first + last + 1)) break;
    }
    AttentionResult part;
    if (last > n) {
      at.selected = at.estimated = at.bytes_slow = at.bytes_index = 0;
      at.bytes_hot = (first + last) * at.rows.bytes_per_token();
      at.mass_exact = 1;
      at.mass_estimated = 0;
      part = impl.over_all(at, q.slice(0, n, last), first + last);
    } else {
      last = n + 1;
      part = impl.attend_row(at, q.slice(0, n, last), first + last);
    }
    if (n == 0 && last == N) return part;
    if (n == 0)
      out = {Tensor::empty({N, at.spec.H, at.spec.U}, DType::kF32),
             Tensor::empty({N, at.spec.H}, DType::kF32)};
    put_rows(part.out_NHU, out.out_NHU, n);
    put_rows(part.lse_NH, out.lse_NH, n);
    n = last;
  }
  return out;
}

}  // namespace quire::cache

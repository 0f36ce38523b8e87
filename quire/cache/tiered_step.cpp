#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "quire/base/thread_pool.h"
#include "quire/cache/query_observer.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kPage = ClusterIndex::kPage;

/// Attention to what `parts` attended to, all together: out and log-sum-exp. A part of weight 0 is
/// passed over.
AttentionResult all_together(std::span<const AttentionResult* const> parts) {
  const std::int64_t H = parts[0]->lse_NH.elements(), U = parts[0]->out_NHU.size(2);
  AttentionResult sum{Tensor::zeros({1, H, U}, DType::kF32), Tensor::empty({1, H}, DType::kF32)};
  float* const out_HU = sum.out_NHU.mutable_data<float>();
  float* const lse_H = sum.lse_NH.mutable_data<float>();
  for (std::int64_t h = 0; h < H; ++h) {
    double largest = -std::numeric_limits<double>::infinity(), whole = 0;
    for (const AttentionResult* part : parts) {
      const double lse = double{part->lse_NH.data<float>()[h]};
      if (largest < lse || std::isnan(lse)) largest = lse;
      if (std::isnan(lse)) break;
    }
    lse_H[h] = static_cast<float>(largest);
    if (largest == -std::numeric_limits<double>::infinity()) continue;
    for (const AttentionResult* part : parts)
      whole += std::exp(double{part->lse_NH.data<float>()[h]} - largest);
    lse_H[h] = static_cast<float>(largest + std::log(whole));
    for (const AttentionResult* part : parts) {
      const double share = std::exp(double{part->lse_NH.data<float>()[h]} - largest) / whole;
      const auto weight = static_cast<float>(share);
      if (weight == 0) continue;
      const float* from = part->out_NHU.data<float>() + h * U;
      for (std::int64_t u = 0; u < U; ++u) out_HU[h * U + u] += weight * from[u];
    }
  }
  return sum;
}

}  // namespace

float capped(float mass, float log_count, double softcap) {
  if (softcap == 0) return mass;
  const auto score = static_cast<double>(mass - log_count);
  return static_cast<float>(softcap * std::tanh(score / softcap)) + log_count;
}

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
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, pages = layer.index->pages();
  const float* const bias = layer.index->super_bias().data() + g;
  const std::int32_t* opened = found.opened_GW.data() + g * found.W;
  const std::int32_t* const last = opened + found.W;
  const std::int64_t begin = to.length(g);
  for (std::int64_t p = 0; p < pages; ++p) {
    if (opened != last && *opened == p) {
      ++opened;
    } else if (bias[p * G] != kNone) {
      to.add(g, p);
    }
  }
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    const float* mass = found.super_mass_1HP.data<float>() + h * pages;
    for (std::int64_t at = begin; at < to.length(g); ++at) {
      const std::int64_t p = to.slots(g)[at];
      to.scores(h)[at] = capped(mass[p], bias[p * G], layer.spec.attention.softcap);
    }
  }
}

/// Which of the clusters that a head looked at, but for its shortlist, are the best `share`: u8
/// [1, C].
Tensor TieredCache::Impl::best_rest(const TieredFound& found, std::int64_t g, double share) const {
  Tensor one_1C = Tensor::empty({1, found.C}, DType::kI64);
  auto* one = one_1C.mutable_data<std::int64_t>();
  const std::int64_t* size = found.sizes(g);
  std::int64_t filled = 0;
  for (std::int64_t c = 0; c < found.C; ++c)
    filled += one[c] = size[c] > 0 && found.shortlist(g)[static_cast<std::size_t>(c)] == 0 ? 1 : 0;
  return select_clusters(found.rank_GC.slice(0, g, g + 1), one_1C,
                         static_cast<std::int64_t>(share * static_cast<double>(filled)))
      .taken_GM;
}

/// What was opened and not taken, to be estimated: the shortlist and the best of the other clusters
/// with their own mean values; the others of a page together, with the page's.
void TieredCache::Impl::add_rest(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                                 TieredRest& to) const {
  const std::int64_t C = found.C;
  Tensor own;
  if (spec.own_values > 0) own = best_rest(found, g, spec.own_values);
  const std::uint8_t* alone =
      spec.own_values > 0 ? std::as_const(own).data<std::uint8_t>() : nullptr;
  const std::span<const std::uint8_t> is_short = found.shortlist(g);
  const std::int64_t* size = found.sizes(g);
  const auto width = static_cast<std::size_t>(C);
  std::vector<float> together(width);  // 0: stands with its page
  std::vector<std::uint8_t> is_page(width / kPage);
  std::vector<std::int32_t> own_C(width + 1);  // which stand for themselves
  std::int64_t count = 0;
  for (std::int64_t c = 0; c < C; ++c) {
    const bool rest = is_short[static_cast<std::size_t>(c)] == 0 && size[c] > 0;
    const bool itself = rest && alone != nullptr && alone[c] != 0, page = rest && !itself;
    own_C[static_cast<std::size_t>(count)] = static_cast<std::int32_t>(c);
    count += itself ? 1 : 0;
    together[static_cast<std::size_t>(c)] = page ? 0 : kNone;
    if (page) is_page[static_cast<std::size_t>(c / kPage)] = 1;
  }
  own_C.resize(static_cast<std::size_t>(count));
  add_sketched(found, g, to.clusters);
  add_own(layer, found, g, own_C, to.clusters);
  if (spec.own_values < 1) add_pages(layer, found, g, {together, is_page}, to.pages);
}

/// What was not taken of the shortlist's clusters.
void TieredCache::Impl::add_sketched(const TieredFound& found, std::int64_t g, KeyList& to) const {
  const TieredHead& head = found.head(g);
  const std::int64_t R = head.share_RL.size(0), runs = std::ssize(head.runs);
  const auto width = static_cast<std::size_t>(head.share_RL.size(1));
  std::vector<float> rest_RC(static_cast<std::size_t>(R * runs));
  shares_not_taken(head.share_RL, {found.taken(g), width}, head.runs, rest_RC);
  for (const std::int32_t run : head.in_part)
    to.add(g, found.cluster(g, head.of_run[static_cast<std::size_t>(run)]));
  for (std::int64_t r = 0; r < R; ++r) {
    const float total = found.totals(g)[static_cast<std::size_t>(r)];
    const float* rest = rest_RC.data() + r * runs;
    float* score = to.scores(g * R + r);
    for (const std::int32_t run : head.in_part) *score++ = rest[run] + total;
  }
}

/// Clusters of what was opened that stand for themselves.
void TieredCache::Impl::add_own(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                                std::span<const std::int32_t> own_C, KeyList& to) const {
  const std::int64_t R = layer.spec.H / layer.spec.G, begin = to.length(g);
  for (const std::int32_t c : own_C) to.add(g, found.cluster(g, c));
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    const float* mass = found.mass_1HC.data<float>() + h * found.C;
    float* score = to.scores(h) + begin;
    for (const std::int32_t c : own_C) *score++ = mass[c];
  }
}

/// Pages of what was opened whose clusters stand together.
void TieredCache::Impl::add_pages(const TieredLayer& layer, const TieredFound& found,
                                  std::int64_t g, const TieredTogether& of, KeyList& to) const {
  const std::int64_t R = layer.spec.H / layer.spec.G, C = found.C, begin = to.length(g);
  for (std::int64_t page = 0; page < C / kPage; ++page)
    if (of.is_page[static_cast<std::size_t>(page)] != 0)
      to.add(g, found.cluster(g, page * kPage) / kPage);
  std::vector<float> sums(of.is_page.size());
  for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
    const std::span<const float> mass(found.mass_1HC.data<float>() + h * C,
                                      static_cast<std::size_t>(C));
    log_sum_exp_of_16(mass, of.mask_C, sums);
    float* score = to.scores(h) + begin;
    for (std::size_t page = 0; page < sums.size(); ++page)
      if (of.is_page[page] != 0) *score++ = sums[page];
  }
}

/// The query at position end − 1.
AttentionResult TieredCache::Impl::attend_row(TieredLayer& layer, const Tensor& q_1HK,
                                              std::int64_t end) {
  TieredKnown known;
  TieredFound found = find(layer, q_1HK, end, spec.budget, known);
  HeldKeys tokens = selected_keys(layer, found);
  const std::int64_t G = layer.spec.G, estimates = spec.estimate ? G : 0;
  TieredRest rest{{G, found.C, layer.spec.H}, {G, layer.index->pages(), layer.spec.H}};
  thread_pool().run(estimates + (disk == nullptr ? G : 0), [&](std::int64_t piece) {
    if (piece >= estimates) return list_tokens(layer, found, piece - estimates, tokens.list);
    count_taken(found, piece);
    add_rest(layer, found, piece, rest);
    if (!found.opened_GW.empty()) add_closed(layer, found, piece, rest.pages);
  });
  if (estimates == 0)
    for (std::int64_t g = 0; g < G; ++g) count_taken(found, g);
  std::vector<ListedKeys> lists{tokens.keys()};
  if (spec.estimate) lists.push_back(rest.clusters.keys(layer.index->all_clusters()));
  if (spec.estimate) lists.push_back(rest.pages.keys(layer.index->supers()));
  const AttentionSpec& attention = layer.spec.attention;
  const std::vector<AttentionResult> parts =
      listed_attention(q_1HK, lists, attention.scale, attention.softcap);
  std::vector<const AttentionResult*> all{&known.hot};
  for (const AttentionResult& part : parts) all.push_back(&part);
  const AttentionResult out = all_together(all);
  Tensor exact_1H = Tensor::empty({1, layer.spec.H}, DType::kF32);
  for (std::int64_t h = 0; h < layer.spec.H; ++h)
    exact_1H.mutable_data<float>()[h] = static_cast<float>(log_add(
        double{known.hot.lse_NH.data<float>()[h]}, double{parts[0].lse_NH.data<float>()[h]}));
  note_mass(layer, found, known, exact_1H, out.lse_NH);
  note(layer, found, end, found.W);
  return out;
}

/// How much of the attention was exact, and estimated; what was dropped counts in neither.
void TieredCache::Impl::note_mass(TieredLayer& layer, const TieredFound& found,
                                  const TieredKnown& known, const Tensor& exact_1H,
                                  const Tensor& whole_1H) const {
  layer.mass_exact = mass_of(exact_1H, whole_1H);
  layer.mass_estimated = 1 - layer.mass_exact;
  if (spec.estimate) return;
  Tensor all_1H = Tensor::empty({1, layer.spec.H}, DType::kF32);
  for (std::int64_t h = 0; h < layer.spec.H; ++h) {
    const double hot = known.hot.lse_NH.data<float>()[h];
    const double closed = known.lse_1H.data<float>()[h];  // with the hot ones
    double lse = exact_1H.data<float>()[h];
    if (closed > hot) lse = log_add(lse, closed + std::log1p(-std::exp(hot - closed)));
    all_1H.mutable_data<float>()[h] = static_cast<float>(log_add(lse, rest_of(found, h)));
  }
  layer.mass_exact = mass_of(exact_1H, all_1H);
  layer.mass_estimated = 0;
}

/// The ledger of a query.
void TieredCache::Impl::note(TieredLayer& layer, const TieredFound& found, std::int64_t end,
                             std::int64_t pages) const {
  const std::int64_t G = layer.spec.G, token = layer.rows.bytes_per_token() / G;
  const std::int64_t hot = end - layer.index->tokens();
  layer.selected = 0;
  std::int64_t clusters = 0;
  for (const TieredHead& head : found.heads_G) {
    layer.selected += head.tokens;
    clusters -= head.whole;
  }
  const std::int64_t moved = offloaded ? layer.selected : 0;
  for (std::int64_t g = 0; g < G && found.opened_GW.empty(); ++g)
    clusters += layer.index->clusters_of(g);
  if (!found.opened_GW.empty()) clusters += G * (found.C + layer.index->pages() - found.W);
  layer.estimated = spec.estimate ? clusters : 0;
  layer.bytes_slow = moved * token;
  layer.bytes_hot = (hot * G + layer.selected - moved) * token;
  layer.bytes_index = index_bytes_read(layer, pages, shortlist_of(found)) + layer.selected * 4;
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

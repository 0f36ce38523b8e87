#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/cache/query_observer.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

/// A score that was not softcapped when its centroid was scored; log n comes on top.
float capped(float mass, float log_count, double softcap) {
  if (softcap == 0) return mass;
  const auto score = static_cast<double>(mass - log_count);
  return static_cast<float>(softcap * std::tanh(score / softcap)) + log_count;
}

/// The part of each head's attention that `part` has of `whole`, averaged.
double mass_of(const Tensor& part_1H, const Tensor& whole_1H) {
  const std::int64_t H = part_1H.size(1);
  double sum = 0;
  for (std::int64_t h = 0; h < H; ++h)
    sum += std::exp(double{part_1H.data<float>()[h]} - double{whole_1H.data<float>()[h]});
  return sum / static_cast<double>(H);
}

}  // namespace

/// What was opened, as one sequence; the view holds as long as `found`.
KvView TieredCache::Impl::clusters_of(const TieredLayer& layer, const TieredFound& found) const {
  KvView view = found.opened_GW.empty() ? layer.index->all_clusters() : layer.index->clusters();
  view.length_BG = &found.C;
  if (found.opened_GW.empty()) return view;
  view.table = found.opened_GW.data();
  view.W = view.table_head_stride = found.W;
  return view;
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

/// Sinks, staging and recent tokens exactly; with two levels, the estimate of what is not opened.
TieredKnown TieredCache::Impl::over_known(TieredLayer& layer, const Tensor& q_1HK,
                                          const TieredFound& found, std::int64_t end) const {
  const AttentionSpec& attention = layer.spec.attention;
  const std::int64_t G = layer.spec.G, H = layer.spec.H, pages = layer.index->pages();
  const HeldKeys hot = hot_keys(layer, end);
  std::vector<ListedKeys> lists{hot.keys()};
  lists[0].sink_H = attention.sink_H;
  const bool two_levels = !found.opened_GW.empty();
  KeyList closed(G, two_levels ? pages : 0, H);
  for (std::int64_t g = 0; two_levels && g < G; ++g) {
    const std::span<const float> bias = layer.index->super_bias();
    const std::int32_t* opened = found.opened_GW.data() + g * found.W;
    for (std::int64_t p = 0; p < pages; ++p) {
      if (opened != found.opened_GW.data() + (g + 1) * found.W && *opened == p) {
        ++opened;
        continue;
      }
      const float log_count = bias[static_cast<std::size_t>(p * G + g)];
      if (log_count == kNone) continue;
      for (std::int64_t h = g * (H / G); h < (g + 1) * (H / G); ++h)
        closed.set_score(h, closed.length(g),
                         capped(found.super_mass_1HP.data<float>()[h * pages + p], log_count,
                                attention.softcap));
      closed.add(g, p);
    }
  }
  if (two_levels) lists.push_back(closed.keys(layer.index->supers()));
  std::vector<AttentionResult> parts =
      listed_attention(q_1HK, lists, attention.scale, attention.softcap);
  TieredKnown known{std::move(parts[0]), {}, {}};
  if (two_levels) known.closed = std::move(parts[1]);
  known.lse_1H = two_levels ? merge_attention(known.hot, *known.closed).lse_NH : known.hot.lse_NH;
  return known;
}

/// What was opened and not taken, to be estimated: all of it, or its best part.
void TieredCache::Impl::add_rest(const TieredLayer& layer, const TieredFound& found, std::int64_t g,
                                 KeyList& to) const {
  const std::int64_t G = layer.spec.G, R = layer.spec.H / G, C = found.C;
  const TieredHead& head = found.head(g);
  const std::span<const float> bias = layer.index->bias();
  Tensor best_1C;
  if (spec.estimate < 1) {
    Tensor one_1C = Tensor::zeros({1, C}, DType::kI64);
    for (std::int64_t c = 0; c < C; ++c)
      if (!layer.index->members(g, found.cluster(g, c)).empty())
        one_1C.mutable_data<std::int64_t>()[c] = 1;
    const auto share =
        static_cast<std::int64_t>(spec.estimate * static_cast<double>(layer.index->clusters_of(g)));
    best_1C = select_clusters(head.rank_1C, one_1C, head.clusters + share).taken_GM;
  }
  const std::uint8_t* taken = head.taken_1C.data<std::uint8_t>();
  const float* mass = found.mass_1HC.data<float>();
  for (std::int64_t c = 0; c < C; ++c) {
    if (taken[c] != 0) continue;
    const std::int64_t m = found.cluster(g, c);
    const float log_count = bias[static_cast<std::size_t>(m * G + g)];
    if (log_count == kNone) continue;
    if (spec.estimate < 1 && best_1C.data<std::uint8_t>()[c] == 0) continue;
    for (std::int64_t h = g * R; h < (g + 1) * R; ++h)
      to.set_score(h, to.length(g),
                   capped(mass[h * C + c], log_count, layer.spec.attention.softcap));
    to.add(g, m);
  }
}

/// The query at position end − 1.
AttentionResult TieredCache::Impl::attend_row(TieredLayer& layer, const Tensor& q_1HK,
                                              std::int64_t end) {
  TieredKnown known;
  KeyList clusters(layer.spec.G, 0);
  const TieredFound found = find(layer, q_1HK, end, spec.budget, known, &clusters);
  const HeldKeys tokens = selected_keys(layer, found);
  std::vector<ListedKeys> lists{tokens.keys()};
  if (spec.estimate > 0) lists.push_back(clusters.keys(layer.index->all_clusters()));
  const AttentionSpec& attention = layer.spec.attention;
  const std::vector<AttentionResult> parts =
      listed_attention(q_1HK, lists, attention.scale, attention.softcap);
  const AttentionResult exact = merge_attention(known.hot, parts[0]);
  AttentionResult out = exact;
  if (spec.estimate > 0) out = merge_attention(out, parts[1]);
  if (spec.estimate == 1 && known.closed) out = merge_attention(out, *known.closed);
  layer.mass_exact = mass_of(exact.lse_NH, out.lse_NH);
  layer.mass_estimated = 1 - layer.mass_exact;
  if (spec.estimate < 1) {
    // What was dropped counts in neither.
    Tensor whole = Tensor::empty({1, layer.spec.H}, DType::kF32);
    const std::int64_t group = layer.spec.H / layer.spec.G;
    for (std::int64_t h = 0; h < layer.spec.H; ++h) {
      double lse = exact.lse_NH.data<float>()[h];
      if (known.closed) lse = log_add(lse, known.closed->lse_NH.data<float>()[h]);
      for (std::int64_t c = 0; c < found.C; ++c)
        if (!found.taken(h / group, c))
          lse = log_add(lse, found.mass_1HC.data<float>()[h * found.C + c]);
      whole.mutable_data<float>()[h] = static_cast<float>(lse);
    }
    layer.mass_exact = mass_of(exact.lse_NH, whole);
    layer.mass_estimated = mass_of(out.lse_NH, whole) - layer.mass_exact;
  }
  note(layer, found, end, to_look_for(layer, spec.budget, end));
  return out;
}

/// The ledger of a query.
void TieredCache::Impl::note(TieredLayer& layer, const TieredFound& found, std::int64_t end,
                             std::int64_t budget) const {
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
  layer.bytes_index = index_bytes_read(layer, budget) + layer.selected * 4;
}

Tensor TieredCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Impl& impl = *impl_;
  TieredLayer& at = impl.at(layer);
  const std::int64_t N = q_NHK.size(0), first = at.length - N;
  QUIRE_CHECK(first >= 0, "q_NHK has ", N, " queries, but the layer has ", at.length, " tokens");
  if (N == 0) return impl.over_all(at, q_NHK, at.length).out_NHU;
  impl.attended = impl.built >= 0;
  const Tensor q = q_NHK.contiguous_copy();
  Tensor out_NHU;
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
    if (n == 0 && last == N) return part.out_NHU;
    if (n == 0) out_NHU = Tensor::empty({N, at.spec.H, at.spec.U}, DType::kF32);
    const std::int64_t row = at.spec.H * at.spec.U;
    std::copy_n(part.out_NHU.data<float>(), (last - n) * row,
                out_NHU.mutable_data<float>() + n * row);
    n = last;
  }
  return out_NHU;
}

}  // namespace quire::cache

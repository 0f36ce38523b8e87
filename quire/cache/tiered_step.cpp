#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quire/cache/query_observer.h"
#include "quire/cache/tiered_impl.h"
#include "quire/ops/search/select_clusters.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kPage = ClusterIndex::kPage;
constexpr float kNone = -std::numeric_limits<float>::infinity();

/// Biases that are −inf until it ends.
class Masked {
 public:
  explicit Masked(std::span<float> bias) : bias_(bias) {}
  ~Masked() {
    for (const auto& [at, value] : before_) bias_[at] = value;
  }
  Masked(const Masked&) = delete;
  Masked& operator=(const Masked&) = delete;

  void mask(std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    if (bias_[at] == kNone) return;
    before_.emplace_back(at, bias_[at]);
    bias_[at] = kNone;
  }

 private:
  std::span<float> bias_;
  std::vector<std::pair<std::size_t, float>> before_;
};

/// The part of each head's attention that `part` has of `whole`, averaged.
double mass_of(const Tensor& part_1H, const Tensor& whole_1H) {
  const std::int64_t H = part_1H.size(1);
  double sum = 0;
  for (std::int64_t h = 0; h < H; ++h)
    sum += std::exp(double{part_1H.data<float>()[h]} - double{whole_1H.data<float>()[h]});
  return sum / static_cast<double>(H);
}

}  // namespace

AttentionSpec part_of(const LayerSpec& layer) {
  AttentionSpec spec = layer.attention;
  spec.alignment = Alignment::kBottomRight;
  spec.sink_H = nullptr;  // it belongs to one part only
  return spec;
}

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
  std::vector<std::int32_t> table;
  KvView view = layer.rows.view(layer.rows.slots());
  if (layer.rows.out_end() > layer.rows.out_begin()) {
    view = layer.rows.view(16);
    for (std::int64_t slot = 0; slot < end; slot += 16)
      table.push_back(layer.rows.page_of_16(slot));
    view.table = table.data();
    view.W = static_cast<std::int64_t>(table.size());
  }
  view.length_BG = &end;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, whole);
}

AttentionResult TieredCache::Impl::over_hot(TieredLayer& layer, const Tensor& q_1HK,
                                            std::int64_t end) const {
  AttentionSpec part = part_of(layer.spec);
  part.sink_H = layer.spec.attention.sink_H;
  std::vector<std::int32_t> table;
  for (std::int64_t slot = 0; slot < spec.sinks; slot += 16)
    table.push_back(layer.rows.page_of_16(slot));
  for (std::int64_t slot = layer.index->end(); slot < end; slot += 16)
    table.push_back(layer.rows.page_of_16(slot));
  const std::int64_t keys = spec.sinks + end - layer.index->end();
  KvView view = layer.rows.view(16);
  view.table = table.data();
  view.W = static_cast<std::int64_t>(table.size());
  view.length_BG = &keys;
  return attention(q_1HK, one_sequence(1), view, part);
}

AttentionResult TieredCache::Impl::over_selected(TieredLayer& layer, const Tensor& q_1HK,
                                                 const TieredFound& found) const {
  const std::int64_t G = layer.spec.G;
  const std::int64_t widest =
      std::max<std::int64_t>(1, *std::max_element(found.tokens_G.begin(), found.tokens_G.end()));
  std::vector<std::int32_t> table(static_cast<std::size_t>(G * widest), -1);
  for (std::int64_t g = 0; g < G; ++g) {
    std::int32_t* to = table.data() + g * widest;
    const std::uint8_t* taken = found.taken_GC.data<std::uint8_t>() + g * found.C;
    for (std::int64_t c = 0; c < found.C; ++c) {
      if (taken[c] == 0) continue;
      for (const std::int32_t slot : layer.index->members(g, found.cluster(g, c)))
        *to++ = layer.rows.place(slot);
    }
  }
  KvView view = layer.rows.view(1);
  view.table = table.data();
  view.W = view.table_head_stride = widest;
  view.length_BG = found.tokens_G.data();
  view.length_stride_G = 1;
  return attention(q_1HK, one_sequence(1), view, part_of(layer.spec));
}

/// With two levels: the estimate of what was not opened.
AttentionResult TieredCache::Impl::over_closed(TieredLayer& layer, const Tensor& q_1HK,
                                               const TieredFound& found) const {
  const std::int64_t G = layer.spec.G, pages = layer.index->pages();
  Masked masked(layer.index->super_bias());
  for (std::int64_t i = 0; i < G * found.W; ++i)
    masked.mask(found.opened_GW[static_cast<std::size_t>(i)] * G + i / found.W);
  KvView view = layer.index->supers();
  view.length_BG = &pages;
  return attention(q_1HK, one_sequence(1), view, part_of(layer.spec));
}

/// The estimate of what was opened and not taken: of all of it, or of its best part.
AttentionResult TieredCache::Impl::over_rest(TieredLayer& layer, const Tensor& q_1HK,
                                             const TieredFound& found) {
  const std::int64_t G = layer.spec.G, C = found.C;
  Masked masked(layer.index->bias());
  for (std::int64_t g = 0; g < G; ++g) {
    std::int64_t taken = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      if (!found.taken(g, c)) continue;
      masked.mask(found.cluster(g, c) * G + g);
      ++taken;
    }
    if (spec.estimate == 1) continue;
    Tensor one = Tensor::empty({1, C}, DType::kI64);
    const auto* size = found.size_GC.data<std::int64_t>() + g * C;
    for (std::int64_t c = 0; c < C; ++c) one.mutable_data<std::int64_t>()[c] = size[c] > 0 ? 1 : 0;
    const auto share =
        static_cast<std::int64_t>(spec.estimate * static_cast<double>(layer.index->clusters_of(g)));
    const Selection best =
        select_clusters(found.rank_1GC.view({G, C}).slice(0, g, g + 1), one, taken + share);
    for (std::int64_t c = 0; c < C; ++c)
      if (best.taken_GM.data<std::uint8_t>()[c] == 0) masked.mask(found.cluster(g, c) * G + g);
  }
  return attention(q_1HK, one_sequence(1), clusters_of(layer, found), part_of(layer.spec));
}

/// The query at position end − 1.
AttentionResult TieredCache::Impl::attend_row(TieredLayer& layer, const Tensor& q_1HK,
                                              std::int64_t end) {
  TieredKnown known;
  const TieredFound found = find(layer, q_1HK, end, spec.budget, known);
  const AttentionResult exact = merge_attention(known.hot, over_selected(layer, q_1HK, found));
  AttentionResult out = exact;
  Tensor whole_1H;
  if (spec.estimate > 0) out = merge_attention(out, over_rest(layer, q_1HK, found));
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
  for (const std::int64_t tokens : found.tokens_G) layer.selected += tokens;
  std::int64_t moved = 0, taken = 0;
  for (std::int64_t g = 0; g < G; ++g) {
    for (std::int64_t c = 0; c < found.C; ++c) {
      if (!found.taken(g, c)) continue;
      ++taken;
      const auto members = layer.index->members(g, found.cluster(g, c));
      if (!members.empty() && members.front() < layer.rows.out_end())
        moved += static_cast<std::int64_t>(members.size());
    }
  }
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

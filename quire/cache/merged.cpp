#include "quire/cache/merged.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/merge_keys.h"
#include "quire/cache/query_observer.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_mass.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kSmooth = 5;  // neighbours, as SnapKV averages
constexpr std::int64_t kBiasBytes = 4;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

struct Layer {
  LayerSpec spec;
  std::optional<KvStore> all;   // while reading, and of a layer that stays whole
  std::optional<KvStore> kept;  // entries, then the tokens after the context
  std::vector<float> bias;      // [slots, G] of `kept`
  QueryObserver observer;
  std::int64_t length = 0;         // with the tokens of the step under way
  MergedEntries entries;           // numbers only: keys and values are in `kept`
  std::int64_t count = 0;          // of entries
  double mass = 0;                 // that the reading's tokens received, over all heads
  std::vector<double> mass_SG;     // of `kept` since the last merge; where merging goes on
  std::vector<float> queries_NHK;  // the last ones, likewise
  std::int64_t bytes_read = 0;
};

AttentionSpec behind(const LayerSpec& layer) {
  AttentionSpec spec = layer.attention;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// What stands beside a query is moved when keys leave: such layers stay whole.
bool by_distance(const LayerSpec& layer) {
  return layer.attention.window_left != kUnlimited || layer.attention.slope_H != nullptr;
}

/// Averages over neighbours; in the last `window` numbers, whose own queries were counted, too.
void smooth(std::span<float> mass_S) {
  const std::vector<float> raw(mass_S.begin(), mass_S.end());
  const auto S = static_cast<std::int64_t>(raw.size());
  for (std::int64_t s = 0; s < S; ++s) {
    double sum = 0;
    for (std::int64_t i = std::max<std::int64_t>(0, s - kSmooth / 2);
         i < std::min(S, s + kSmooth / 2 + 1); ++i)
      sum += double{raw[at(i)]};
    mass_S[at(s)] = static_cast<float>(sum / kSmooth);
  }
}

/// Makes numbers the shares of their sum.
void normalise(std::span<float> x) {
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  if (!(sum > 0)) return;
  for (float& one : x) one = static_cast<float>(double{one} / sum);
}

void put_mass(const HeadContext& head, MergeMass kind, std::span<float> mass_S) {
  std::fill(mass_S.begin(), mass_S.end(), 0.0f);
  const auto put = [&](std::span<const float> from) {
    std::copy(from.begin(), from.end(), mass_S.begin());
  };
  if (kind == MergeMass::kReading) return put(head.reading_mass_S);
  put(head.window_mass_S);
  smooth(mass_S);
  if (kind == MergeMass::kRecent) return;
  normalise(mass_S);
  std::vector<float> each(head.reading_mass_S.begin(), head.reading_mass_S.end());
  for (std::size_t s = 0; s < each.size(); ++s) each[s] /= static_cast<float>(each.size() - s);
  normalise(each);
  for (std::size_t s = 0; s < each.size(); ++s) mass_S[s] += each[s];
}

void check_options(const MergeOptions& o) {
  QUIRE_CHECK(o.threshold >= -1 && o.threshold <= 1, "threshold is ", o.threshold,
              "; a cosine is -1 to 1");
  QUIRE_CHECK(o.window >= 1 && o.window <= (std::int64_t{1} << 20), "window is ", o.window,
              "; it may be 1 to 2^20");
  QUIRE_CHECK(o.group_cap >= 2 && o.group_cap < (std::int64_t{1} << 31), "group_cap is ",
              o.group_cap, "; a group has at least 2 tokens");
  QUIRE_CHECK(o.round > 0 && o.round <= 1 && o.heavy >= 0 && o.heavy <= 1, "round is ", o.round,
              " and heavy ", o.heavy, "; they are shares, round above 0");
  QUIRE_CHECK(o.sinks >= 0 && o.recent >= 0 && o.probes >= 1 && o.whole_first >= 0 &&
                  o.whole_last >= 0 && o.stream_tokens >= 0,
              "sinks, recent, probes, whole_first, whole_last and stream_tokens are ", o.sinks,
              ", ", o.recent, ", ", o.probes, ", ", o.whole_first, ", ", o.whole_last, ", ",
              o.stream_tokens);
  QUIRE_CHECK(o.count_cap == 0 || o.count_cap >= 1, "count_cap is ", o.count_cap);
  QUIRE_CHECK(o.weights != MergeWeights::kCosine || o.groups == MergeGroups::kKept,
              "weights by cosine need kept keys that it is the cosine to");
}

}  // namespace

struct MergedCache::Impl {
  MergeOptions options;
  Budget budget;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, context = -1, budget_tokens = -1;
  std::vector<Layer> layers;

  Layer& layer_at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[at(layer)];
  }
  const Layer& merged_at(std::int64_t layer) {
    const Layer& of = layer_at(layer);
    QUIRE_CHECK(of.kept.has_value(), "nothing was merged in layer ", layer);
    return of;
  }
  bool is_whole(const Layer& layer) const {
    const std::int64_t i = &layer - layers.data();
    return by_distance(layer.spec) || i < options.whole_first ||
           i >= static_cast<std::int64_t>(layers.size()) - options.whole_last;
  }
  std::int64_t tokens_in(const Layer& layer) const {
    return layer.kept ? layer.count + layer.length - context : layer.length;
  }
  std::int64_t stored_bytes(const Layer& layer) const {
    const KvStore& store = layer.kept ? *layer.kept : *layer.all;
    const std::int64_t bias = layer.kept ? kBiasBytes * layer.spec.G : 0;
    return tokens_in(layer) * (store.bytes_per_token() + bias);
  }
  KvView view_of_layer(const Layer& layer, const std::int64_t& tokens) const {
    KvView view = (layer.kept ? *layer.kept : *layer.all).view(tokens);
    view.length_BG = &tokens;
    if (layer.kept) view.bias = layer.bias.data();
    view.bias_heads = layer.spec.G;
    return view;
  }

  /// Entries of a layer that take no more bytes than so many tokens.
  std::int64_t entries_of(const Layer& layer, std::int64_t tokens) const;
  std::int64_t tokens_of_each() const;
  MergeSource source_of(Layer& layer) const;
  MergeSource reading(Layer& layer) const;
  MergeSource stream(Layer& layer) const;
  void merge(Layer& layer, const MergeSource& from, std::int64_t M);
  void watch(Layer& layer, const Tensor& q_NHK, const Tensor& lse_NH, const KvView& view) const;
  void go_on();
};

std::int64_t MergedCache::Impl::entries_of(const Layer& layer, std::int64_t tokens) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t row = kv_bytes_per_token(kv, s.G, s.K, s.U);
  return tokens * row / (row + kBiasBytes * s.G);
}

/// The budget of a layer that is merged, after what the whole ones take more.
std::int64_t MergedCache::Impl::tokens_of_each() const {
  std::int64_t whole = 0, others = 0;
  for (const Layer& layer : layers) {
    if (by_distance(layer.spec)) continue;
    ++(is_whole(layer) ? whole : others);
  }
  if (others == 0) return budget_tokens;
  return (budget_tokens * (whole + others) - whole * length) / others;
}

MergeSource MergedCache::Impl::source_of(Layer& layer) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t S = tokens_in(layer);
  MergeSource out{Tensor::empty({s.G, S, s.K}, DType::kF32),
                  Tensor::empty({s.G, S, s.U}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::zeros({S, s.G}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kI64),
                  {}};
  const KvStore& store = layer.kept ? *layer.kept : *layer.all;
  for (std::int64_t g = 0; g < s.G; ++g)
    store.widen(g, S, out.k_GSK.mutable_data<float>() + g * S * s.K,
                out.v_GSU.mutable_data<float>() + g * S * s.U);
  return out;
}

MergeSource MergedCache::Impl::reading(Layer& layer) const {
  MergeSource out = source_of(layer);
  const std::int64_t G = layer.spec.G, S = layer.length;
  const KvView view = view_of_layer(layer, layer.length);
  for (std::int64_t g = 0; g < G; ++g) {
    HeadContext head;
    head.g = g;
    head.spec = &layer.spec;
    head.tokens = S;
    layer.observer.tell(head, view);
    put_mass(head, options.mass, {out.mass_GS.mutable_data<float>() + g * S, at(S)});
    std::fill_n(out.count_GS.mutable_data<float>() + g * S, S, 1.0f);
    auto* position = out.position_GS.mutable_data<std::int64_t>() + g * S;
    std::iota(position, position + S, 0);
  }
  out.q_NHK = layer.observer.window_queries();
  return out;
}

MergeSource MergedCache::Impl::stream(Layer& layer) const {
  MergeSource out = source_of(layer);
  const LayerSpec& s = layer.spec;
  const std::int64_t S = tokens_in(layer), M = layer.count;
  layer.mass_SG.resize(at(S * s.G));
  for (std::int64_t g = 0; g < s.G; ++g) {
    for (std::int64_t i = 0; i < S; ++i) {
      const bool old = i < M;
      const std::int64_t to = g * S + i, from = g * M + i;
      out.mass_GS.mutable_data<float>()[to] =
          (old ? layer.entries.mass_GM.data<float>()[from] : 0) +
          static_cast<float>(layer.mass_SG[at(i * s.G + g)]);
      out.count_GS.mutable_data<float>()[to] = old ? layer.entries.count_GM.data<float>()[from] : 1;
      out.position_GS.mutable_data<std::int64_t>()[to] =
          old ? layer.entries.position_GM.data<std::int64_t>()[from] : context + i - M;
      out.bias_SG.mutable_data<float>()[i * s.G + g] = layer.bias[at(i * s.G + g)];
    }
  }
  out.q_NHK = Tensor::of<float>(
      layer.queries_NHK,
      {static_cast<std::int64_t>(layer.queries_NHK.size()) / (s.H * s.K), s.H, s.K});
  return out;
}

void MergedCache::Impl::merge(Layer& layer, const MergeSource& from, std::int64_t M) {
  const LayerSpec& s = layer.spec;
  const std::int64_t before = layer.entries.dropped;
  const double before_mass = layer.entries.dropped_mass;
  layer.entries = merge_keys(from, behind(s), options, M);
  layer.entries.dropped += before;
  layer.entries.dropped_mass += before_mass;
  layer.count = M;
  layer.kept.emplace(s, M + capacity - length, kv, KLayout::kBlocks);
  layer.kept->write(layer.entries.k_GMK.transpose(0, 1), layer.entries.v_GMU.transpose(0, 1), 0);
  layer.entries.k_GMK = layer.entries.v_GMU = {};
  layer.bias.assign(at(layer.kept->slots() * s.G), 0.0f);
  for (std::int64_t g = 0; g < s.G; ++g)
    for (std::int64_t m = 0; m < M; ++m)
      layer.bias[at(m * s.G + g)] = layer.entries.bias_GM.data<float>()[g * M + m];
  layer.all.reset();
  layer.mass_SG.clear();
}

/// What the next merge wants to know of the queries of a step.
void MergedCache::Impl::watch(Layer& layer, const Tensor& q_NHK, const Tensor& lse_NH,
                              const KvView& view) const {
  const LayerSpec& s = layer.spec;
  const Tensor mass_PZG =
      attention_mass(q_NHK, one_sequence(q_NHK.size(0)), view, behind(s), lse_NH);
  const std::size_t count = at(*view.length_BG * s.G);
  if (layer.mass_SG.size() < count) layer.mass_SG.resize(count);
  for (std::size_t i = 0; i < count; ++i) layer.mass_SG[i] += double{mass_PZG.data<float>()[i]};
  const Tensor q = q_NHK.contiguous_copy();
  std::vector<float>& all = layer.queries_NHK;
  all.insert(all.end(), q.data<float>(), q.data<float>() + q.elements());
  const std::size_t most = at(options.probes * s.H * s.K);
  if (all.size() > most) all.erase(all.begin(), all.end() - static_cast<std::ptrdiff_t>(most));
}

/// Merges the tokens after the context into its entries.
void MergedCache::Impl::go_on() {
  for (Layer& layer : layers) {
    if (!layer.kept) continue;
    const MergeSource from = stream(layer);
    merge(layer, from, layer.count);
  }
  context = length;
}

MergedCache::MergedCache(std::vector<LayerSpec> layers, const MergeOptions& options, Budget budget,
                         std::int64_t capacity, DType kv)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 31), "a cache for ", capacity,
              " tokens; it must hold at least one, and fewer than 2^31");
  QUIRE_CHECK(stores_kv(kv), "a cache of ", to_string(kv), "; it may be ", kv_formats());
  check_options(options);
  static_cast<void>(budget.of(capacity));
  QUIRE_CHECK(budget.tokens < 0 || budget.tokens >= floor_tokens(options), "a budget of ",
              budget.tokens, " tokens; a merge needs at least ", floor_tokens(options));
  impl_->options = options;
  impl_->budget = budget;
  impl_->capacity = capacity;
  impl_->kv = kv;
  const Observe observe{.reading_mass = options.mass != MergeMass::kRecent,
                        .window = options.probes};
  for (LayerSpec& s : layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
                "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
    Layer layer{s, {}, {}, {}, QueryObserver(s, observe), 0, {}, 0, 0, {}, {}, 0};
    layer.all.emplace(s, capacity, kv, KLayout::kRows);
    impl_->layers.push_back(std::move(layer));
  }
}

MergedCache::~MergedCache() = default;

std::int64_t MergedCache::floor_tokens(const MergeOptions& options) {
  return options.sinks + options.recent + 2;
}

std::int64_t MergedCache::length() const { return impl_->length; }
std::int64_t MergedCache::capacity() const { return impl_->capacity; }
const MergeOptions& MergedCache::options() const { return impl_->options; }
std::int64_t MergedCache::context() const { return impl_->context; }
std::int64_t MergedCache::budget_tokens() const { return impl_->budget_tokens; }
std::int64_t MergedCache::entries(std::int64_t layer) const {
  return impl_->merged_at(layer).count;
}
Tensor MergedCache::counts_GM(std::int64_t layer) const {
  return impl_->merged_at(layer).entries.count_GM;
}
Tensor MergedCache::masses_GM(std::int64_t layer) const {
  return impl_->merged_at(layer).entries.mass_GM;
}
std::int64_t MergedCache::dropped(std::int64_t layer) const {
  return impl_->merged_at(layer).entries.dropped;
}

void MergedCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Layer& to = impl_->layer_at(layer);
  const std::int64_t N = k_NGK.size(0);
  QUIRE_CHECK(impl_->length + N <= impl_->capacity, "the cache holds ", impl_->length,
              " tokens of at most ", impl_->capacity, "; ", N, " more do not fit");
  if (to.kept)
    to.kept->write(k_NGK, v_NGU, to.count + impl_->length - impl_->context);
  else
    to.all->write(k_NGK, v_NGU, impl_->length);
  to.length = impl_->length + N;
}

Tensor MergedCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Layer& from = impl_->layer_at(layer);
  const std::int64_t tokens = impl_->tokens_in(from), N = q_NHK.size(0);
  const KvView view = impl_->view_of_layer(from, tokens);
  const AttentionResult out = attention(q_NHK, one_sequence(N), view, behind(from.spec));
  from.bytes_read = impl_->stored_bytes(from);
  if (N == 0 || by_distance(from.spec)) return out.out_NHU;
  if (impl_->context < 0)
    from.observer.see(q_NHK, out.lse_NH, view, from.length - N);
  else if (from.kept && impl_->options.stream_tokens > 0)
    impl_->watch(from, q_NHK, out.lse_NH, view);
  return out.out_NHU;
}

void MergedCache::advance(std::int64_t tokens) {
  Impl& impl = *impl_;
  QUIRE_CHECK(tokens >= 0 && impl.length + tokens <= impl.capacity, "advance by ", tokens, " from ",
              impl.length, " of ", impl.capacity);
  const std::int64_t length = impl.length + tokens;
  for (std::size_t i = 0; i < impl.layers.size(); ++i) {
    QUIRE_CHECK(impl.layers[i].length == length, "advance to ", length, " tokens, but layer ", i,
                " holds ", impl.layers[i].length);
  }
  impl.length = length;
  const std::int64_t more = impl.options.stream_tokens;
  if (more > 0 && impl.context >= 0 && length - impl.context >= more) impl.go_on();
}

void MergedCache::truncate(std::int64_t length) {
  Impl& impl = *impl_;
  QUIRE_CHECK(length >= 0 && length <= impl.length, "truncate to ", length, ", but the cache has ",
              impl.length, " tokens");
  QUIRE_CHECK(length >= impl.context, "truncate to ", length, ", but the first ", impl.context,
              " tokens were read and merged");
  QUIRE_CHECK(impl.context >= 0 || length == 0 || length == impl.length, "truncate to ", length,
              ", but the queries of ", impl.length, " tokens were seen");
  if (impl.context < 0 && length == 0)
    for (Layer& layer : impl.layers) layer.observer.clear();
  impl.length = length;
  for (Layer& layer : impl.layers) {
    layer.length = length;
    const std::int64_t kept = layer.kept ? impl.tokens_in(layer) : 0;
    if (layer.mass_SG.size() > at(kept * layer.spec.G))
      layer.mass_SG.resize(at(kept * layer.spec.G));
  }
}

void MergedCache::end_reading() {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.context < 0, "reading has ended before, after ", impl.context, " tokens");
  for (const Layer& layer : impl.layers)
    QUIRE_CHECK(layer.length == impl.length, "reading cannot end within a step");
  const std::int64_t tokens = impl.budget.of(impl.length), floor = floor_tokens(impl.options);
  impl.budget_tokens = tokens;
  if (tokens < impl.length) {
    const std::int64_t each = impl.tokens_of_each();
    for (Layer& layer : impl.layers) {
      const std::int64_t M = impl.entries_of(layer, each);
      QUIRE_CHECK(impl.is_whole(layer) || M >= floor, "a budget of ", tokens, " tokens of ",
                  impl.length, " leaves ", M, " entries; a merge needs at least ", floor);
    }
    for (Layer& layer : impl.layers) {
      if (impl.is_whole(layer)) continue;
      const MergeSource from = impl.reading(layer);
      const float* mass = from.mass_GS.data<float>();
      layer.mass = std::accumulate(mass, mass + from.mass_GS.elements(), 0.0);
      impl.merge(layer, from, impl.entries_of(layer, each));
    }
  }
  impl.context = impl.length;
  for (Layer& layer : impl.layers) {
    layer.observer.clear();
    layer.bytes_read = impl.stored_bytes(layer);
  }
}

CacheReport MergedCache::report() const {
  CacheReport out{.tokens = impl_->length, .bytes_read = 0, .bytes_stored = bytes(), .mass = 0};
  for (const Layer& layer : impl_->layers) {
    out.bytes_read += layer.bytes_read;
    const double lost = layer.mass > 0 ? layer.entries.dropped_mass / layer.mass : 0;
    out.mass += (1 - lost) / static_cast<double>(impl_->layers.size());
  }
  return out;
}

std::int64_t MergedCache::bytes() const {
  std::int64_t sum = 0;
  for (const Layer& layer : impl_->layers) sum += impl_->stored_bytes(layer);
  return sum;
}

std::int64_t MergedCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const Layer& layer : impl_->layers)
    sum += (layer.kept ? *layer.kept : *layer.all).bytes_per_token() +
           (layer.kept ? kBiasBytes * layer.spec.G : 0);
  return sum;
}

}  // namespace quire::cache

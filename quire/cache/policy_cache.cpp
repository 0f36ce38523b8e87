#include "quire/cache/policy_cache.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/query_observer.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_mass.h"

namespace quire::cache {
namespace {

using Positions = std::vector<std::int32_t>;

struct Layer {
  LayerSpec spec;
  std::optional<KvStore> all;    // every token; gone after an eviction
  std::optional<KvStore> kept;   // what an eviction left, then the tokens after the context
  std::int64_t kept_tokens = 0;  // of the context
  std::vector<float> bias;       // [slots, G] of `kept` or, for one query, of `all`
  QueryObserver observer;
  std::int64_t length = 0;          // with the tokens of the step under way
  std::vector<Positions> selected;  // per kv head; empty: everything
  std::int64_t bytes_read = 0;      // by the last token
  double mass = 1;                  // of its attention, over all heads
};

AttentionSpec plain(const LayerSpec& layer) {
  AttentionSpec spec = layer.attention;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// Scores of these depend on where a key stands beside the query: keys cannot be left out there
/// without moving others.
bool by_distance(const LayerSpec& layer) {
  return layer.attention.window_left != kUnlimited || layer.attention.slope_H != nullptr;
}

void check_selection(const Positions& at, std::int64_t context, const Policy& policy) {
  std::int64_t before = -1;
  for (const std::int32_t x : at) {
    QUIRE_CHECK(x > before && x < context, "the policy ", policy.name(), " selects position ", x,
                " after ", before, " of a context of ", context,
                "; positions must ascend and lie inside");
    before = x;
  }
}

/// The share of the attention of each row of `part` in `whole`, averaged over the heads of the last
/// row.
double mass_of(const Tensor& part_NH, const Tensor& whole_NH) {
  const std::int64_t H = part_NH.size(1), last = (part_NH.size(0) - 1) * H;
  double sum = 0;
  for (std::int64_t h = last; h < last + H; ++h)
    sum += std::exp(double{part_NH.data<float>()[h]} - double{whole_NH.data<float>()[h]});
  return sum / static_cast<double>(H);
}

}  // namespace

struct PolicyCache::Impl {
  std::unique_ptr<Policy> policy;
  Budget budget;
  Measure measure = Measure::kNothing;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, context = -1, budget_tokens = -1;
  bool attended = false;  // since reading ended
  std::vector<Layer> layers;

  Layer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  std::int64_t index_of(const Layer& layer) const { return &layer - layers.data(); }
  bool is_dense(const Layer& layer) const {
    return by_distance(layer.spec) || policy->is_dense(index_of(layer));
  }
  /// Whether the policy leaves anything of the layer out.
  bool is_active(const Layer& layer) const {
    return context >= 0 && budget_tokens < context && !is_dense(layer);
  }

  HeadContext head_context(Layer& layer, std::int64_t g) {
    HeadContext head;
    head.layer = index_of(layer);
    head.g = g;
    head.spec = &layer.spec;
    head.tokens = context;
    head.budget = budget_tokens;
    KvView view = layer.all->view(context);
    view.length_BG = &context;
    layer.observer.tell(head, view);
    return head;
  }

  // What happens when reading ends.
  void decide(Layer& layer);
  void keep(Layer& layer, const std::vector<Positions>& selected,
            const std::vector<std::vector<float>>& biases);

  // What happens in a step.
  AttentionResult over_all(Layer& layer, const Tensor& q_NHK) const;
  AttentionResult over_kept(Layer& layer, const Tensor& q_NHK, const float* bias) const;
  Tensor over_selected(Layer& layer, const Tensor& q_NHK);
  std::vector<float> query_mass(Layer& layer, const Tensor& q_1HK, std::int64_t end) const;
  std::vector<Positions> select(Layer& layer, const Tensor& q_NHK, std::vector<float>& bias_NGS);
  AttentionResult attend_rows(Layer& layer, const Tensor& q_NHK, std::int64_t first_row,
                              std::span<const Positions> selected, const float* bias) const;
  std::int64_t per_head(const Layer& layer) const {
    return (layer.kept ? *layer.kept : *layer.all).bytes_per_token() / layer.spec.G;
  }
  std::int64_t stored_bytes(const Layer& layer) const;
};

PolicyCache::PolicyCache(std::vector<LayerSpec> layers, std::unique_ptr<Policy> policy,
                         Budget budget, std::int64_t capacity, DType kv, Measure measure)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(policy != nullptr, "a cache without a policy");
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 31), "a cache for ", capacity,
              " tokens; it must hold at least one, and fewer than 2^31");
  QUIRE_CHECK(kv == DType::kF32 || kv == DType::kF16 || kv == DType::kBF16 || kv == DType::kI8,
              "a cache of ", to_string(kv), "; it may be f32, bf16, f16 or i8");
  static_cast<void>(budget.of(capacity));
  QUIRE_CHECK(budget.tokens < 0 || budget.tokens >= policy->floor_tokens(), "a budget of ",
              budget.tokens, " tokens; ", policy->name(), " needs at least ",
              policy->floor_tokens());
  impl_->policy = std::move(policy);
  impl_->budget = budget;
  impl_->capacity = capacity;
  impl_->kv = kv;
  impl_->measure = measure;
  const Observe observe = impl_->policy->observe();
  for (LayerSpec& s : layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
                "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
    Layer layer{s, {}, {}, 0, {}, QueryObserver(s, observe), 0, {}, 0, 1};
    layer.all.emplace(s, capacity, kv, KLayout::kRows);
    impl_->layers.push_back(std::move(layer));
  }
}

PolicyCache::~PolicyCache() = default;

std::unique_ptr<PolicyCache> PolicyCache::with(std::unique_ptr<Policy> policy, Budget budget,
                                               Measure measure) const {
  QUIRE_CHECK(impl_->context < 0,
              "reading has ended; another policy can only begin where it has "
              "not");
  std::vector<LayerSpec> layers;
  for (const Layer& layer : impl_->layers) layers.push_back(layer.spec);
  auto out = std::make_unique<PolicyCache>(std::move(layers), std::move(policy), budget,
                                           impl_->capacity, impl_->kv, measure);
  const Observe observe = out->policy().observe();
  for (std::size_t i = 0; i < impl_->layers.size(); ++i) {
    const Layer& from = impl_->layers[i];
    Layer& to = out->impl_->layers[i];
    QUIRE_CHECK(from.length == impl_->length, "a cache is copied between steps only");
    to.all->copy(*from.all, from.length);
    to.length = from.length;
    to.observer = from.observer.narrowed(observe);
  }
  out->impl_->length = impl_->length;
  return out;
}

std::int64_t PolicyCache::length() const { return impl_->length; }
std::int64_t PolicyCache::capacity() const { return impl_->capacity; }
const Policy& PolicyCache::policy() const { return *impl_->policy; }
std::int64_t PolicyCache::context() const { return impl_->context; }
std::int64_t PolicyCache::budget_tokens() const { return impl_->budget_tokens; }

void PolicyCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Layer& to = impl_->at(layer);
  const std::int64_t N = k_NGK.size(0);
  QUIRE_CHECK(impl_->length + N <= impl_->capacity, "the cache holds ", impl_->length,
              " tokens of at most ", impl_->capacity, "; ", N, " more do not fit");
  if (to.all) to.all->write(k_NGK, v_NGU, impl_->length);
  if (to.kept) to.kept->write(k_NGK, v_NGU, to.kept_tokens + impl_->length - impl_->context);
  to.length = impl_->length + N;
}

AttentionResult PolicyCache::Impl::over_all(Layer& layer, const Tensor& q_NHK) const {
  KvView view = layer.all->view(layer.length);
  view.length_BG = &layer.length;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, plain(layer.spec));
}

AttentionResult PolicyCache::Impl::over_kept(Layer& layer, const Tensor& q_NHK,
                                             const float* bias) const {
  const std::int64_t tokens = layer.kept_tokens + layer.length - context;
  KvView view = layer.kept->view(tokens);
  view.length_BG = &tokens;
  view.bias = bias;
  view.bias_heads = layer.spec.G;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, plain(layer.spec));
}

Tensor PolicyCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Layer& at = impl_->at(layer);
  const bool active = impl_->is_active(at);
  if (q_NHK.size(0) == 0) return impl_->over_all(at, q_NHK).out_NHU;
  impl_->attended = impl_->context >= 0;
  if (active && at.kept) {
    at.bytes_read = (at.kept_tokens + at.length - impl_->context) * at.kept->bytes_per_token() +
                    static_cast<std::int64_t>(at.bias.empty() ? 0 : at.kept_tokens * at.spec.G) * 4;
    const AttentionResult out =
        impl_->over_kept(at, q_NHK, at.bias.empty() ? nullptr : at.bias.data());
    if (impl_->measure == Measure::kMass) {
      const AttentionResult part = at.bias.empty() ? out : impl_->over_kept(at, q_NHK, nullptr);
      at.mass = mass_of(part.lse_NH, impl_->over_all(at, q_NHK).lse_NH);
    }
    return out.out_NHU;
  }
  if (active) return impl_->over_selected(at, q_NHK);
  at.bytes_read = at.length * at.all->bytes_per_token();
  const AttentionResult out = impl_->over_all(at, q_NHK);
  if (impl_->context < 0 && !by_distance(at.spec)) {
    KvView view = at.all->view(at.length);
    view.length_BG = &at.length;
    at.observer.see(q_NHK, out.lse_NH, view, at.length - q_NHK.size(0));
  }
  return out.out_NHU;
}

void PolicyCache::advance(std::int64_t tokens) {
  QUIRE_CHECK(tokens >= 0 && impl_->length + tokens <= impl_->capacity, "advance by ", tokens,
              " from ", impl_->length, " of ", impl_->capacity);
  const std::int64_t length = impl_->length + tokens;
  for (std::size_t i = 0; i < impl_->layers.size(); ++i) {
    QUIRE_CHECK(impl_->layers[i].length == length, "advance to ", length, " tokens, but layer ", i,
                " holds ", impl_->layers[i].length);
  }
  impl_->length = length;
}

void PolicyCache::truncate(std::int64_t length) {
  QUIRE_CHECK(length >= 0 && length <= impl_->length, "truncate to ", length,
              ", but the cache has ", impl_->length, " tokens");
  QUIRE_CHECK(length >= impl_->context, "truncate to ", length, ", but the first ", impl_->context,
              " tokens were read and compressed");
  const Observe observe = impl_->policy->observe();
  const bool observed = observe.moments || observe.reading_mass || observe.window > 0;
  const bool reading = impl_->context < 0;
  QUIRE_CHECK(!reading || !observed || length == 0 || length == impl_->length, "truncate to ",
              length, ", but ", impl_->policy->name(), " has seen the queries of ", impl_->length,
              " tokens");
  if (reading && length == 0)
    for (Layer& layer : impl_->layers) layer.observer.clear();
  impl_->length = length;
  for (Layer& layer : impl_->layers) layer.length = length;
}

void PolicyCache::end_reading() {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.context < 0, "reading has ended before, after ", impl.context, " tokens");
  for (const Layer& layer : impl.layers)
    QUIRE_CHECK(layer.length == impl.length, "reading cannot end within a step");
  const std::int64_t tokens = impl.budget.of(impl.length), floor = impl.policy->floor_tokens();
  QUIRE_CHECK(tokens >= std::min(floor, impl.length), "a budget of ", tokens, " tokens (",
              impl.budget.fraction * 100, " % of ", impl.length, "); ", impl.policy->name(),
              " needs at least ", floor);
  impl.context = impl.length;
  impl.budget_tokens = tokens;
  for (Layer& layer : impl.layers) {
    layer.bytes_read = layer.length * layer.all->bytes_per_token();
    if (impl.is_active(layer)) impl.decide(layer);
    layer.observer.clear();
  }
}

void PolicyCache::Impl::decide(Layer& layer) {
  const auto G = static_cast<std::size_t>(layer.spec.G);
  const std::int64_t S = context;
  std::vector<float> k(static_cast<std::size_t>(S * layer.spec.K)),
      v(static_cast<std::size_t>(S * layer.spec.U)), score(static_cast<std::size_t>(S));
  std::vector<Positions> selected(G);
  std::vector<std::vector<float>> biases(G);
  for (std::size_t g = 0; g < G; ++g) {
    HeadContext head = head_context(layer, static_cast<std::int64_t>(g));
    layer.all->widen(head.g, S, k.data(), v.data());
    head.k_SK = k;
    head.v_SU = v;
    if (policy->decide() == Decide::kEachStep) {
      policy->build(head);
      continue;
    }
    policy->score(head, score);
    selected[g] = policy->select(head, score);
    check_selection(selected[g], S, *policy);
    QUIRE_CHECK(selected[g].size() == selected[0].size(), "the policy ", policy->name(), " keeps ",
                selected[g].size(), " tokens for head ", g, " and ", selected[0].size(),
                " for head 0; all heads of a layer must keep equally many");
    biases[g].resize(selected[g].size());
    if (!policy->bias(head, selected[g], biases[g])) biases[g].clear();
  }
  if (policy->decide() == Decide::kOnce) keep(layer, selected, biases);
}

void PolicyCache::Impl::keep(Layer& layer, const std::vector<Positions>& selected,
                             const std::vector<std::vector<float>>& biases) {
  const std::int64_t G = layer.spec.G;
  layer.kept_tokens = static_cast<std::int64_t>(selected[0].size());
  layer.kept.emplace(layer.spec, layer.kept_tokens + capacity - context, kv, KLayout::kBlocks);
  for (std::int64_t g = 0; g < G; ++g) {
    const auto head = static_cast<std::size_t>(g);
    layer.kept->copy(*layer.all, g, selected[head]);
    if (biases[head].empty()) continue;
    layer.bias.resize(static_cast<std::size_t>(layer.kept->slots() * G));
    for (std::size_t i = 0; i < biases[head].size(); ++i)
      layer.bias[i * static_cast<std::size_t>(G) + head] = biases[head][i];
  }
  layer.selected = selected;
  layer.bytes_read = layer.kept_tokens * layer.kept->bytes_per_token();
  if (measure == Measure::kNothing) layer.all.reset();
}

/// The attention that each key of the context receives from one query, per kv head: [G, S].
std::vector<float> PolicyCache::Impl::query_mass(Layer& layer, const Tensor& q_1HK,
                                                 std::int64_t end) const {
  KvView view = layer.all->view(end);
  view.length_BG = &end;
  const Tensor start_J = one_sequence(1);
  const AttentionResult result = attention(q_1HK, start_J, view, plain(layer.spec));
  const Tensor mass_PZG = attention_mass(q_1HK, start_J, view, plain(layer.spec), result.lse_NH);
  const auto G = static_cast<std::size_t>(layer.spec.G), S = static_cast<std::size_t>(context);
  std::vector<float> mass_GS(G * S);
  const float* mass = mass_PZG.data<float>();
  for (std::size_t s = 0; s < S; ++s)
    for (std::size_t g = 0; g < G; ++g) mass_GS[g * S + s] = mass[s * G + g];
  return mass_GS;
}

/// What each query selects for each head, [N, G]; and biases, if there are any, as [N, G, S].
std::vector<Positions> PolicyCache::Impl::select(Layer& layer, const Tensor& q_NHK,
                                                 std::vector<float>& bias_NGS) {
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G, S = context;
  const std::int64_t row = layer.spec.H * layer.spec.K, part = row / G;
  const bool wants_mass = policy->observe().query_mass;
  std::vector<Positions> selected(static_cast<std::size_t>(N * G));
  std::vector<float> score(static_cast<std::size_t>(G * S)), bias(static_cast<std::size_t>(G * S));
  std::vector<std::uint8_t> biased(static_cast<std::size_t>(G));
  for (std::int64_t n = 0; n < N; ++n) {
    std::vector<float> mass_GS;
    if (wants_mass) mass_GS = query_mass(layer, q_NHK.slice(0, n, n + 1), layer.length - N + n + 1);
    thread_pool().run(G, [&](std::int64_t g) {
      HeadContext head;
      head.layer = index_of(layer);
      head.g = g;
      head.spec = &layer.spec;
      head.tokens = S;
      head.budget = budget_tokens;
      head.q_RK = {q_NHK.data<float>() + n * row + g * part, static_cast<std::size_t>(part)};
      const auto keys = static_cast<std::size_t>(S), from = static_cast<std::size_t>(g) * keys;
      if (wants_mass) head.query_mass_S = std::span(mass_GS).subspan(from, keys);
      const auto score_S = std::span(score).subspan(from, keys);
      policy->score(head, score_S);
      Positions& out = selected[static_cast<std::size_t>(n * G + g)];
      out = policy->select(head, score_S);
      check_selection(out, S, *policy);
      biased[static_cast<std::size_t>(g)] =
          policy->bias(head, out, std::span(bias).subspan(from, out.size()));
    });
    if (std::find(biased.begin(), biased.end(), 1) == biased.end()) continue;
    bias_NGS.resize(static_cast<std::size_t>(N * G * S));
    for (std::int64_t g = 0; g < G; ++g) {
      const Positions& at = selected[static_cast<std::size_t>(n * G + g)];
      for (std::size_t i = 0; i < at.size(); ++i)
        bias_NGS[static_cast<std::size_t>((n * G + g) * S + at[i])] =
            bias[static_cast<std::size_t>(g * S) + i];
    }
  }
  return selected;
}

/// Rows [first_row, …) of the step, one sequence each: a table of single slots per kv head, the
/// selected ones and then those of all tokens after the context up to the row's own.
AttentionResult PolicyCache::Impl::attend_rows(Layer& layer, const Tensor& q_NHK,
                                               std::int64_t first_row,
                                               std::span<const Positions> selected,
                                               const float* bias) const {
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G;
  std::vector<std::int64_t> length_NG(static_cast<std::size_t>(N * G));
  std::int64_t widest = 1;
  for (std::int64_t i = 0; i < N * G; ++i) {
    const auto at = static_cast<std::size_t>(i);
    length_NG[at] =
        static_cast<std::int64_t>(selected[at].size()) + first_row + i / G + 1 - context;
    widest = std::max(widest, length_NG[at]);
  }
  std::vector<std::int32_t> table(static_cast<std::size_t>(N * G * widest), -1);
  for (std::int64_t i = 0; i < N * G; ++i) {
    std::int32_t* to = table.data() + i * widest;
    const Positions& from = selected[static_cast<std::size_t>(i)];
    to = std::copy(from.begin(), from.end(), to);
    std::iota(to, table.data() + i * widest + length_NG[static_cast<std::size_t>(i)],
              static_cast<std::int32_t>(context));
  }
  KvView view = layer.all->paged_view(1);
  view.table = table.data();
  view.W = view.table_head_stride = widest;
  view.length_BG = length_NG.data();
  view.length_stride_G = 1;
  view.bias = bias;
  view.bias_heads = G;
  Tensor start_J = Tensor::empty({N + 1}, DType::kI32);
  std::iota(start_J.mutable_data<std::int32_t>(), start_J.mutable_data<std::int32_t>() + N + 1, 0);
  return attention(q_NHK, start_J, view, plain(layer.spec));
}

Tensor PolicyCache::Impl::over_selected(Layer& layer, const Tensor& q) {
  const Tensor q_NHK = q.contiguous_copy();
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G, first = layer.length - N;
  std::vector<float> bias_NGS;
  const std::vector<Positions> selected = select(layer, q_NHK, bias_NGS);
  const auto last = std::span(selected).last(static_cast<std::size_t>(G));
  layer.selected.assign(last.begin(), last.end());
  std::int64_t keys = 0;
  for (const Positions& at : last)
    keys += static_cast<std::int64_t>(at.size()) + layer.length - context;
  layer.bytes_read = keys * per_head(layer) + policy->index_bytes_read(index_of(layer));

  const AttentionResult out = attend_rows(layer, q_NHK, first, selected, nullptr);
  if (measure == Measure::kMass) layer.mass = mass_of(out.lse_NH, over_all(layer, q_NHK).lse_NH);
  if (bias_NGS.empty()) return out.out_NHU;
  // A bias belongs to a slot, not to a query: one query at a time.
  Tensor out_NHU = Tensor::empty(out.out_NHU.shape(), DType::kF32);
  const std::int64_t row = layer.spec.H * layer.spec.U;
  layer.bias.assign(static_cast<std::size_t>(layer.all->slots() * G), 0.0f);
  for (std::int64_t n = 0; n < N; ++n) {
    for (std::int64_t g = 0; g < G; ++g)
      for (std::int64_t s = 0; s < context; ++s)
        layer.bias[static_cast<std::size_t>(s * G + g)] =
            bias_NGS[static_cast<std::size_t>((n * G + g) * context + s)];
    const AttentionResult one = attend_rows(
        layer, q_NHK.slice(0, n, n + 1), first + n,
        std::span(selected).subspan(static_cast<std::size_t>(n * G), static_cast<std::size_t>(G)),
        layer.bias.data());
    std::copy_n(one.out_NHU.data<float>(), row, out_NHU.mutable_data<float>() + n * row);
  }
  return out_NHU;
}

std::int64_t PolicyCache::Impl::stored_bytes(const Layer& layer) const {
  if (!layer.kept) {
    const bool indexed = is_active(layer);
    return layer.length * layer.all->bytes_per_token() +
           (indexed ? policy->index_bytes(index_of(layer)) : 0);
  }
  return (layer.kept_tokens + layer.length - context) * layer.kept->bytes_per_token() +
         (layer.bias.empty() ? 0 : layer.kept_tokens * layer.spec.G * 4);
}

std::vector<std::int32_t> PolicyCache::selected(std::int64_t layer, std::int64_t g) const {
  const Layer& at = impl_->at(layer);
  QUIRE_CHECK(impl_->context >= 0, "nothing is selected while the document is read");
  QUIRE_CHECK(g >= 0 && g < at.spec.G, "kv head ", g, " of ", at.spec.G);
  if (!at.selected.empty()) return at.selected[static_cast<std::size_t>(g)];
  Positions out(static_cast<std::size_t>(impl_->context));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

CacheReport PolicyCache::report() const {
  CacheReport out{.tokens = impl_->length, .bytes_read = 0, .bytes_stored = bytes(), .mass = 0};
  for (const Layer& layer : impl_->layers) {
    out.bytes_read += layer.bytes_read;
    out.mass += layer.mass / static_cast<double>(impl_->layers.size());
  }
  if (!impl_->attended) out.bytes_read = out.bytes_stored;
  return out;
}

std::int64_t PolicyCache::bytes() const {
  std::int64_t sum = 0;
  for (const Layer& layer : impl_->layers) sum += impl_->stored_bytes(layer);
  return sum;
}

std::int64_t PolicyCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const Layer& layer : impl_->layers)
    sum += (layer.kept ? *layer.kept : *layer.all).bytes_per_token();
  return sum;
}

}  // namespace quire::cache

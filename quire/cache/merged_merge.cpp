#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "quire/base/thread_pool.h"
#include "quire/cache/merged_impl.h"
#include "quire/ops/attention/attention_mass.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kBiasBytes = 4;
constexpr std::int64_t kSmooth = 5;  // neighbours, as SnapKV averages

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

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

}  // namespace

KvView MergedCache::Impl::view_of_layer(MergedLayer& layer) const {
  layer.keys = keys_in(layer);
  KvView view = (layer.kept ? *layer.kept : *layer.all).view(layer.keys);
  view.length_BG = &layer.keys;
  if (layer.kept) view.bias = layer.bias.data();
  view.bias_heads = layer.spec.G;
  return view;
}

std::int64_t MergedCache::Impl::row_bytes(const MergedLayer& layer) const {
  return kv_bytes_per_token(kv, 1, layer.spec.K, layer.spec.U) + (layer.kept ? kBiasBytes : 0);
}

std::int64_t MergedCache::Impl::stored_bytes(const MergedLayer& layer) const {
  return keys_in(layer) * layer.spec.G * row_bytes(layer);
}

std::int64_t MergedCache::Impl::entries_of(const MergedLayer& layer, std::int64_t tokens) const {
  const std::int64_t row = kv_bytes_per_token(kv, 1, layer.spec.K, layer.spec.U);
  return tokens * row / (row + kBiasBytes);
}

/// The budget of a layer that is merged, after what the whole ones take more.
std::int64_t MergedCache::Impl::tokens_of_each() const {
  std::int64_t whole = 0, others = 0;
  for (const MergedLayer& layer : layers) {
    if (stands_by_distance(layer.spec)) continue;
    ++(is_whole(layer) ? whole : others);
  }
  if (others == 0) return budget_tokens;
  return (budget_tokens * (whole + others) - whole * length) / others;
}

MergeSource MergedCache::Impl::source_of(const MergedLayer& layer) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t S = keys_in(layer);
  MergeSource out{Tensor::empty({s.G, S, s.K}, DType::kF32),
                  Tensor::empty({s.G, S, s.U}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::zeros({S, s.G}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kI64),
                  {},
                  Tensor::zeros({0}, DType::kF32)};
  const KvStore& store = layer.kept ? *layer.kept : *layer.all;
  for (std::int64_t g = 0; g < s.G; ++g)
    store.widen(g, S, out.k_GSK.mutable_data<float>() + g * S * s.K,
                out.v_GSU.mutable_data<float>() + g * S * s.U);
  return out;
}

MergeSource MergedCache::Impl::reading(MergedLayer& layer) const {
  MergeSource out = source_of(layer);
  const std::int64_t G = layer.spec.G, S = layer.length;
  const KvView view = view_of_layer(layer);
  std::fill_n(out.count_GS.mutable_data<float>(), G * S, 1.0f);
  for (std::int64_t g = 0; g < G; ++g) {
    HeadContext head;
    head.g = g;
    head.spec = &layer.spec;
    head.tokens = S;
    layer.observer.tell(head, view);
    put_mass(head, options.mass, {out.mass_GS.mutable_data<float>() + g * S, at(S)});
    auto* position = out.position_GS.mutable_data<std::int64_t>() + g * S;
    std::iota(position, position + S, 0);
  }
  out.q_NHK = layer.observer.window_queries();
  out.out_NHU = layer.observer.window_outputs();
  return out;
}

MergeSource MergedCache::Impl::stream(MergedLayer& layer) const {
  MergeSource out = source_of(layer);
  const LayerSpec& s = layer.spec;
  const std::int64_t S = keys_in(layer), M = layer.count;
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

void MergedCache::Impl::merge(MergedLayer& layer, const MergeSource& from, std::int64_t M) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t before = layer.entries.dropped;
  const double before_mass = layer.entries.dropped_mass;
  MergedEntries& now = layer.entries;
  now = merge_keys(from, behind(s), options, M);
  now.dropped += before;
  now.dropped_mass += before_mass;
  layer.count = M;
  layer.kept.emplace(s, M + capacity - length, kv, KLayout::kBlocks);
  layer.kept->write(now.k_GMK.transpose(0, 1), now.v_GMU.transpose(0, 1), 0);
  now.k_GMK = now.v_GMU = {};
  layer.bias.assign(at(layer.kept->slots() * s.G), 0.0f);
  for (std::int64_t g = 0; g < s.G; ++g)
    for (std::int64_t m = 0; m < M; ++m)
      layer.bias[at(m * s.G + g)] = now.bias_GM.data<float>()[g * M + m];
  layer.all.reset();
  layer.mass_SG.clear();
}

void MergedCache::Impl::merge_all() {
  const std::int64_t each = tokens_of_each(), floor = floor_tokens(options);
  std::vector<MergedLayer*> of;
  for (MergedLayer& layer : layers) {
    if (is_whole(layer)) continue;
    of.push_back(&layer);
    const std::int64_t M = entries_of(layer, each);
    QUIRE_CHECK(M >= floor, "a budget of ", budget_tokens, " tokens of ", length, " leaves ", M,
                " entries; a merge needs at least ", floor);
  }
  thread_pool().run(static_cast<std::int64_t>(of.size()), [&](std::int64_t i) {
    MergedLayer& layer = *of[at(i)];
    const MergeSource from = reading(layer);
    const float* mass = from.mass_GS.data<float>();
    layer.mass = std::accumulate(mass, mass + from.mass_GS.elements(), 0.0);
    merge(layer, from, entries_of(layer, each));
  });
}

/// What the next merge wants to know of the queries of a step.
void MergedCache::Impl::watch(MergedLayer& layer, const Tensor& q_NHK, const Tensor& lse_NH,
                              const KvView& view) const {
  const LayerSpec& s = layer.spec;
  const Tensor mass_PZG =
      attention_mass(q_NHK, one_sequence(q_NHK.size(0)), view, behind(s), lse_NH);
  const std::size_t count = at(keys_in(layer) * s.G);
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
  for (MergedLayer& layer : layers) {
    if (!layer.kept) continue;
    merge(layer, stream(layer), layer.count);
  }
  context = length;
}

}  // namespace quire::cache

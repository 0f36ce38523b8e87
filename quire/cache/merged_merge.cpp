#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "quire/base/thread_pool.h"
#include "quire/cache/merged_impl.h"
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
  const std::span<const float> peak = head.reread_peak_S;
  if (kind == MergeMass::kReread &&
      std::any_of(peak.begin(), peak.end(), [](float x) { return x > 0; }))
    return put(peak);
  put(head.window_mass_S);
  smooth(mass_S);
  if (kind != MergeMass::kBoth) return;
  normalise(mass_S);
  std::vector<float> each(head.reading_mass_S.begin(), head.reading_mass_S.end());
  for (std::size_t s = 0; s < each.size(); ++s) each[s] /= static_cast<float>(each.size() - s);
  normalise(each);
  for (std::size_t s = 0; s < each.size(); ++s) mass_S[s] += each[s];
}

}  // namespace

MergedHead empty_head(const LayerSpec& layer, std::int64_t count, std::int64_t slots, DType kv) {
  LayerSpec one = layer;
  one.H /= one.G;
  one.G = 1;
  MergedHead head{KvStore(one, slots, kv, KLayout::kBlocks), {}, count, {}};
  head.bias.resize(at(head.store.slots()));
  return head;
}

std::int64_t MergedCache::Impl::row_bytes(const MergedLayer& layer) const {
  const bool whole = layer.kept.empty();
  return kv_bytes_per_token(kv, 1, layer.spec.K, layer.spec.U) + (whole ? 0 : kBiasBytes);
}

std::int64_t MergedCache::Impl::stored_bytes(const MergedLayer& layer) const {
  std::int64_t keys = 0;
  for (std::int64_t g = 0; g < layer.spec.G; ++g) keys += keys_in(layer, g);
  return keys * row_bytes(layer);
}

std::int64_t MergedCache::Impl::entries_of(const MergedLayer& layer, std::int64_t tokens) const {
  const std::int64_t row = kv_bytes_per_token(kv, 1, layer.spec.K, layer.spec.U);
  return tokens * row / (row + kBiasBytes);
}

/// Those that every head of a layer has, whatever the others need.
std::int64_t MergedCache::Impl::entries_even(const MergedLayer& layer, std::int64_t tokens) const {
  const std::int64_t M = entries_of(layer, tokens);
  if (options.shared == 0 || options.stream_tokens > 0) return M;
  const auto own = static_cast<std::int64_t>((1 - options.shared) * static_cast<double>(M));
  return std::clamp(std::max(own, recent_of(options, M) + options.sinks + 2), floor_tokens(options),
                    M);
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
  const std::int64_t S = keys_in(layer, 0);
  MergeSource out{Tensor::empty({s.G, S, s.K}, DType::kF32),
                  Tensor::empty({s.G, S, s.U}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kF32),
                  Tensor::zeros({S, s.G}, DType::kF32),
                  Tensor::empty({s.G, S}, DType::kI64),
                  {},
                  0,
                  {},
                  Tensor::zeros({0}, DType::kF32)};
  for (std::int64_t g = 0; g < s.G; ++g) {
    const bool whole = layer.kept.empty();
    const KvStore& store = whole ? *layer.all : layer.kept[at(g)].store;
    store.widen(whole ? g : 0, S, out.k_GSK.mutable_data<float>() + g * S * s.K,
                out.v_GSU.mutable_data<float>() + g * S * s.U);
  }
  return out;
}

Tensor MergedCache::Impl::scores(MergedLayer& layer) const {
  const std::int64_t G = layer.spec.G, S = layer.length;
  Tensor mass_GS = Tensor::empty({G, S}, DType::kF32);
  KvView view = layer.all->view(S);
  view.length_BG = &layer.length;
  for (std::int64_t g = 0; g < G; ++g) {
    HeadContext head;
    head.g = g;
    head.spec = &layer.spec;
    head.tokens = S;
    layer.observer.tell(head, view);
    put_mass(head, options.mass, {mass_GS.mutable_data<float>() + g * S, at(S)});
  }
  return mass_GS;
}

MergeSource MergedCache::Impl::reading(MergedLayer& layer, const Tensor& mass_GS) const {
  MergeSource out = source_of(layer);
  const std::int64_t G = layer.spec.G, S = layer.length;
  std::fill_n(out.count_GS.mutable_data<float>(), G * S, 1.0f);
  out.mass_GS = mass_GS;
  for (std::int64_t g = 0; g < G; ++g) {
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
  const std::int64_t S = keys_in(layer, 0), M = layer.count;
  out.size_G.assign(at(s.G), M);
  out.even = M;
  for (std::int64_t g = 0; g < s.G; ++g) {
    MergedHead& head = layer.kept[at(g)];
    head.mass.resize(at(S));
    for (std::int64_t i = 0; i < S; ++i) {
      const bool old = i < M;
      const std::int64_t to = g * S + i, from = g * M + i;
      out.mass_GS.mutable_data<float>()[to] =
          (old ? layer.entries.mass_GM.data<float>()[from] : 0) +
          static_cast<float>(head.mass[at(i)]);
      out.count_GS.mutable_data<float>()[to] = old ? layer.entries.count_GM.data<float>()[from] : 1;
      out.position_GS.mutable_data<std::int64_t>()[to] =
          old ? layer.entries.position_GM.data<std::int64_t>()[from] : context + i - M;
      out.bias_SG.mutable_data<float>()[i * s.G + g] = head.bias[at(i)];
    }
  }
  out.q_NHK = Tensor::of<float>(
      layer.queries_NHK,
      {static_cast<std::int64_t>(layer.queries_NHK.size()) / (s.H * s.K), s.H, s.K});
  return out;
}

void MergedCache::Impl::merge(MergedLayer& layer, const MergeSource& from) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t before = layer.entries.dropped;
  const double before_mass = layer.entries.dropped_mass;
  MergedEntries& now = layer.entries;
  now = merge_keys(from, behind(s), options);
  now.dropped += before;
  now.dropped_mass += before_mass;
  layer.count = now.bias_GM.size(1);
  layer.kept.clear();
  for (std::int64_t g = 0; g < s.G; ++g) {
    const std::int64_t M = from.size_G[at(g)];
    layer.kept.push_back(empty_head(s, M, M + capacity - length, kv));
    MergedHead& head = layer.kept.back();
    const auto part = [&](const Tensor& of) {
      return of.slice(0, g, g + 1).slice(1, 0, M).transpose(0, 1);
    };
    head.store.write(part(now.k_GMK), part(now.v_GMU), 0);
    std::copy_n(now.bias_GM.data<float>() + g * layer.count, M, head.bias.begin());
  }
  now.k_GMK = now.v_GMU = {};
  layer.all.reset();
}

std::vector<std::vector<std::int64_t>> MergedCache::Impl::share(std::span<MergedLayer* const> of,
                                                                std::span<const Tensor> mass_GS,
                                                                std::int64_t each) const {
  const std::int64_t S = length;
  struct Key {
    float score;
    std::int32_t layer, head;
  };
  std::vector<std::vector<std::int64_t>> size;
  std::vector<std::vector<Key>> keys(of.size());
  std::int64_t left = 0;  // bytes to share
  const auto row = [&](const MergedLayer& layer) {
    return kv_bytes_per_token(kv, 1, layer.spec.K, layer.spec.U) + kBiasBytes;
  };
  for (const MergedLayer* layer : of) {
    const std::int64_t M = entries_of(*layer, each), even = entries_even(*layer, each);
    size.emplace_back(at(layer->spec.G), even);
    left += layer->spec.G * (M - even) * row(*layer);
  }
  if (left == 0) return size;
  thread_pool().run(std::ssize(of), [&](std::int64_t l) {
    const std::int64_t M = entries_of(*of[at(l)], each);
    for (std::int64_t g = 0; g < of[at(l)]->spec.G; ++g) {
      const std::span<const float> mass(mass_GS[at(l)].data<float>() + g * S, at(S));
      std::vector<bool> has(at(S));
      for (const std::int32_t s :
           best_positions(mass, size[at(l)][at(g)], options.sinks, recent_of(options, M)))
        has[at(s)] = true;
      for (std::int64_t s = 0; s < S; ++s)
        if (!has[at(s)])
          keys[at(l)].push_back(
              {mass[at(s)], static_cast<std::int32_t>(l), static_cast<std::int32_t>(g)});
    }
  });
  std::vector<Key> all;
  for (const std::vector<Key>& some : keys) all.insert(all.end(), some.begin(), some.end());
  // Of equal ones the earlier layer, head and token; what is not a number comes last.
  std::stable_sort(all.begin(), all.end(), [](const Key& a, const Key& b) {
    return (std::isnan(a.score) ? -INFINITY : a.score) >
           (std::isnan(b.score) ? -INFINITY : b.score);
  });
  for (const Key& key : all) {
    const std::int64_t bytes = row(*of[at(key.layer)]);
    if (bytes > left) continue;
    left -= bytes;
    ++size[at(key.layer)][at(key.head)];
  }
  return size;
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
  std::vector<Tensor> mass_GS(of.size());
  thread_pool().run(std::ssize(of), [&](std::int64_t i) { mass_GS[at(i)] = scores(*of[at(i)]); });
  const std::vector<std::vector<std::int64_t>> size = share(of, mass_GS, each);
  thread_pool().run(std::ssize(of), [&](std::int64_t i) {
    MergedLayer& layer = *of[at(i)];
    MergeSource from = reading(layer, mass_GS[at(i)]);
    from.size_G = size[at(i)];
    from.even = entries_of(layer, each);
    const float* mass = from.mass_GS.data<float>();
    layer.mass = std::accumulate(mass, mass + from.mass_GS.elements(), 0.0);
    merge(layer, from);
  });
}

/// Merges the tokens after the context into its entries.
void MergedCache::Impl::go_on() {
  for (MergedLayer& layer : layers)
    if (!layer.kept.empty()) merge(layer, stream(layer));
  context = length;
}

}  // namespace quire::cache

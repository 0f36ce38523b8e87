#include "quire/cache/near.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/query_observer.h"
#include "quire/cache/steps.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/math/rope.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kPage = 64;
// Pages make room four at a time: the keys that stay then begin where partial results do, and bits
// do not depend on when it happened.
constexpr std::int64_t kRoom = 256;

/// A layer, whose near keys lie as the model turned them, in pages that all layers number alike.
struct Layer {
  LayerSpec spec;
  RopeTable turn;
  KvStore near, sinks;
  std::int64_t length = 0;  // with the tokens of the step under way
  double far_share = 0;     // of the attention of the last token
};

/// The turn alone: what scales cos and sin is in queries and keys already.
RopeSpec turn_of(RopeSpec rope) {
  if (rope.scaling == RopeScaling::kYarn) rope.attention_factor = 1;
  return rope;
}

void check_layer(const LayerSpec& s) {
  QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
              "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
  const AttentionSpec& a = s.attention;
  QUIRE_CHECK(a.window_left == kUnlimited && a.slope_H == nullptr && a.mask_TS == nullptr &&
                  a.allow_TS == nullptr,
              "positions inside the cache: a layer with a sliding window, ALiBi or a mask has "
              "its own");
  QUIRE_CHECK(s.rope.rotary > 0,
              "positions inside the cache need keys that are turned by their position");
}

std::vector<std::int64_t> counted_from(std::int64_t first, std::int64_t N) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(N));
  std::iota(out.begin(), out.end(), first);
  return out;
}

std::vector<LayerSpec> far_layers(std::vector<LayerSpec> layers) {
  for (LayerSpec& s : layers) s.attention.sink_H = nullptr;  // the near part has it
  return layers;
}

}  // namespace

struct NearCache::Impl {
  NearSpec spec;
  DType kv = DType::kF32;
  std::int64_t capacity = 0, length = 0, built = -1;  // the length at end_reading()
  std::vector<Layer> layers;
  std::unique_ptr<TieredCache> far;
  // Token begin + i of all layers is in slot i % kPage of page table[i / kPage].
  std::int64_t begin = 0;
  std::vector<std::int32_t> table, free;
  std::int32_t used = 0;  // pages that ever were in the table

  Layer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  /// How many of so many tokens are far from the query that comes next.
  std::int64_t far_of(std::int64_t tokens) const {
    return std::max<std::int64_t>(0, tokens - spec.near);
  }
  bool asks_far() const { return far != nullptr && built >= 0; }

  void make_room(std::int64_t end);
  void drop_before(std::int64_t token);
  template <class F>
  void each_piece(std::int64_t first, std::int64_t N, F&& f) const;
  void move_far(Layer& layer, std::int64_t number, std::int64_t first, std::int64_t end);
  AttentionResult near_part(const Layer& layer, const Tensor& q_NHK) const;
  AttentionResult sink_rows(const Layer& layer, const Tensor& q_NHK, std::int64_t sinks,
                            bool causal) const;
  AttentionResult sink_part(const Layer& layer, const Tensor& q_NHK, std::int64_t first) const;
  AttentionResult far_part(const Layer& layer, std::int64_t number, const Tensor& q_NHK,
                           std::int64_t first);
};

NearCache::NearCache(std::vector<LayerSpec> layers, const NearSpec& spec, std::int64_t capacity,
                     DType kv)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 30), "a cache for ", capacity,
              " tokens; it must hold at least one, and fewer than 2^30");
  QUIRE_CHECK(spec.near >= 1 && spec.near < (std::int64_t{1} << 30), "spec.near is ", spec.near,
              "; it must be at least 1");
  QUIRE_CHECK(spec.sinks >= 0 && spec.sinks < (1 << 24), "spec.sinks is ", spec.sinks);
  impl_->spec = spec;
  impl_->capacity = capacity;
  impl_->kv = kv;
  for (const LayerSpec& s : layers) {
    check_layer(s);
    std::vector<Layer>& made = impl_->layers;
    // Tables of angles are shared between layers that turn alike.
    const RopeSpec rope = turn_of(s.rope);
    const bool alike = !made.empty() && made.back().turn.spec() == rope;
    made.push_back({s, alike ? made.back().turn : RopeTable(rope),
                    KvStore(s, capacity, kv, KLayout::kBlocks),
                    KvStore(s, std::max<std::int64_t>(spec.sinks, 1), kv, KLayout::kBlocks)});
  }
  if (spec.far)
    impl_->far =
        std::make_unique<TieredCache>(far_layers(std::move(layers)), *spec.far, capacity, kv);
}

NearCache::~NearCache() = default;

std::int64_t NearCache::length() const { return impl_->length; }
std::int64_t NearCache::capacity() const { return impl_->capacity; }
const NearSpec& NearCache::spec() const { return impl_->spec; }
const TieredCache* NearCache::far() const { return impl_->far.get(); }

void NearCache::set_budget(const SearchBudget& budget) {
  QUIRE_CHECK(impl_->far, "a budget of far tokens, but they are dropped");
  impl_->far->set_budget(budget);
  impl_->spec.far->budget = budget;
}

/// Pages for all tokens before `end`.
void NearCache::Impl::make_room(std::int64_t end) {
  while (begin + std::ssize(table) * kPage < end) {
    if (free.empty()) {
      table.push_back(used++);
    } else {
      table.push_back(free.back());
      free.pop_back();
    }
  }
}

void NearCache::Impl::drop_before(std::int64_t token) {
  const std::int64_t kept = token / kRoom * kRoom;
  if (kept <= begin) return;
  const auto last = table.begin() + (kept - begin) / kPage;
  free.insert(free.end(), table.begin(), last);
  table.erase(table.begin(), last);
  begin = kept;
}

/// Calls f(token, slot, count) for stretches of tokens first … first + N − 1 that lie together.
template <class F>
void NearCache::Impl::each_piece(std::int64_t first, std::int64_t N, F&& f) const {
  for (std::int64_t token = first; token < first + N;) {
    const std::int64_t i = token - begin, at = i % kPage;
    const std::int64_t count = std::min(first + N - token, kPage - at);
    f(token, std::int64_t{table[static_cast<std::size_t>(i / kPage)]} * kPage + at, count);
    token += count;
  }
}

void NearCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Impl& impl = *impl_;
  Layer& to = impl.at(layer);
  const std::int64_t N = k_NGK.size(0), first = impl.length;
  check_room(first, N, impl.capacity);
  impl.make_room(first + N);
  impl.each_piece(first, N, [&](std::int64_t token, std::int64_t slot, std::int64_t count) {
    to.near.write(k_NGK.slice(0, token - first, token - first + count),
                  v_NGU.slice(0, token - first, token - first + count), slot);
  });
  if (const std::int64_t sinks = std::min(impl.spec.sinks - first, N); sinks > 0)
    to.sinks.write(k_NGK.slice(0, 0, sinks), v_NGU.slice(0, 0, sinks), first);
  to.length = first + N;
  impl.move_far(to, layer, impl.far_of(first), impl.far_of(first + N));
}

/// What is no longer near, unturned. From a cache of fewer bits than f32 it is rounded again.
void NearCache::Impl::move_far(Layer& layer, std::int64_t number, std::int64_t first,
                               std::int64_t end) {
  const std::int64_t N = end - first, G = layer.spec.G, K = layer.spec.K, U = layer.spec.U;
  if (far == nullptr || N == 0) return;
  Tensor k_NGK = Tensor::empty({N, G, K}, DType::kF32),
         v_NGU = Tensor::empty({N, G, U}, k_NGK.dtype());
  std::vector<float> k(static_cast<std::size_t>(kPage * K)), v(static_cast<std::size_t>(kPage * U));
  each_piece(first, N, [&](std::int64_t token, std::int64_t slot, std::int64_t count) {
    for (std::int64_t g = 0; g < G; ++g) {
      layer.near.widen(g, slot, count, k.data(), v.data());
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t row = (token - first + i) * G + g;
        std::copy_n(k.data() + i * K, K, k_NGK.mutable_data<float>() + row * K);
        std::copy_n(v.data() + i * U, U, v_NGU.mutable_data<float>() + row * U);
      }
    }
  });
  far->append(number, rope_inverse(k_NGK, layer.turn, counted_from(first, N)), v_NGU);
}

AttentionResult NearCache::Impl::near_part(const Layer& layer, const Tensor& q_NHK) const {
  AttentionSpec attention_spec = layer.spec.attention;
  attention_spec.alignment = Alignment::kBottomRight;
  if (layer.length > spec.near) attention_spec.window_left = spec.near - 1;
  const std::int64_t held = layer.length - begin;
  KvView view = layer.near.paged_view(kPage);
  view.length_BG = &held;
  view.table = table.data();
  view.W = std::ssize(table);
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, attention_spec);
}

/// To the first `sinks` sinks: all of them, or (causal) the last query to all, those before it each
/// to one less.
AttentionResult NearCache::Impl::sink_rows(const Layer& layer, const Tensor& q_NHK,
                                           std::int64_t sinks, bool causal) const {
  AttentionSpec attention_spec = layer.spec.attention;
  attention_spec.alignment = Alignment::kBottomRight;
  attention_spec.sink_H = nullptr;
  if (!causal) attention_spec.window_right = kUnlimited;
  KvView view = layer.sinks.view(sinks);
  view.length_BG = &sinks;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, attention_spec);
}

/// Queries at first, first + 1, … ≥ near, to the sinks that are not near.
AttentionResult NearCache::Impl::sink_part(const Layer& layer, const Tensor& q_NHK,
                                           std::int64_t first) const {
  const std::int64_t N = q_NHK.size(0), last_place = spec.near + spec.sinks - 1;
  AttentionResult out{Tensor::empty({N, layer.spec.H, layer.spec.U}, DType::kF32),
                      Tensor::empty({N, layer.spec.H}, DType::kF32)};
  const auto put = [&](const AttentionResult& part, std::int64_t n) {
    put_rows(part.out_NHU, out.out_NHU, n);
    put_rows(part.lse_NH, out.lse_NH, n);
  };
  // Those that stand where the text has them, and see one sink more each.
  const std::int64_t filling = std::clamp<std::int64_t>(last_place - first, 0, N);
  if (filling > 0)
    put(sink_rows(layer, q_NHK.slice(0, 0, filling), first + filling - spec.near, true), 0);
  if (filling == N) return out;
  const Tensor moved = rope_inverse(q_NHK.slice(0, filling, N), layer.turn,
                                    counted_from(first + filling - last_place, N - filling));
  put(sink_rows(layer, moved, spec.sinks, false), filling);
  return out;
}

/// Queries at first, first + 1, … ≥ near, to all tokens that are not near to them.
AttentionResult NearCache::Impl::far_part(const Layer& layer, std::int64_t number,
                                          const Tensor& q_NHK, std::int64_t first) {
  if (!asks_far()) return sink_part(layer, q_NHK, first);
  return far->attend_part(
      number, rope_inverse(q_NHK, layer.turn, counted_from(first - spec.near, q_NHK.size(0))));
}

Tensor NearCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Impl& impl = *impl_;
  Layer& at = impl.at(layer);
  const std::int64_t N = q_NHK.size(0), first = at.length - N;
  QUIRE_CHECK(first >= 0, "q_NHK has ", N, " queries, but the layer has ", at.length, " tokens");
  AttentionResult near = impl.near_part(at, q_NHK);
  const std::int64_t alone = std::clamp<std::int64_t>(impl.spec.near - first, 0, N);
  at.far_share = 0;
  if (alone == N || (!impl.asks_far() && impl.spec.sinks == 0)) return near.out_NHU;
  const AttentionResult far = impl.far_part(at, layer, q_NHK.slice(0, alone, N), first + alone);
  const AttentionResult both =
      merge_attention({near.out_NHU.slice(0, alone, N), near.lse_NH.slice(0, alone, N)}, far);
  at.far_share = mass_of(far.lse_NH, both.lse_NH);
  if (alone == 0) return both.out_NHU;
  put_rows(both.out_NHU, near.out_NHU, alone);
  return near.out_NHU;
}

void NearCache::advance(std::int64_t tokens) {
  Impl& impl = *impl_;
  const std::int64_t before = impl.length;
  impl.length = advanced(before, tokens, impl.capacity, impl.layers);
  if (impl.far) impl.far->advance(impl.far_of(impl.length) - impl.far_of(before));
  if (impl.built < 0) impl.drop_before(impl.far_of(impl.length));
}

void NearCache::truncate(std::int64_t length) {
  Impl& impl = *impl_;
  QUIRE_CHECK(length >= 0 && length <= impl.length, "truncate to ", length, ", but the cache has ",
              impl.length, " tokens");
  QUIRE_CHECK(length == 0 || length >= impl.built, "truncate to ", length, ", but the first ",
              impl.built, " tokens were read");
  QUIRE_CHECK(length == 0 || impl.far_of(length) >= impl.begin, "truncate to ", length,
              ", but the keys near to it have made room for later ones: those before token ",
              impl.begin);
  if (length == 0) {
    impl.begin = 0;
    impl.built = -1;
  }
  const auto pages = static_cast<std::size_t>((length - impl.begin + kPage - 1) / kPage);
  while (impl.table.size() > pages) {
    impl.free.push_back(impl.table.back());
    impl.table.pop_back();
  }
  impl.length = length;
  for (Layer& layer : impl.layers) layer.length = length;
  if (impl.far == nullptr) return;
  impl.far->truncate(impl.far_of(length));
  // Of a cache that is emptied, reading begins anew; this one's is over.
  if (impl.built >= 0 && impl.far->length() == 0) impl.far->build();
}

void NearCache::end_reading() {
  Impl& impl = *impl_;
  for (const Layer& layer : impl.layers)
    QUIRE_CHECK(layer.length == impl.length, "a layer holds ", layer.length,
                " tokens and the cache ", impl.length, ": a step is under way");
  impl.built = impl.length;
  if (impl.far) impl.far->build();
}

CacheReport NearCache::report() const {
  const Impl& impl = *impl_;
  CacheReport out{.tokens = impl.length, .bytes_stored = bytes()};
  const std::int64_t distant = impl.far_of(impl.length);
  out.bytes_read = (impl.length - distant) * bytes_per_token();
  if (distant == 0) return out;
  const auto L = static_cast<double>(std::max<std::size_t>(impl.layers.size(), 1));
  double share = 0;
  for (const Layer& layer : impl.layers) share += layer.far_share / L;
  if (impl.asks_far()) {
    const CacheReport far = impl.far->report();
    out.bytes_read += far.bytes_read;
    out.mass = 1 - share * (1 - far.mass);
  } else {
    out.bytes_read += std::min(distant, impl.spec.sinks) * bytes_per_token();
  }
  return out;
}

std::int64_t NearCache::bytes() const {
  const Impl& impl = *impl_;
  const std::int64_t held = impl.length - impl.begin + std::min(impl.length, impl.spec.sinks);
  return held * bytes_per_token() + (impl.far ? impl.far->bytes() : 0);
}

std::int64_t NearCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const Layer& layer : impl_->layers) sum += layer.near.bytes_per_token();
  return sum;
}

}  // namespace quire::cache

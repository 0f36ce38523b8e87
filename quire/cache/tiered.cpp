#include "quire/cache/tiered.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/cache/steps.h"
#include "quire/cache/tiered_impl.h"

namespace quire::cache {
namespace {

/// Scores of these depend on where a key stands beside the query, or on a mask of all keys.
bool is_left_whole(const AttentionSpec& spec) {
  return spec.window_left != kUnlimited || spec.slope_H != nullptr || spec.mask_TS != nullptr ||
         spec.allow_TS != nullptr;
}

void check_spec(const TieredSpec& spec) {
  const auto is_zone = [](std::int64_t n) { return n >= 0 && n < (1 << 24) && n % 16 == 0; };
  QUIRE_CHECK(is_zone(spec.sinks), "spec.sinks is ", spec.sinks, "; it must be a multiple of 16");
  QUIRE_CHECK(is_zone(spec.staging) && spec.staging > 0, "spec.staging is ", spec.staging,
              "; it must be a multiple of 16, and not 0");
  QUIRE_CHECK(spec.recent >= 1 && spec.recent < (1 << 24), "spec.recent is ", spec.recent,
              "; it must be at least 1");
  QUIRE_CHECK(spec.shortlist >= 1 && spec.shortlist <= (1 << 20), "spec.shortlist is ",
              spec.shortlist, "; it may be 1 to 2^20");
  QUIRE_CHECK(spec.own_values >= 0 && spec.own_values <= 1, "spec.own_values is ", spec.own_values,
              "; it may be 0 to 1");
  QUIRE_CHECK(spec.opened >= 0 && spec.two_levels_from >= 0, "spec.opened is ", spec.opened,
              " and spec.two_levels_from ", spec.two_levels_from);
  QUIRE_CHECK(spec.clusters.tokens_per_cluster >= 1 && spec.clusters.largest >= 1,
              "spec.clusters.tokens_per_cluster is ", spec.clusters.tokens_per_cluster,
              " and .largest ", spec.clusters.largest);
  check_budget(spec.budget);
}

}  // namespace

void check_budget(const SearchBudget& budget) {
  const int given = (budget.tokens >= 0 ? 1 : 0) + (budget.fraction >= 0 ? 1 : 0) +
                    (budget.mass >= 0 ? 1 : 0) + (budget.read >= 0 ? 1 : 0);
  QUIRE_CHECK(given == 1,
              "a budget is given as tokens, as a fraction, as a mass or as a share of "
              "bytes read; ",
              given, " of them are");
  for (const double share : {budget.fraction, budget.mass, budget.read})
    QUIRE_CHECK(share < 0 || (share > 0 && share <= 1), "a budget of ", share,
                "; it must be above 0 and at most 1");
  QUIRE_CHECK(budget.min_tokens >= 0 && budget.max_tokens >= budget.min_tokens, "a budget of ",
              budget.min_tokens, " to ", budget.max_tokens, " tokens");
}

TieredCache::TieredCache(std::vector<LayerSpec> layers, const TieredSpec& spec,
                         std::int64_t capacity, DType kv)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 30), "a cache for ", capacity,
              " tokens; it must hold at least one, and fewer than 2^30");
  QUIRE_CHECK(kv == DType::kF32 || kv == DType::kF16 || kv == DType::kBF16 || kv == DType::kI8,
              "a cache of ", to_string(kv), "; it may be f32, bf16, f16 or i8");
  check_spec(spec);
  impl_->spec = spec;
  impl_->capacity = capacity;
  impl_->kv = kv;
  if (TieredPages::needs_tier(layers, capacity, kv, spec.memory))
    impl_->disk = std::make_unique<TieredPages>(layers, capacity, kv, spec.memory);
  for (const LayerSpec& s : layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
                "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
    TieredLayer layer{s, TokenRows(s, capacity, kv), {}};
    if (!is_left_whole(s.attention))
      layer.index.emplace(s, capacity, spec.staging, kv, spec.clusters);
    impl_->layers.push_back(std::move(layer));
  }
}

TieredCache::~TieredCache() = default;

void TieredCache::check_memory(const std::vector<LayerSpec>& layers, std::int64_t capacity,
                               DType kv, const MemoryLimit& memory) {
  static_cast<void>(TieredPages::needs_tier(layers, capacity, kv, memory));
}

std::optional<TierCounts> TieredCache::tier_counts() const {
  if (impl_->disk == nullptr) return std::nullopt;
  return impl_->disk->counts();
}

std::int64_t TieredCache::length() const { return impl_->length; }
std::int64_t TieredCache::capacity() const { return impl_->capacity; }
const TieredSpec& TieredCache::spec() const { return impl_->spec; }

void TieredCache::set_budget(const SearchBudget& budget) {
  check_budget(budget);
  impl_->spec.budget = budget;
}

void TieredCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  TieredLayer& to = impl_->at(layer);
  const std::int64_t N = k_NGK.size(0);
  check_room(impl_->length, N, impl_->capacity);
  impl_->write(to, k_NGK, v_NGU);
  to.length = impl_->length + N;
}

void TieredCache::advance(std::int64_t tokens) {
  impl_->length = advanced(impl_->length, tokens, impl_->capacity, impl_->layers);
}

void TieredCache::truncate(std::int64_t length) {
  Impl& impl = *impl_;
  QUIRE_CHECK(length >= 0 && length <= impl.length, "truncate to ", length, ", but the cache has ",
              impl.length, " tokens");
  QUIRE_CHECK(length >= impl.built || length == 0, "truncate to ", length, ", but the first ",
              impl.built, " tokens were read and indexed");
  if (length == 0) impl.built = -1;
  for (TieredLayer& layer : impl.layers) {
    // Stretches of tokens that would be recent had they never gone on; those of build() stay.
    if (layer.index)
      impl.drop_behind(layer, std::max<std::int64_t>(length - impl.spec.recent, 0), length == 0);
    layer.length = length;
  }
  impl.length = length;
  if (impl.disk) impl.disk->forget_from(length);
}

bool TieredCache::recover() {
  Impl& impl = *impl_;
  if (impl.disk == nullptr) return false;
  // Where an index was begun, a page is no stretch of the text any more.
  for (const TieredLayer& layer : impl.layers)
    if (layer.indexed() >= 0) return false;
  const std::optional<std::int64_t> lost = impl.disk->take_lost();
  if (!lost) return false;
  truncate(std::min(impl.length, *lost));
  return true;
}

std::vector<std::byte> TieredCache::layer_bytes(std::int64_t layer) const {
  const TieredLayer& at = impl_->at(layer);
  QUIRE_CHECK(impl_->built == impl_->length && at.length == impl_->length, "a cache of ",
              impl_->length, " tokens, ", impl_->built, " of which were read and indexed: what ",
              "came after cannot be saved");
  return impl_->rows_of(at);
}

void TieredCache::restore(std::int64_t length, const LayerBytes& layer) {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.length == 0, "the cache holds ", impl.length, " tokens already");
  check_room(0, length, impl.capacity);
  try {
    for (TieredLayer& at : impl.layers) {
      const std::vector<std::byte> bytes = layer(impl.number_of(at));
      QUIRE_CHECK(std::ssize(bytes) == length * at.rows.bytes_per_token(), "layer ",
                  impl.number_of(at), " has ", bytes.size(), " bytes for ", length, " tokens");
      impl.set_rows(at, bytes, length);
      at.length = length;
    }
    impl.length = length;
    build();
  } catch (...) {
    impl.length = std::max<std::int64_t>(impl.length, 0);
    truncate(0);
    throw;
  }
}

void TieredCache::Impl::check_between_steps() const {
  for (const TieredLayer& layer : layers)
    QUIRE_CHECK(layer.length == length, "a layer holds ", layer.length, " tokens and the cache ",
                length, ": a step is under way");
}

void TieredCache::Impl::index_up_to(TieredLayer& layer, std::int64_t end) {
  index_stretch(layer, layer.indexed() < 0 ? spec.sinks : layer.indexed(), end);
}

void TieredCache::Impl::follow(TieredLayer& layer, std::int64_t end) {
  if (built < 0 || !layer.index) return;
  for (;;) {
    const std::int64_t begin = layer.indexed() < 0 ? spec.sinks : layer.indexed();
    if (begin + spec.staging > end - spec.recent) return;
    index_up_to(layer, begin + spec.staging);
  }
}

void TieredCache::build() {
  Impl& impl = *impl_;
  impl.check_between_steps();
  for (TieredLayer& layer : impl.layers) {
    if (!layer.index) continue;
    const std::int64_t begin = layer.indexed() < 0 ? impl.spec.sinks : layer.indexed();
    const std::int64_t end = (impl.length - impl.spec.recent) / 16 * 16;
    if (end - begin >= impl.spec.staging) impl.index_up_to(layer, end);
  }
  impl.built = impl.length;
  impl.offloaded = impl.offloaded || impl.disk;
  impl.attended = false;
}

void TieredCache::offload() {
  impl_->check_between_steps();
  impl_->offloaded = true;
  if (impl_->disk) return;
  for (TieredLayer& layer : impl_->layers) {
    const std::int64_t end = layer.indexed();
    if (end > layer.rows.out_end()) layer.rows.move_out(impl_->spec.sinks, end);
  }
}

void TieredCache::reload() {
  impl_->check_between_steps();
  impl_->offloaded = false;
  if (impl_->disk) return;
  for (TieredLayer& layer : impl_->layers) layer.rows.move_back(0);
}

TieredZones TieredCache::Impl::zones(const TieredLayer& layer, std::int64_t at) const {
  TieredZones out;
  const std::int64_t indexed = layer.indexed();
  out.sink = std::min(at, spec.sinks);
  out.context = indexed < 0 ? 0 : indexed - spec.sinks;
  out.recent = std::min(at - out.sink - out.context, spec.recent);
  out.staging = at - out.sink - out.context - out.recent;
  return out;
}

TieredZones TieredCache::zones(std::int64_t layer) const {
  const TieredLayer& at = impl_->at(layer);
  return impl_->zones(at, at.length);
}

TieredFigures TieredCache::figures() const {
  TieredFigures out;
  out.mass_exact = 0;
  bool seen = false;
  const auto L = static_cast<double>(std::max<std::size_t>(impl_->layers.size(), 1));
  for (const TieredLayer& layer : impl_->layers) {
    if (!seen && layer.index) out.zones = impl_->zones(layer, layer.length);
    seen = seen || layer.index.has_value();
    for (std::int64_t g = 0; layer.index && g < layer.spec.G; ++g)
      out.clusters += layer.index->clusters_of(g);
    out.selected += layer.selected;
    out.estimated += layer.estimated;
    out.bytes_hot += layer.bytes_hot;
    out.bytes_slow += layer.bytes_slow;
    out.bytes_index += layer.bytes_index;
    const std::int64_t moved = impl_->disk ? std::max<std::int64_t>(layer.indexed(), 0)
                                           : layer.rows.out_end() - layer.rows.out_begin();
    out.bytes_offloaded += moved * layer.rows.bytes_per_token();
    out.mass_exact += layer.mass_exact / L;
    out.mass_estimated += layer.mass_estimated / L;
  }
  return out;
}

CacheReport TieredCache::report() const {
  const TieredFigures at = figures();
  CacheReport out{.tokens = impl_->length,
                  .bytes_read = at.bytes_hot + at.bytes_slow + at.bytes_index,
                  .bytes_stored = bytes(),
                  .mass = at.mass_exact};
  if (!impl_->attended) out.bytes_read = out.bytes_stored;
  return out;
}

std::int64_t TieredCache::bytes() const {
  std::int64_t sum = 0;
  for (const TieredLayer& layer : impl_->layers)
    sum += layer.length * layer.rows.bytes_per_token() + (layer.index ? layer.index->bytes() : 0);
  return sum;
}

std::int64_t TieredCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const TieredLayer& layer : impl_->layers) sum += layer.rows.bytes_per_token();
  return sum;
}

}  // namespace quire::cache

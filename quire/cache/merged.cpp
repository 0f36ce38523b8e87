#include "quire/cache/merged.h"

#include <cmath>
#include <utility>

#include "quire/cache/merged_impl.h"
#include "quire/cache/policy_cache_impl.h"
#include "quire/cache/steps.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

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
  QUIRE_CHECK(o.shared >= 0 && o.shared <= 1, "shared is ", o.shared, "; it is a share, 0 to 1");
  QUIRE_CHECK(o.recent_share >= 0 && o.recent_share <= 1, "recent_share is ", o.recent_share,
              "; it is a share, 0 to 1");
  QUIRE_CHECK(o.reread >= 1 && o.reread < (std::int64_t{1} << 31), "reread is ", o.reread,
              "; a piece has at least 1 token");
  QUIRE_CHECK(o.ridge >= 0 && std::isfinite(o.ridge), "ridge is ", o.ridge);
  QUIRE_CHECK(o.count_cap == 0 || o.count_cap >= 1, "count_cap is ", o.count_cap);
  QUIRE_CHECK(o.weights != MergeWeights::kCosine || o.groups == MergeGroups::kKept,
              "weights by cosine need kept keys that it is the cosine to");
}

}  // namespace

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
  const Observe observed = observe();
  for (LayerSpec& s : layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
                "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
    MergedLayer layer{s, {}, {}, QueryObserver(s, observed), 0, {}, 0, 0, {}, 0};
    layer.all.emplace(s, capacity, kv, KLayout::kRows);
    impl_->layers.push_back(std::move(layer));
  }
}

MergedCache::~MergedCache() = default;

std::int64_t MergedCache::floor_tokens(const MergeOptions& options) {
  return options.sinks + options.recent + 2;
}

void MergedCache::take_over(const PolicyCache& other) {
  const PolicyCache::Impl& from = *other.impl_;
  Impl& impl = *impl_;
  QUIRE_CHECK(from.context < 0 && impl.length == 0 && impl.context < 0, "a cache of ", impl.length,
              " tokens takes over what another has read; it must be empty, and that reading not "
              "have ended");
  QUIRE_CHECK(impl.kv == from.kv && impl.layers.size() == from.layers.size(), "a cache of ",
              impl.layers.size(), " layers of ", to_string(impl.kv), " takes over ",
              from.layers.size(), " layers of ", to_string(from.kv));
  QUIRE_CHECK(from.length <= impl.capacity, "a cache for ", impl.capacity, " tokens takes over ",
              from.length);
  std::vector<QueryObserver> observers;
  for (std::size_t i = 0; i < from.layers.size(); ++i) {
    const LayerSpec &a = from.layers[i].spec, &b = impl.layers[i].spec;
    QUIRE_CHECK(a.H == b.H && a.G == b.G && a.K == b.K && a.U == b.U, "layer ", i,
                " has other heads than that of the cache that has read");
    QUIRE_CHECK(from.layers[i].length == from.length, "a cache is copied between steps only");
    observers.push_back(from.layers[i].observer.narrowed(observe()));
  }
  for (std::size_t i = 0; i < from.layers.size(); ++i) {
    impl.layers[i].all->copy(*from.layers[i].all, from.length);
    impl.layers[i].length = from.length;
    impl.layers[i].observer = std::move(observers[i]);
  }
  impl.reread = observe().reread > 0 ? from.reread : 0;
  impl.length = from.length;
}

Observe MergedCache::observe() const {
  const MergeOptions& o = impl_->options;
  const bool twice = o.mass == MergeMass::kReread;
  return {.reading_mass = o.mass == MergeMass::kReading || o.mass == MergeMass::kBoth,
          .window = o.probes,
          .reread = twice ? o.reread : 0};
}

std::int64_t MergedCache::length() const { return impl_->length; }
DType MergedCache::kv() const { return impl_->kv; }
std::int64_t MergedCache::capacity() const { return impl_->capacity; }
const MergeOptions& MergedCache::options() const { return impl_->options; }
std::int64_t MergedCache::context() const { return impl_->context; }
std::int64_t MergedCache::budget_tokens() const { return impl_->budget_tokens; }
std::int64_t MergedCache::entries(std::int64_t layer, std::int64_t g) const {
  const MergedLayer& of = impl_->merged_at(layer);
  QUIRE_CHECK(g >= 0 && g < of.spec.G, "kv head ", g, " of ", of.spec.G);
  return of.kept[at(g)].count;
}
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
  MergedLayer& to = impl_->layer_at(layer);
  const std::int64_t N = k_NGK.size(0);
  check_room(impl_->length, N, impl_->capacity);
  if (to.kept.empty())
    to.all->write(k_NGK, v_NGU, impl_->length);
  else
    impl_->put_kept(to, k_NGK, v_NGU);
  to.length = impl_->length + N;
}

Tensor MergedCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  MergedLayer& from = impl_->layer_at(layer);
  const std::int64_t N = q_NHK.size(0);
  from.bytes_read = impl_->stored_bytes(from);
  if (!from.kept.empty()) return impl_->attend_merged(from, q_NHK);
  KvView view = from.all->view(from.length);
  view.length_BG = &from.length;
  const AttentionResult out = attention(q_NHK, one_sequence(N), view, behind(from.spec));
  if (N == 0 || stands_by_distance(from.spec)) return out.out_NHU;
  if (impl_->reread_at >= 0)
    from.observer.see_again(q_NHK, out.lse_NH, view, impl_->reread_at);
  else if (impl_->context < 0)
    from.observer.see(q_NHK, out.lse_NH, view, from.length - N);
  return out.out_NHU;
}

void MergedCache::advance(std::int64_t tokens) {
  Impl& impl = *impl_;
  const std::int64_t length = advanced(impl.length, tokens, impl.capacity, impl.layers);
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
    for (MergedLayer& layer : impl.layers) layer.observer.clear();
  impl.length = length;
  for (MergedLayer& layer : impl.layers) {
    layer.length = length;
    for (MergedHead& head : layer.kept) {
      const std::size_t keys = at(head.count + length - impl.context);
      if (head.mass.size() > keys) head.mass.resize(keys);
    }
  }
}

std::int64_t MergedCache::reread_tokens() const {
  return impl_->context < 0 ? observe().reread : 0;
}

void MergedCache::begin_reread() { begin_second_reading(*impl_, reread_tokens()); }

void MergedCache::end_reread() { end_second_reading(*impl_); }

void MergedCache::end_reading() {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.context < 0, "reading has ended before, after ", impl.context, " tokens");
  QUIRE_CHECK(impl.reread_at < 0, "reading cannot end within a second reading");
  for (const MergedLayer& layer : impl.layers)
    QUIRE_CHECK(layer.length == impl.length, "reading cannot end within a step");
  const std::int64_t tokens = impl.budget.of(impl.length);
  impl.budget_tokens = tokens;
  if (tokens < impl.length) impl.merge_all();
  impl.context = impl.length;
  for (MergedLayer& layer : impl.layers) {
    layer.observer.clear();
    layer.bytes_read = impl.stored_bytes(layer);
  }
}

CacheReport MergedCache::report() const {
  CacheReport out{.tokens = impl_->length,
                  .bytes_read = 0,
                  .bytes_stored = bytes(),
                  .mass = 0,
                  .reread = impl_->reread};
  for (const MergedLayer& layer : impl_->layers) {
    out.bytes_read += layer.bytes_read;
    const double lost = layer.mass > 0 ? layer.entries.dropped_mass / layer.mass : 0;
    out.mass += (1 - lost) / static_cast<double>(impl_->layers.size());
  }
  return out;
}

std::int64_t MergedCache::bytes() const {
  std::int64_t sum = 0;
  for (const MergedLayer& layer : impl_->layers) sum += impl_->stored_bytes(layer);
  return sum;
}

std::int64_t MergedCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const MergedLayer& layer : impl_->layers) sum += layer.spec.G * impl_->row_bytes(layer);
  return sum;
}

}  // namespace quire::cache

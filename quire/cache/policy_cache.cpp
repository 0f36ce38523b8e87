#include "quire/cache/policy_cache.h"

#include <numeric>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/policy_cache_impl.h"
#include "quire/cache/steps.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {

PolicyCache::PolicyCache(std::vector<LayerSpec> layers, std::unique_ptr<Policy> policy,
                         Budget budget, std::int64_t capacity, DType kv, Measure measure)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(policy != nullptr, "a cache without a policy");
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 31), "a cache for ", capacity,
              " tokens; it must hold at least one, and fewer than 2^31");
  QUIRE_CHECK(stores_kv(kv), "a cache of ", to_string(kv), "; it may be ", kv_formats());
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
    PolicyLayer layer{s, {}, {}, 0, {}, QueryObserver(s, observe), 0, {}, 0, 1};
    layer.all.emplace(s, capacity, kv, KLayout::kRows);
    impl_->layers.push_back(std::move(layer));
  }
}

PolicyCache::~PolicyCache() = default;

std::unique_ptr<PolicyCache> PolicyCache::with(std::unique_ptr<Policy> policy, Budget budget,
                                               Measure measure) const {
  std::vector<LayerSpec> layers;
  for (const PolicyLayer& layer : impl_->layers) layers.push_back(layer.spec);
  auto out = std::make_unique<PolicyCache>(std::move(layers), std::move(policy), budget,
                                           impl_->capacity, impl_->kv, measure);
  out->take_over(*this);
  return out;
}

void PolicyCache::take_over(const PolicyCache& other) {
  const Impl& from = *other.impl_;
  QUIRE_CHECK(from.context < 0,
              "reading has ended; another policy can only begin where it has "
              "not");
  QUIRE_CHECK(impl_->length == 0 && impl_->context < 0, "a cache of ", impl_->length,
              " tokens takes over what another has read; it must be empty");
  QUIRE_CHECK(impl_->kv == from.kv && impl_->layers.size() == from.layers.size(), "a cache of ",
              impl_->layers.size(), " layers of ", to_string(impl_->kv), " takes over ",
              from.layers.size(), " layers of ", to_string(from.kv));
  QUIRE_CHECK(from.length <= impl_->capacity, "a cache for ", impl_->capacity,
              " tokens takes over ", from.length);
  const Observe observe = impl_->policy->observe();
  std::vector<QueryObserver> observers;
  for (std::size_t i = 0; i < from.layers.size(); ++i) {
    const LayerSpec &a = from.layers[i].spec, &b = impl_->layers[i].spec;
    QUIRE_CHECK(a.H == b.H && a.G == b.G && a.K == b.K && a.U == b.U, "layer ", i,
                " has other heads than that of the cache that has read");
    QUIRE_CHECK(from.layers[i].length == from.length, "a cache is copied between steps only");
    observers.push_back(from.layers[i].observer.narrowed(observe));
  }
  for (std::size_t i = 0; i < from.layers.size(); ++i) {
    PolicyLayer& to = impl_->layers[i];
    to.all->copy(*from.layers[i].all, from.length);
    to.length = from.length;
    to.observer = std::move(observers[i]);
  }
  impl_->reread = observe.reread > 0 ? from.reread : 0;
  impl_->length = from.length;
}

std::int64_t PolicyCache::length() const { return impl_->length; }
std::int64_t PolicyCache::capacity() const { return impl_->capacity; }
const Policy& PolicyCache::policy() const { return *impl_->policy; }
DType PolicyCache::kv() const { return impl_->kv; }
std::int64_t PolicyCache::context() const { return impl_->context; }
std::int64_t PolicyCache::budget_tokens() const { return impl_->budget_tokens; }

void PolicyCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  PolicyLayer& to = impl_->at(layer);
  const std::int64_t N = k_NGK.size(0);
  check_room(impl_->length, N, impl_->capacity);
  if (to.all) to.all->write(k_NGK, v_NGU, impl_->length);
  if (to.kept) to.kept->write(k_NGK, v_NGU, to.kept_tokens + impl_->length - impl_->context);
  to.length = impl_->length + N;
}

Tensor PolicyCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  PolicyLayer& at = impl_->at(layer);
  const bool active = impl_->is_active(at);
  if (q_NHK.size(0) == 0) return impl_->over_all(at, q_NHK).out_NHU;
  impl_->attended = impl_->context >= 0;
  if (active && at.kept) return impl_->over_what_was_kept(at, q_NHK);
  if (active) return impl_->over_selected(at, q_NHK);
  at.bytes_read = at.length * at.all->bytes_per_token();
  const AttentionResult out = impl_->over_all(at, q_NHK);
  if (impl_->context < 0 && !by_distance(at.spec)) {
    KvView view = at.all->view(at.length);
    view.length_BG = &at.length;
    if (impl_->reread_at >= 0)
      at.observer.see_again(q_NHK, out.lse_NH, view, impl_->reread_at);
    else
      at.observer.see(q_NHK, out.lse_NH, view, at.length - q_NHK.size(0));
  }
  return out.out_NHU;
}

void PolicyCache::advance(std::int64_t tokens) {
  impl_->length = advanced(impl_->length, tokens, impl_->capacity, impl_->layers);
}

void PolicyCache::truncate(std::int64_t length) {
  QUIRE_CHECK(length >= 0 && length <= impl_->length, "truncate to ", length,
              ", but the cache has ", impl_->length, " tokens");
  QUIRE_CHECK(length >= impl_->context, "truncate to ", length, ", but the first ", impl_->context,
              " tokens were read and compressed");
  const Observe observe = impl_->policy->observe();
  const bool observed =
      observe.moments || observe.reading_mass || observe.window > 0 || observe.reread > 0;
  const bool reading = impl_->context < 0;
  QUIRE_CHECK(!reading || !observed || length == 0 || length == impl_->length, "truncate to ",
              length, ", but ", impl_->policy->name(), " has seen the queries of ", impl_->length,
              " tokens");
  if (reading && length == 0)
    for (PolicyLayer& layer : impl_->layers) layer.observer.clear();
  impl_->length = length;
  for (PolicyLayer& layer : impl_->layers) layer.length = length;
}

std::int64_t PolicyCache::reread_tokens() const {
  return impl_->context < 0 ? impl_->policy->observe().reread : 0;
}

void PolicyCache::begin_reread() { begin_second_reading(*impl_, reread_tokens()); }

void PolicyCache::end_reread() { end_second_reading(*impl_); }

void PolicyCache::end_reading() {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.context < 0, "reading has ended before, after ", impl.context, " tokens");
  QUIRE_CHECK(impl.reread_at < 0, "reading cannot end within a second reading");
  for (const PolicyLayer& layer : impl.layers)
    QUIRE_CHECK(layer.length == impl.length, "reading cannot end within a step");
  if (impl.budget.read > 0 && impl.budget.read < 1)
    impl.take_read_budget();
  else
    impl.take_budget(impl.budget.of(impl.length));
  for (PolicyLayer& layer : impl.layers) layer.observer.clear();
}

std::vector<std::int32_t> PolicyCache::selected(std::int64_t layer, std::int64_t g) const {
  const PolicyLayer& at = impl_->at(layer);
  QUIRE_CHECK(impl_->context >= 0, "nothing is selected while the document is read");
  QUIRE_CHECK(g >= 0 && g < at.spec.G, "kv head ", g, " of ", at.spec.G);
  if (!at.selected.empty()) return at.selected[static_cast<std::size_t>(g)];
  Positions out(static_cast<std::size_t>(impl_->context));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

CacheReport PolicyCache::report() const {
  CacheReport out{.tokens = impl_->length,
                  .bytes_read = 0,
                  .bytes_stored = bytes(),
                  .mass = 0,
                  .reread = impl_->reread};
  for (const PolicyLayer& layer : impl_->layers) {
    out.bytes_read += layer.bytes_read;
    out.mass += layer.mass / static_cast<double>(impl_->layers.size());
  }
  if (!impl_->attended) out.bytes_read = out.bytes_stored;
  return out;
}

std::int64_t PolicyCache::bytes() const {
  std::int64_t sum = 0;
  for (const PolicyLayer& layer : impl_->layers) sum += impl_->stored_bytes(layer);
  return sum;
}

std::int64_t PolicyCache::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const PolicyLayer& layer : impl_->layers)
    sum += (layer.kept ? *layer.kept : *layer.all).bytes_per_token();
  return sum;
}

std::int64_t PolicyCache::Impl::stored_bytes(const PolicyLayer& layer) const {
  if (!layer.kept) {
    const bool indexed = is_active(layer);
    return layer.length * layer.all->bytes_per_token() +
           (indexed ? policy->index_bytes(index_of(layer)) : 0);
  }
  return (layer.kept_tokens + layer.length - context) * layer.kept->bytes_per_token() +
         (layer.bias.empty() ? 0 : layer.kept_tokens * layer.spec.G * 4);
}

}  // namespace quire::cache

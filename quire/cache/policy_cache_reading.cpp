#include <cmath>

#include "quire/base/error.h"
#include "quire/cache/policy_cache_impl.h"

namespace quire::cache {

void check_selection(const Positions& at, std::int64_t context, const Policy& policy) {
  std::int64_t before = -1;
  for (const std::int32_t x : at) {
    QUIRE_CHECK(x > before && x < context, "the policy ", policy.name(), " selects position ", x,
                " after ", before, " of a context of ", context,
                "; positions must ascend and lie inside");
    before = x;
  }
}

void PolicyCache::Impl::take_budget(std::int64_t tokens) {
  const std::int64_t floor = policy->floor_tokens();
  QUIRE_CHECK(tokens >= std::min(floor, length), "a budget of ", tokens, " tokens (",
              budget.fraction * 100, " % of ", length, "); ", policy->name(), " needs at least ",
              floor);
  context = length;
  budget_tokens = tokens;
  decide_all();
}

/// What the index takes is known when it was built: tokens get what that leaves of the bytes.
void PolicyCache::Impl::take_read_budget() {
  QUIRE_CHECK(policy->shared_by_group(), "a budget of bytes read: what ", policy->name(),
              " reads is what the heads of a group selected together, and only a step tells that");
  context = length;
  budget_tokens = 0;
  const bool builds = policy->decide() == Decide::kEachStep;
  if (builds) decide_all();
  double full = 0, fixed = 0, row = 0;
  for (const PolicyLayer& layer : layers) {
    const auto token = static_cast<double>(layer.all->bytes_per_token());
    full += token * static_cast<double>(context);
    if (is_active(layer)) {
      row += token;
      fixed += static_cast<double>(policy->index_bytes_read(index_of(layer)));
    } else {
      fixed += token * static_cast<double>(context);
    }
  }
  const double left = row > 0 ? (budget.read * full - fixed) / row : 0;
  const auto floor = static_cast<double>(std::min(policy->floor_tokens(), context));
  if (left < floor) {
    context = budget_tokens = -1;
    throw ArgumentError(concat("a step of ", policy->name(), " reads at least ",
                               std::ceil((fixed + floor * row) / full * 1000) / 10,
                               " % of the bytes here, and the budget is ", budget.read * 100,
                               " %"));
  }
  budget_tokens = std::min(static_cast<std::int64_t>(left), context);
  if (!builds) decide_all();
}

void PolicyCache::Impl::decide_all() {
  for (PolicyLayer& layer : layers) {
    layer.bytes_read = layer.length * layer.all->bytes_per_token();
    if (is_active(layer)) decide(layer);
  }
}

void PolicyCache::Impl::decide(PolicyLayer& layer) {
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

void PolicyCache::Impl::keep(PolicyLayer& layer, const std::vector<Positions>& selected,
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

}  // namespace quire::cache

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

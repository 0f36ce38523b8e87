#include "quire/cache/policies/policies.h"

#include <utility>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/merged.h"

namespace quire::cache {
namespace {

struct Named {
  std::string_view name;
  std::unique_ptr<Policy> (*make)();
};

constexpr Named kPolicies[] = {
    {"full", [] { return full_policy(); }},
    {"int8", [] { return full_policy(); }},
    {"int8row", [] { return full_policy(); }},
    {"int4", [] { return full_policy(); }},
    {"int4h", [] { return full_policy(); }},
    {"window", [] { return window_policy(); }},
    {"oracle", [] { return oracle_policy(); }},
    {"random", [] { return random_policy(); }},
    {"quest", [] { return quest_policy(); }},
    {"quest_heads", [] { return quest_policy({.pages = QuestPages::kOfHead}); }},
    {"h2o", [] { return h2o_policy(); }},
    {"snapkv", [] { return snapkv_policy(); }},
    {"kvzip", [] { return kvzip_policy(); }},
    {"expected_attention", [] { return expected_attention_policy(); }},
    {"retroinfer", [] { return retroinfer_policy(); }},
    {"multipole", [] { return multipole_policy(); }},
    {"vattention", [] { return vattention_policy(); }},
};

DType stored_as(std::string_view name, DType kv) {
  return name == "int8"      ? DType::kI8H
         : name == "int8row" ? DType::kI8
         : name == "int4"    ? DType::kI4
         : name == "int4h"   ? DType::kI4H
                             : kv;
}

}  // namespace

bool keeps_everything(std::string_view name) {
  return name == "full" || stored_as(name, DType::kF32) != DType::kF32;
}

const std::vector<std::string>& policy_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const Named& policy : kPolicies) out.emplace_back(policy.name);
    return out;
  }();
  return names;
}

std::unique_ptr<Policy> make_policy(std::string_view name) {
  std::string known;
  for (const Named& policy : kPolicies) {
    if (policy.name == name) return policy.make();
    known += known.empty() ? "" : ", ";
    known += policy.name;
  }
  throw ArgumentError(concat("there is no cache policy '", name, "'; there are ", known));
}

std::unique_ptr<KvCache> make_policy_cache(std::string_view name, const Budget& budget,
                                           std::vector<LayerSpec> layers, std::int64_t capacity,
                                           DType kv, Measure measure) {
  static_cast<void>(budget.of(capacity));
  if (keeps_everything(name))
    return std::make_unique<ContiguousCache>(std::move(layers), capacity, stored_as(name, kv));
  if (is_merge_name(name))
    return std::make_unique<MergedCache>(std::move(layers), merge_options(name), budget, capacity,
                                         kv);
  return std::make_unique<PolicyCache>(std::move(layers), make_policy(name), budget, capacity, kv,
                                       measure);
}

}  // namespace quire::cache

#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/merged.h"

namespace quire::cache {
namespace {

MergeOptions keeping(double threshold, MergeWeights weights, MergeBias bias) {
  MergeOptions out;
  out.groups = MergeGroups::kKept;
  out.mass = MergeMass::kRecent;
  out.threshold = threshold;
  out.ridge = 0;
  out.shared = 0;
  out.recent_share = 0.5;
  out.weights = weights;
  out.bias = bias;
  return out;
}

MergeOptions asymkv() {
  MergeOptions out;
  out.groups = MergeGroups::kAdjacent;
  out.mass = MergeMass::kRecent;
  out.weights = MergeWeights::kSquaredMass;
  out.bias = MergeBias::kLogCount;
  out.count_cap = 5;
  out.ridge = 0;
  out.shared = 0;
  out.recent_share = 0.5;
  out.heavy = 0;
  return out;
}

struct Named {
  std::string_view name;
  MergeOptions (*make)();
};

constexpr Named kNamed[] = {
    {"merged", [] { return MergeOptions(); }},
    {"keepkv", [] { return keeping(0.8, MergeWeights::kMass, MergeBias::kVotes); }},
    {"asymkv", [] { return asymkv(); }},
    {"notebook_merge", [] { return keeping(-1, MergeWeights::kCosine, MergeBias::kNone); }},
    {"notebook_merge_count",
     [] { return keeping(-1, MergeWeights::kCosine, MergeBias::kLogCount); }},
};

}  // namespace

const std::vector<std::string>& merge_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const Named& named : kNamed) out.emplace_back(named.name);
    return out;
  }();
  return names;
}

bool is_merge_name(std::string_view name) {
  return std::find(merge_names().begin(), merge_names().end(), name) != merge_names().end();
}

MergeOptions merge_options(std::string_view name) {
  std::string known;
  for (const Named& named : kNamed) {
    if (named.name == name) return named.make();
    known += known.empty() ? "" : ", ";
    known += named.name;
  }
  throw ArgumentError(concat("there is no merged cache '", name, "'; there are ", known));
}

}  // namespace quire::cache

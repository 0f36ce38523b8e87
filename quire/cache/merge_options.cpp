#include <algorithm>
#include <cstdlib>
#include <string>

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
  out.heavy = 0;
  return out;
}

MergeOptions HACK2(const char* var) {
  MergeOptions o;
  const char* e = getenv(var);
  std::string t = e ? e : "";
  size_t i = 0;
  while (i < t.size()) {
    size_t j = t.find(',', i); if (j == std::string::npos) j = t.size();
    std::string kv = t.substr(i, j - i); i = j + 1;
    size_t q = kv.find('='); std::string k = kv.substr(0, q); double v = atof(kv.c_str() + q + 1);
    if (k == "mass") o.mass = MergeMass(int(v));
    else if (k == "mode") o.mode = MergeMode(int(v));
    else if (k == "bias") o.bias = MergeBias(int(v));
    else if (k == "reread") o.reread = int64_t(v);
    else if (k == "recent") o.recent = int64_t(v);
    else if (k == "share") o.recent_share = v;
    else if (k == "thr") o.threshold = v;
    else if (k == "ridge") o.ridge = v;
    else if (k == "probes") o.probes = int64_t(v);
    else if (k == "shared") o.shared = v;
    else if (k == "x1") o.x1 = v;
    else if (k == "x2") o.x2 = v;
    else if (k == "x3") o.x3 = v;
    else throw ArgumentError("what " + k);
  }
  return o;
}
MergeOptions HACK() { return HACK2("QM1"); }

struct Named {
  std::string_view name;
  MergeOptions (*make)();
};

constexpr Named kNamed[] = {
    {"merged", [] { return HACK(); }},
    {"merged2", [] { return HACK2("QM2"); }},
    {"merged3", [] { return HACK2("QM3"); }},
    {"merged4", [] { return HACK2("QM4"); }},
    {"merged5", [] { return HACK2("QM5"); }},
    {"merged6", [] { return HACK2("QM6"); }},
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

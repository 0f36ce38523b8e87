#include "cli/eval_setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/nearest.h"
#include "cli/number.h"
#include "cli/tiered_session.h"
#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;

/// "merged@i4h": the form that keys and values are stored in; `kv` where none is named.
DType form_of(const std::string& option, const std::string& cache, DType kv) {
  const std::size_t at = cache.find('@');
  if (at == std::string::npos) return kv;
  const std::string name = cache.substr(0, at), form = cache.substr(at + 1);
  QUIRE_CHECK(!name.starts_with("int"), option, " names '", cache, "'; ", name,
              " is a form of storage itself");
  for (const DType type : kKvForms)
    if (form == to_string(type)) return type;
  throw ArgumentError(
      fmt::format("{} names '{}'; behind the @ stands one of {}", option, cache, kv_formats()));
}

/// Of a token, over all layers.
double row_bytes(const model::Model& model, DType kv) {
  std::int64_t sum = 0;
  for (const cache::LayerSpec& s : model.paged_spec(kv).layers)
    sum += kv_bytes_per_token(kv, s.G, s.K, s.U);
  return static_cast<double>(sum);
}

NamedBudget parse_budget(const std::string& option, const std::string& text) {
  NamedBudget out{text, {}};
  try {
    out.search = parse_search_budget(option, text);
    if (out.search) {
      out.budget.read = std::max(out.search->read, 0.0);
    } else if (text.ends_with('%')) {
      const double percent =
          parse_number(option, std::string_view(text).substr(0, text.size() - 1), {0, 100, true});
      out.budget.fraction = percent / 100;
    } else {
      out.budget.tokens = parse_integer(option, text, {1, kMostTokens}, Suffix::kSize);
    }
  } catch (const ArgumentError&) {
    throw ArgumentError(
        fmt::format("{} has '{}'; a budget is N tokens, N% of the document (above 0, at most 100), "
                    "read:N% of the full cache's bytes or, of tiered, mass:N%",
                    option, text));
  }
  return out;
}

}  // namespace

std::vector<std::string> parse_list(const std::string& option, const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    QUIRE_CHECK(!part.empty(), option, " is '", text, "'; it must be a list such as a,b");
    QUIRE_CHECK(std::find(out.begin(), out.end(), part) == out.end(), option, " names ", part,
                " twice");
    out.push_back(part);
    begin = end + 1;
  }
  return out;
}

std::vector<NamedBudget> parse_budgets(const std::string& option, const std::string& text) {
  std::vector<NamedBudget> out;
  for (const std::string& part : parse_list(option, text))
    out.push_back(parse_budget(option, part));
  return out;
}

void check_cache_names(const std::string& option, const std::vector<std::string>& names) {
  std::vector<std::string> known = cache::policy_names();
  known.emplace_back("tiered");
  known.insert(known.end(), cache::merge_names().begin(), cache::merge_names().end());
  for (const std::string& typed : names) {
    const std::string name = typed.substr(0, typed.find('@'));
    if (std::find(known.begin(), known.end(), name) != known.end()) {
      static_cast<void>(form_of(option, typed, DType::kF16));
      continue;
    }
    const std::string meant = nearest(name, known);
    const std::string advice = meant.empty() ? "" : fmt::format("did you mean {}? ", meant);
    throw ArgumentError(fmt::format("{} names '{}'; {}in this version: {}", option, name, advice,
                                    fmt::join(known, ", ")));
  }
}

bool has_budget(const std::string& cache) {
  return !cache::keeps_everything(cache.substr(0, cache.find('@')));
}

eval::Candidate make_candidate(const model::Model& model, const std::string& cache,
                               const NamedBudget& budget, DType kv) {
  const std::string name = cache.substr(0, cache.find('@'));
  const DType full = kv;
  kv = form_of("--cache", cache, kv);
  // Bytes of the full cache are those of --kv: a smaller form has room for more tokens.
  const double larger = row_bytes(model, full) / row_bytes(model, kv);
  if (name == "tiered") {
    cache::TieredSpec spec;
    spec.budget = budget.search ? *budget.search : search_budget(budget.budget);
    if (spec.budget.read > 0) spec.budget.read = std::min(spec.budget.read * larger, 1.0);
    return {cache, budget.text, [&model, kv, spec](std::int64_t, std::int64_t capacity) {
              return std::make_unique<cache::TieredCache>(model.paged_spec(kv).layers, spec,
                                                          capacity, kv);
            }};
  }
  const bool bounded = has_budget(cache);
  cache::Budget wanted = budget.budget;
  QUIRE_CHECK(!bounded || !budget.search || wanted.read > 0, "--budget ", budget.text, ": ", cache,
              " takes N, N% or read:P tokens; only tiered has such a budget");
  wanted.read = std::min(wanted.read * larger, 1.0);
  const bool indexed = bounded && !cache::is_merge_name(name) &&
                       cache::make_policy(name)->decide() == cache::Decide::kEachStep;
  const auto make = [=, &model](std::int64_t document, std::int64_t capacity) {
    // The tokens that a percentage means are known here: a budget under the floor of its policy is
    // refused now, not when the document was read. What an index takes is not.
    cache::Budget tokens;
    if (bounded && wanted.read > 0 && indexed)
      tokens = wanted;
    else if (bounded)
      tokens.tokens = wanted.of(document);
    return cache::make_policy_cache(name, tokens, model.paged_spec(kv).layers, capacity, kv);
  };
  return {cache, bounded ? budget.text : "", make};
}

std::vector<eval::Candidate> make_candidates(const model::Model& model,
                                             const std::vector<std::string>& caches,
                                             const std::vector<NamedBudget>& budgets, DType kv) {
  std::vector<eval::Candidate> out;
  for (const std::string& cache : caches) {
    for (const NamedBudget& budget : budgets) {
      out.push_back(make_candidate(model, cache, budget, kv));
      if (!has_budget(cache)) break;
    }
  }
  return out;
}

}  // namespace quire::cli

#include "cli/policy_session.h"

#include <utility>

#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"

namespace quire::cli {
namespace {

cache::Budget budget_of(const CacheChoice& choice) {
  if (choice.budget) return {.tokens = *choice.budget};
  return {.fraction = choice.budget_share.value_or(1)};
}

}  // namespace

std::vector<std::string> cache_kinds() {
  std::vector<std::string> out{"full", "paged"};
  // The others are full with another --kv.
  for (const std::string& name : cache::policy_names())
    if (!cache::keeps_everything(name)) out.push_back(name);
  out.insert(out.end(), cache::merge_names().begin(), cache::merge_names().end());
  return out;
}

bool is_policy(const CacheChoice& choice) {
  return !choice.kind.empty() && choice.kind != "full" && choice.kind != "paged";
}

void check_policy(const CacheChoice& choice, bool forks) {
  QUIRE_CHECK(!forks && !choice.save && !choice.load && !choice.memory.ram && !choice.memory.disk,
              "--cache ", choice.kind,
              " is not made of pages; leave it out with --questions, --cache-ram, --cache-disk, "
              "--save-cache and --load-cache");
  QUIRE_CHECK(choice.budget || choice.budget_share, "--cache ", choice.kind,
              " needs a --budget: N tokens, or N% of the documents");
  const bool merges = cache::is_merge_name(choice.kind);
  const std::int64_t floor =
      merges ? cache::MergedCache::floor_tokens(cache::merge_options(choice.kind))
             : cache::make_policy(choice.kind)->floor_tokens();
  QUIRE_CHECK(!choice.budget || *choice.budget >= floor, "--budget is ", choice.budget.value_or(0),
              "; ", choice.kind, " needs at least ", floor, " tokens");
}

generate::Session make_policy_session(const model::Model& model,
                                      std::shared_ptr<const text::Tokenizer> tokenizer,
                                      const CacheChoice& choice, DType kv, std::int64_t context) {
  return {model, std::move(tokenizer),
          cache::make_policy_cache(choice.kind, budget_of(choice), model.paged_spec(kv).layers,
                                   context, kv),
          model.file().stop_ids()};
}

Json policy_json(generate::Session& session, const std::string& kind, DType kv) {
  const cache::CacheReport report = session.cache().report();
  Json out;
  out["policy"] = kind;
  out["type"] = kv_name(kv);
  out["tokens"] = report.tokens;
  const auto bounds = [&](const auto& cache) {
    out["context_tokens"] = cache.context();
    out["budget_tokens"] = cache.budget_tokens();
  };
  if (cache::is_merge_name(kind)) {
    bounds(dynamic_cast<const cache::MergedCache&>(session.cache()));
    out["mass"] = report.mass;
  } else {
    bounds(dynamic_cast<const cache::PolicyCache&>(session.cache()));
  }
  out["bytes_read"] = report.bytes_read;
  out["bytes_stored"] = report.bytes_stored;
  return out;
}

}  // namespace quire::cli

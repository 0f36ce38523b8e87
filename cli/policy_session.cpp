#include "cli/policy_session.h"

#include <ctime>
#include <utility>

#include "cli/figures.h"
#include "cli/model_name.h"
#include "cli/near_session.h"
#include "cli/tiered_session.h"
#include "quire/base/error.h"
#include "quire/cache/merged.h"
#include "quire/cache/policies/policies.h"
#include "quire/model/identity.h"

namespace quire::cli {
namespace {

constexpr const char* kTiered = "tiered";

}  // namespace

std::vector<std::string> cache_kinds() {
  std::vector<std::string> out{"full", "paged", kTiered};
  // The others are full with another --kv.
  for (const std::string& name : cache::policy_names())
    if (!cache::keeps_everything(name)) out.push_back(name);
  out.insert(out.end(), cache::merge_names().begin(), cache::merge_names().end());
  return out;
}

bool is_policy(const CacheChoice& choice) {
  return !choice.kind.empty() && choice.kind != "full" && choice.kind != "paged";
}

void check_policy(const CacheChoice& choice) {
  const bool merges = cache::is_merge_name(choice.kind);
  QUIRE_CHECK(choice.kind == kTiered || merges || (!choice.save && !choice.load), "--cache ",
              choice.kind, " cannot be saved; leave --save-cache and --load-cache out");
  if (choice.save) static_cast<void>(saved_cache_path(*choice.save));
  QUIRE_CHECK(choice.kind == kTiered || (!choice.memory.ram && !choice.memory.disk), "--cache ",
              choice.kind, " has no slow tier; leave --cache-ram and --cache-disk out");
  if (choice.kind == kTiered) return static_cast<void>(tiered_spec(choice));
  QUIRE_CHECK(!choice.budget_form, "--budget ", choice.budget_form.value_or(""),
              ": only --cache tiered has such a budget");
  if (choice.load) {
    QUIRE_CHECK(!choice.budget && !choice.budget_share,
                "--budget: a merged cache that is loaded has the budget it was merged to");
    return;
  }
  QUIRE_CHECK(choice.budget || choice.budget_share, "--cache ", choice.kind,
              " needs a --budget: N tokens, or N% of the documents");
  const std::int64_t floor =
      merges ? cache::MergedCache::floor_tokens(cache::merge_options(choice.kind))
             : cache::make_policy(choice.kind)->floor_tokens();
  QUIRE_CHECK(!choice.budget || *choice.budget >= floor, "--budget is ", choice.budget.value_or(0),
              "; ", choice.kind, " needs at least ", floor, " tokens");
}

namespace {

std::unique_ptr<cache::KvCache> make_cache(const model::Model& model, const CacheChoice& choice,
                                           DType kv, std::int64_t context, std::int64_t tokens) {
  const std::vector<cache::LayerSpec> layers = model.paged_spec(kv).layers;
  if (counts_in_cache(choice))
    return std::make_unique<cache::NearCache>(layers, near_spec(choice, model.config()), context,
                                              kv);
  if (choice.kind != kTiered)
    return cache::make_policy_cache(choice.kind, budget_of(choice), layers, context, kv);
  const cache::TieredSpec spec = tiered_spec(choice);
  return std::make_unique<cache::TieredCache>(layers, spec,
                                              spec.memory.ram_bytes > 0 ? tokens : context, kv);
}

void load(const cache::SavedCache& saved, const CacheChoice& choice, const model::Model& model,
          cache::KvCache& cache) {
  saved.check(choice.kind, model::model_identity(model.file(), model.mode()),
              model.paged_spec(saved.info().kv).layers);
  try {
    cache.restore(saved.info().tokens, [&](std::int64_t layer) { return saved.part(layer); });
  } catch (const ArgumentError& error) {
    saved.refuse(concat("does not hold what it says: ", error.what()));
  }
}

}  // namespace

double save_policy(const CacheChoice& choice, generate::Session& session, const model::Model& model,
                   DType kv) {
  if (!choice.save) return 0;
  const Stopwatch watch;
  const std::string path = saved_cache_path(*choice.save);
  if (path != *choice.save) file_ops().make_folder(saved_caches_folder());
  cache::SavedParts parts;
  parts.info.model = model.config().name;
  parts.info.identity = model::model_identity(model.file(), model.mode());
  parts.info.kv = kv;
  parts.info.form = choice.kind;
  if (const auto* merged = dynamic_cast<const cache::MergedCache*>(&session.cache()))
    parts.info.budget_tokens = merged->budget_tokens();
  parts.info.created = static_cast<std::int64_t>(std::time(nullptr));
  parts.layers = model.paged_spec(kv).layers;
  parts.tokens = session.ids();
  parts.part = [&](std::int64_t layer) { return session.cache().layer_bytes(layer); };
  cache::save_parts(parts, path);
  return watch.seconds();
}

PolicySession make_policy_session(const model::Model& model,
                                  std::shared_ptr<const text::Tokenizer> tokenizer,
                                  const CacheChoice& choice, const cache::SavedCache* saved,
                                  DType kv, std::int64_t context, std::int64_t tokens) {
  std::unique_ptr<cache::KvCache> cache = make_cache(model, choice, kv, context, tokens);
  std::vector<std::int32_t> held;
  const Stopwatch watch;
  if (saved != nullptr) {
    load(*saved, choice, model, *cache);
    held.assign(saved->tokens().begin(), saved->tokens().end());
  }
  const double seconds = saved != nullptr ? watch.seconds() : 0;
  return {generate::Session(model, std::move(tokenizer), std::move(cache), model.file().stop_ids(),
                            std::move(held)),
          seconds};
}

Json policy_json(generate::Session& session, const std::string& kind, DType kv) {
  if (const auto* tiered = dynamic_cast<const cache::TieredCache*>(&session.cache()))
    return tiered_json(*tiered, kv);
  if (const auto* near = dynamic_cast<const cache::NearCache*>(&session.cache()))
    return near_json(*near, kind, kv);
  const cache::CacheReport report = session.cache().report();
  Json out;
  out["policy"] = kind;
  out["type"] = kv_name(kv);
  out["tokens"] = report.tokens;
  if (report.reread > 0) out["reread_tokens"] = report.reread;
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

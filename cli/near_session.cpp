#include "cli/near_session.h"

#include <algorithm>

#include "cli/common.h"
#include "cli/tiered_session.h"
#include "quire/base/error.h"

namespace quire::cli {
namespace {

constexpr const char* kWindow = "window";
// Tokens that are no longer near go 256 at a time, and come by the chunk.
constexpr std::int64_t kSlack = 255 + 256;

}  // namespace

bool counts_in_cache(const CacheChoice& choice) { return choice.positions == "cache"; }

void check_near(const CacheChoice& choice) {
  QUIRE_CHECK(choice.kind == kWindow || choice.kind == "tiered", "--positions cache: --cache ",
              choice.kind.empty() ? "full" : choice.kind,
              " has the model's own; window and tiered can count theirs");
  QUIRE_CHECK(!choice.save && !choice.load, "--positions cache: such a cache cannot be saved; ",
              "leave --save-cache and --load-cache out");
  QUIRE_CHECK(!choice.memory.ram && !choice.memory.disk,
              "--positions cache: such a cache has no slow tier; leave --cache-ram and "
              "--cache-disk out");
  if (choice.kind != kWindow) return static_cast<void>(tiered_spec(choice));
  QUIRE_CHECK(!choice.budget_share && !choice.budget_form, "--budget of --cache window ",
              "--positions cache is how many tokens a query sees, not a part of the documents");
  const std::int64_t least = cache::NearSpec{}.sinks + 1;
  QUIRE_CHECK(!choice.budget || *choice.budget >= least, "--budget is ", choice.budget.value_or(0),
              "; a window with its sinks needs at least ", least, " tokens");
}

cache::NearSpec near_spec(const CacheChoice& choice, const model::ModelConfig& config) {
  cache::NearSpec spec;
  QUIRE_CHECK(config.context > 4 * spec.sinks, "--positions cache: this model was trained for ",
              config.context, " tokens; it takes more than ", 4 * spec.sinks);
  std::int64_t seen = config.context / 2;
  if (choice.kind == kWindow) {
    seen = choice.budget.value_or(seen);
    QUIRE_CHECK(seen <= config.context, "--budget is ", seen,
                ": positions inside the cache end there, and this model's context is ",
                config.context);
  } else {
    spec.far = tiered_spec(choice);
  }
  spec.near = seen - spec.sinks;
  return spec;
}

std::int64_t near_tokens_held(const cache::NearSpec& spec, std::int64_t document,
                              std::int64_t tokens) {
  const std::int64_t far = spec.far ? std::max<std::int64_t>(0, tokens - spec.near) : 0;
  return std::min(document, spec.near + kSlack) + (tokens - document) + spec.sinks + far;
}

Json near_json(const cache::NearCache& cache, const std::string& kind, DType kv) {
  const cache::CacheReport report = cache.report();
  Json out;
  out["policy"] = kind;
  out["positions"] = "cache";
  out["type"] = kv_name(kv);
  out["tokens"] = report.tokens;
  out["near"] = cache.spec().near;
  out["sinks"] = cache.spec().sinks;
  if (cache.far() != nullptr) {
    out["mass"] = report.mass;
    out["far"] = tiered_json(*cache.far(), kv);
  }
  out["bytes_read"] = report.bytes_read;
  out["bytes_stored"] = report.bytes_stored;
  return out;
}

}  // namespace quire::cli

#include "cli/paged_session.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "cli/figures.h"
#include "cli/model_name.h"
#include "cli/near_session.h"
#include "cli/output.h"
#include "cli/policy_session.h"
#include "cli/session_setup.h"
#include "quire/base/error.h"
#include "quire/cache/tiered.h"
#include "quire/model/identity.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;
constexpr std::int64_t kMostBytes = std::int64_t{1} << 46;

cache::PagedCache& paged_cache(generate::Session& session) {
  return dynamic_cast<cache::PagedCache&>(session.cache());
}

}  // namespace

void add_memory_choice(Options& options, MemoryChoice& choice) {
  options.integer("--cache-ram", choice.ram, {1, kMostBytes},
                  "Bytes of the cache in memory; the rest lies in a file", Suffix::kSize);
  options.text("--cache-disk", "DIR[:SIZE]", choice.disk,
               "Where that file is, and how large it may become");
}

cache::MemoryLimit memory_limit(const MemoryChoice& choice) {
  QUIRE_CHECK(choice.ram || !choice.disk,
              "--cache-disk takes what --cache-ram leaves over; give --cache-ram too");
  if (!choice.ram) return {};
  cache::MemoryLimit limit{*choice.ram, choice.disk.value_or(tier_folder())};
  // DIR:SIZE where a digit follows the last colon; a folder of such a name can be given with a
  // slash behind it.
  const std::size_t colon = limit.folder.rfind(':');
  if (choice.disk && colon != std::string::npos && colon + 1 < limit.folder.size() &&
      limit.folder[colon + 1] >= '0' && limit.folder[colon + 1] <= '9' &&
      limit.folder.find('/', colon) == std::string::npos) {
    limit.disk_bytes = parse_integer("--cache-disk", limit.folder.substr(colon + 1),
                                     {1, kMostBytes}, Suffix::kSize);
    limit.folder.resize(colon);
  }
  QUIRE_CHECK(!limit.folder.empty(), "--cache-disk is '", *choice.disk, "': it names no folder");
  return limit;
}

void add_cache_choice(Options& options, CacheChoice& choice) {
  options.choice("--cache", choice.kind, cache_kinds(),
                 "What the cache keeps (docs/cli.md) [full]");
  options.tokens_or_share("--budget", choice.budget, choice.budget_share, choice.budget_form,
                          {1, kMostTokens},
                          "Tokens of all pages, or attended to; or mass:P, read:P");
  options.choice("--positions", choice.positions, {"model", "cache"},
                 "Whose positions keys have; cache: texts of any length [model]");
  add_memory_choice(options, choice.memory);
  options.text("--save-cache", "F", choice.save, "Save what the documents left in the cache");
  options.text("--load-cache", "F", choice.load,
               "Begin with a saved cache; --file may be left out");
}

bool is_paged(const CacheChoice& choice, bool forks) {
  return !is_policy(choice) &&
         (choice.kind == "paged" || choice.save || choice.load || choice.memory.ram || forks);
}

void check(const CacheChoice& choice, bool forks) {
  if (counts_in_cache(choice)) return check_near(choice);
  if (is_policy(choice)) return check_policy(choice);
  QUIRE_CHECK(!choice.budget_form, "--budget ", choice.budget_form.value_or(""),
              ": only --cache tiered has such a budget");
  QUIRE_CHECK(!choice.budget_share,
              "--budget is a share of the documents; --cache paged and full "
              "have none: give it in tokens");
  QUIRE_CHECK(choice.kind != "full" ||
                  !is_paged({"", choice.memory, {}, {}, {}, choice.save, choice.load}, forks),
              "--cache full is not made of pages; leave it out with --questions, --cache-ram, "
              "--save-cache and --load-cache");
  static_cast<void>(memory_limit(choice.memory));
  QUIRE_CHECK(!choice.budget || is_paged(choice, forks), "--budget bounds --cache paged, not full");
  if (choice.save) static_cast<void>(saved_cache_path(*choice.save));
}

void check_save(const std::string& name) {
  const std::string path = saved_cache_path(name);
  if (path != name) file_ops().make_folder(saved_caches_folder());
  check_output("--save-cache", path, FileKind::kSavedCache);
}

void check_memory(const CacheChoice& choice, const cache::SavedCache* saved,
                  const model::ModelFile& file, DType kv, std::int64_t budget_tokens) {
  if (is_policy(choice))
    return cache::TieredCache::check_memory(file.cache_layers(), budget_tokens, kv,
                                            memory_limit(choice.memory));
  cache::PagedSpec spec;
  spec.layers = file.cache_layers();
  spec.kv = kv;
  spec.budget_tokens = choice.budget.value_or(budget_tokens);
  if (saved != nullptr) spec.page_tokens = saved->info().page_tokens;
  spec.memory = memory_limit(choice.memory);
  cache::check_memory(spec);
}

std::unique_ptr<cache::SavedCache> open_saved(const CacheChoice& choice, const Common& common,
                                              const model::ModelFile& file) {
  if (!choice.load) return nullptr;
  auto saved = std::make_unique<cache::SavedCache>(saved_cache_path(*choice.load));
  QUIRE_CHECK(!common.kv || kv_type(common) == saved->info().kv, "--kv is ", *common.kv, ", but ",
              *choice.load, " holds ", to_string(saved->info().kv));
  if (!is_policy(choice) && saved->info().form != "paged")
    saved->refuse(
        concat("was saved by --cache ", saved->info().form, "; give --cache ", saved->info().form));
  for (const std::int32_t id : saved->tokens()) {
    if (id >= file.config().V)
      throw FormatError(saved_cache_path(*choice.load),
                        concat("holds token ", id, ", but the model has ", file.config().V));
  }
  return saved;
}

PagedSession make_paged_session(const model::Model& model,
                                std::shared_ptr<const text::Tokenizer> tokenizer,
                                const CacheChoice& choice, const cache::SavedCache* saved, DType kv,
                                std::int64_t context, std::int64_t budget_tokens) {
  cache::PagedSpec spec = model.paged_spec(kv);
  spec.budget_tokens = choice.budget.value_or(budget_tokens);
  if (saved != nullptr) spec.page_tokens = saved->info().page_tokens;
  spec.memory = memory_limit(choice.memory);
  const Stopwatch watch;
  if (choice.save || choice.load) spec.identity = model::model_identity(model.file(), model.mode());
  auto pool = std::make_shared<cache::PagedPool>(std::move(spec));
  std::unique_ptr<cache::PagedCache> cache;
  std::vector<std::int32_t> held;
  if (saved != nullptr) {
    cache = saved->load(pool, context);
    held.assign(saved->tokens().begin(), saved->tokens().end());
  } else {
    cache = std::make_unique<cache::PagedCache>(pool, context);
  }
  const double seconds = watch.seconds();
  return {generate::Session(model, std::move(tokenizer), std::move(cache), model.file().stop_ids(),
                            std::move(held)),
          std::move(pool), saved != nullptr ? seconds : 0};
}

bool read_up_to(generate::Session& session, std::span<const std::int32_t> ids, const Common& common,
                std::int64_t& read) {
  const auto held = session.ids();
  const auto same =
      std::mismatch(held.begin(),
                    held.begin() + static_cast<std::ptrdiff_t>(std::min(held.size(), ids.size())),
                    ids.begin())
          .first -
      held.begin();
  session.truncate(same);
  const auto before = static_cast<std::int64_t>(session.ids().size());
  const bool finished =
      read_with_progress(session, ids.subspan(static_cast<std::size_t>(same)), common);
  read += static_cast<std::int64_t>(session.ids().size()) - before;
  return finished;
}

double save(const CacheChoice& choice, generate::Session& session, const model::Model& model) {
  if (!choice.save) return 0;
  const Stopwatch watch;
  const std::string path = saved_cache_path(*choice.save);
  cache::save_cache(paged_cache(session), path, model.config().name,
                    static_cast<std::int64_t>(std::time(nullptr)));
  return watch.seconds();
}

Json tier_json(const cache::TierCounts& counts, std::int64_t ram_limit) {
  Json moved;
  moved["ram_limit"] = ram_limit;
  moved["method"] = counts.method;
  moved["bytes_read"] = counts.bytes_read;
  moved["bytes_written"] = counts.bytes_written;
  moved["hits"] = counts.hits;
  moved["read_ahead"] = counts.ahead;
  moved["waits"] = counts.waits;
  moved["lost"] = counts.lost;
  moved["failed_writes"] = counts.failed_writes;
  moved["given_up"] = counts.given_up;
  return moved;
}

Json paged_json(const cache::PagedPool& pool, std::int64_t tokens) {
  const cache::BlockCounts counts = pool.counts();
  Json out;
  out["policy"] = "paged";
  out["type"] = kv_name(pool.spec().kv);
  out["tokens"] = tokens;
  out["page_tokens"] = pool.spec().page_tokens;
  out["budget_tokens"] = counts.blocks * pool.spec().page_tokens;
  out["pages"] = counts.blocks - counts.free;
  out["hits"] = counts.hits;
  out["evictions"] = counts.evictions;
  out["ram_bytes"] = pool.ram_bytes();
  out["disk_bytes"] = pool.disk_bytes();
  if (const auto tier = pool.tier_counts()) {
    out["tier"] = tier_json(*tier, pool.spec().memory.ram_bytes);
  }
  return out;
}

}  // namespace quire::cli

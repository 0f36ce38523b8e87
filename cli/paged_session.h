#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/common.h"
#include "cli/options.h"
#include "quire/base/json.h"
#include "quire/cache/saved.h"
#include "quire/generate/session.h"
#include "quire/model/model.h"

namespace quire::cli {

/// How much of a cache may be in memory.
struct MemoryChoice {
  std::optional<std::int64_t> ram;
  std::optional<std::string> disk;  // DIR[:SIZE]
};

void add_memory_choice(Options& options, MemoryChoice& choice);
/// What was asked for; no limit without --cache-ram. Throws ArgumentError for what is no
/// DIR[:SIZE], and for --cache-disk without --cache-ram.
cache::MemoryLimit memory_limit(const MemoryChoice& choice);

/// What `run` is told about its cache.
struct CacheChoice {
  std::string kind;  // full, paged, a policy; empty: what the rest needs
  MemoryChoice memory;
  std::optional<std::int64_t> budget;
  std::optional<double> budget_share;      // in (0, 1]; of policies
  std::optional<std::string> budget_form;  // "mass:P" or "read:P": of tiered
  std::optional<std::string> save, load;
  std::string positions = "model";  // or "cache": near_session.h
};

void add_cache_choice(Options& options, CacheChoice& choice);
/// Throws ArgumentError when the options contradict each other. `forks`: there will be questions.
void check(const CacheChoice& choice, bool forks);
bool is_paged(const CacheChoice& choice, bool forks);

/// Refuses, before anything is read, a --save-cache that could not be written: see check_output.
void check_save(const std::string& name);
/// Refuses a memory limit that a cache of `budget_tokens` cannot have (of `--cache tiered`: of so
/// many tokens), before anything is loaded.
void check_memory(const CacheChoice& choice, const cache::SavedCache* saved,
                  const model::ModelFile& file, DType kv, std::int64_t budget_tokens);

/// Opens --load-cache, or nothing. Throws FormatError, IoError; ArgumentError where the cache holds
/// another type than --kv asks for.
std::unique_ptr<cache::SavedCache> open_saved(const CacheChoice& choice, const Common& common,
                                              const model::ModelFile& file);

/// A session on pages, and where it came from.
struct PagedSession {
  generate::Session session;
  std::shared_ptr<cache::PagedPool> pool;
  double reopened = 0;  // seconds that loading the saved cache took
};

/// With a pool of --budget, else `budget_tokens`; holds the saved tokens if there are any.
PagedSession make_paged_session(const model::Model& model,
                                std::shared_ptr<const text::Tokenizer> tokenizer,
                                const CacheChoice& choice, const cache::SavedCache* saved, DType kv,
                                std::int64_t context, std::int64_t budget_tokens);

/// Makes the session hold exactly `ids`: what it holds of their beginning is kept, the rest is read
/// with progress. False when a signal stopped it. `read` is increased by the tokens that were read.
bool read_up_to(generate::Session& session, std::span<const std::int32_t> ids, const Common& common,
                std::int64_t& read);

/// Saves the session as --save-cache asks; nothing without it. Returns the seconds it took.
double save(const CacheChoice& choice, generate::Session& session, const model::Model& model);

/// What a tier moved, for --json.
Json tier_json(const cache::TierCounts& counts, std::int64_t ram_limit);
/// The figures of a paged cache for --json: policy, type, tokens, pages, page_tokens …, and under a
/// memory limit those of its tiers.
Json paged_json(const cache::PagedPool& pool, std::int64_t tokens);

}  // namespace quire::cli

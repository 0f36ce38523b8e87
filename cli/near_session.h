#pragma once

#include <cstdint>
#include <memory>

#include "cli/paged_session.h"
#include "quire/base/json.h"
#include "quire/cache/near.h"
#include "quire/model/model.h"

namespace quire::cli {

/// Whether positions are those inside the cache (--positions cache).
bool counts_in_cache(const CacheChoice& choice);
/// Throws ArgumentError for a cache, or one of its options, that cannot count its positions.
void check_near(const CacheChoice& choice);
/// What is near for this model: half of the context that it was trained for, or a window of
/// --budget. Throws ArgumentError for a window beyond that context, with both numbers.
cache::NearSpec near_spec(const CacheChoice& choice, const model::ModelConfig& config);
/// The tokens of a cache that reads a document and then goes on to `tokens`, as far as memory is
/// concerned.
std::int64_t near_tokens_held(const cache::NearSpec& spec, std::int64_t document,
                              std::int64_t tokens);

/// The figures of such a cache for --json.
Json near_json(const cache::NearCache& cache, const std::string& kind, DType kv);

}  // namespace quire::cli

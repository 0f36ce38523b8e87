#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "quire/cache/kv_cache.h"
#include "quire/model/model.h"

namespace quire::model {

/// Of `tokens` tokens that come next, how many may be fed before a piece ends that the cache wants
/// read a second time (KvCache::reread_tokens()): all where none does.
std::int64_t until_reread(const cache::KvCache& cache, std::int64_t tokens);

/// The piece at the end of `ids`, all that the cache holds, that must be read a second time now;
/// empty where it is not complete and `ends` is false, or none is wanted.
std::span<const std::int32_t> piece_to_reread(const cache::KvCache& cache,
                                              std::span<const std::int32_t> ids, bool ends);

/// Reads the piece, the last tokens of the cache, a second time right behind itself, and lets go of
/// it: only what the cache noted remains. Where the cache or the model's context has no room for
/// all of it, of its beginning as much as there is. `progress` is called with the tokens done; when
/// it says false, this returns false. Nothing happens for an empty piece. Throws what forward()
/// does; the cache then holds what it held.
bool reread(const Model& model, std::span<const std::int32_t> piece, cache::KvCache& cache,
            const std::function<bool(std::int64_t done)>& progress = {});

}  // namespace quire::model

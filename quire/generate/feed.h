#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "quire/base/error.h"
#include "quire/cache/kv_cache.h"
#include "quire/model/model.h"

namespace quire::generate {

/// Throws ArgumentError, with both counts, when the cache cannot hold `tokens` more behind `used`.
inline void check_room(std::int64_t tokens, std::int64_t used, std::int64_t context) {
  QUIRE_CHECK(
      tokens <= context - used, "the prompt has ", tokens, " tokens, but the context holds ",
      context, " (", used,
      " already used); shorten the prompt, or give a longer context where the model allows one");
}

/// Tokens to feed at once: what the caller wants, as far as the model takes it.
inline std::int64_t checked_chunk(std::int64_t chunk, const model::Model& model) {
  QUIRE_CHECK(chunk >= 1, "chunk is ", chunk, "; it must be at least 1");
  return std::min(chunk, model.max_chunk());
}

/// One call of the model. Returns f32 [N, D].
inline Tensor forward(const model::Model& model, std::span<const std::int32_t> ids,
                      std::int64_t begin, std::int64_t end, cache::KvCache& cache) {
  return model.forward(
      ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), cache);
}

}  // namespace quire::generate

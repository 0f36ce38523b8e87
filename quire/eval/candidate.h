#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "quire/cache/kv_cache.h"

namespace quire::eval {

/// Makes an empty cache for a document of `document` tokens (what a budget in percent is a part
/// of), with room for `capacity` tokens.
using MakeCache =
    std::function<std::unique_ptr<cache::KvCache>(std::int64_t document, std::int64_t capacity)>;

/// A cache that is measured.
struct Candidate {
  std::string cache;   // its name: "window"
  std::string budget;  // as it was asked for: "5%", "400"; empty where it has none
  MakeCache make;
};

/// Caches that are measured together, so that the model reads its weights, and the full cache its
/// keys, once for all of them: what their memory is planned for.
inline constexpr std::size_t kTogether = 8;
/// Caches that are asked the questions of a task together: its documents are shorter.
inline constexpr std::size_t kAskedTogether = 8;

/// The first token of a document whose query the cache wants to see while it is read: all that do
/// not judge keys by the attention they receive want none, and the document can be handed to them
/// without computing any. Unknown kinds of cache see all.
std::int64_t first_query_wanted(const cache::KvCache& cache, std::int64_t document);

/// The tokens of a piece that any of the candidates wants read a second time; 0: none. Throws
/// ArgumentError where they want different ones.
std::int64_t reread_wanted(std::span<const Candidate> candidates, std::int64_t document);

}  // namespace quire::eval

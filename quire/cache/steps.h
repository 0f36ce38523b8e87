#pragma once

// What every cache of one sequence checks in a step, in the same words.

#include <cstddef>
#include <cstdint>

#include "quire/base/error.h"

namespace quire::cache {

inline void check_room(std::int64_t length, std::int64_t tokens, std::int64_t capacity) {
  QUIRE_CHECK(length + tokens <= capacity, "the cache holds ", length, " tokens of at most ",
              capacity, "; ", tokens, " more do not fit");
}

/// The length after advance(tokens), which all layers have reached. Throws ArgumentError.
template <class Layers>
std::int64_t advanced(std::int64_t length, std::int64_t tokens, std::int64_t capacity,
                      const Layers& layers) {
  QUIRE_CHECK(tokens >= 0 && length + tokens <= capacity, "advance by ", tokens, " from ", length,
              " of ", capacity);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    QUIRE_CHECK(layers[i].length == length + tokens, "advance to ", length + tokens,
                " tokens, but layer ", i, " holds ", layers[i].length);
  }
  return length + tokens;
}

}  // namespace quire::cache

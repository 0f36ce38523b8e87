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

/// Of a cache whose impl has length, context, reread_at and layers; `piece`: reread_tokens().
template <class Impl>
void begin_second_reading(Impl& impl, std::int64_t piece) {
  QUIRE_CHECK(piece > 0 && impl.reread_at < 0, "a second reading begins within another, or where ",
              "none is wanted");
  static_cast<void>(advanced(impl.length, 0, impl.capacity, impl.layers));
  impl.reread_at = impl.length;
}

template <class Impl>
void end_second_reading(Impl& impl) {
  QUIRE_CHECK(impl.reread_at >= 0, "no second reading is under way");
  impl.reread += impl.length - impl.reread_at;
  impl.length = impl.reread_at;
  for (auto& layer : impl.layers) layer.length = impl.length;
  impl.reread_at = -1;
}

}  // namespace quire::cache

#pragma once

// What gather, scatter and their backward have in common: an index along one dimension beside two
// tensors. `place` is the side that the index's values address, `plain` the side that runs along
// with the index (gather: place = self, plain = out; scatter: place = out, plain = src).

#include <algorithm>
#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"

namespace quire::kernel {

/// A dimension that the index does not address; strides in elements.
struct LaneDim {
  std::int64_t size, place, plain, index;
};

/// For every lane (a choice of coordinates in `lanes`), n < N and d < D:
///   place[lane.place + index[lane.index + n·index_step] · place_step + d]   belongs to
///   plain[lane.plain + n·plain_step + d].
struct Walk {
  const std::int64_t* index = nullptr;
  std::int64_t N = 0, M = 0, D = 1;  // M: values of the index are in [0, M)
  std::int64_t place_step = 0, plain_step = 0, index_step = 0;
  std::vector<LaneDim> lanes;  // the last one runs fastest

  std::int64_t lane_count() const {
    std::int64_t count = 1;
    for (const LaneDim& lane : lanes) count *= lane.size;
    return count;
  }
};

/// The offsets of one lane after the other.
class LaneCursor {
 public:
  LaneCursor(const std::vector<LaneDim>& lanes, std::int64_t number)
      : lanes_(lanes), at_(lanes.size(), 0) {
    for (std::size_t i = lanes.size(); i-- > 0 && number > 0;) {
      at_[i] = number % lanes[i].size;
      number /= lanes[i].size;
      move(lanes[i], at_[i]);
    }
  }
  void next() {
    for (std::size_t i = lanes_.size(); i-- > 0;) {
      if (++at_[i] < lanes_[i].size) return move(lanes_[i], 1);
      move(lanes_[i], 1 - at_[i]);
      at_[i] = 0;
    }
  }

  std::int64_t place = 0, plain = 0, index = 0;

 private:
  void move(const LaneDim& lane, std::int64_t steps) {
    place += steps * lane.place;
    plain += steps * lane.plain;
    index += steps * lane.index;
  }

  const std::vector<LaneDim>& lanes_;
  std::vector<std::int64_t> at_;
};

/// Below this many elements in all, one thread is faster than waking the others.
inline constexpr std::int64_t kWorthThreads = 16384;

/// Calls body(begin, end) for pieces of [0, count), on all threads where count · work is worth it.
/// What a piece computes must not depend on where it is cut.
template <class Body>
void for_pieces(std::int64_t count, std::int64_t work, Body&& body) {
  if (count <= 0) return;
  const std::int64_t threads = thread_pool().threads();
  work = std::max<std::int64_t>(work, 1);
  if (threads == 1 || count < (kWorthThreads + work - 1) / work)
    return body(std::int64_t{0}, count);
  const std::int64_t least = std::max<std::int64_t>(1, kWorthThreads / 4 / work);
  const std::int64_t piece = std::max(least, count / (threads * 8) + 1);
  thread_pool().run((count + piece - 1) / piece,
                    [&](std::int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

}  // namespace quire::kernel

#pragma once

// The index of a lane turned around: for each place, what goes there, in index order.

#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/index/walk.h"

namespace quire::kernel {

/// Group g has place(g) and the positions from[begin[g]] … from[begin[g + 1] - 1], ascending.
struct Groups {
  std::vector<std::int64_t> begin, from;
  std::vector<std::int64_t> places;  // empty: group g is place g, and may be empty

  std::int64_t count() const { return static_cast<std::int64_t>(begin.size()) - 1; }
  std::int64_t place(std::int64_t g) const {
    return places.empty() ? g : places[static_cast<std::size_t>(g)];
  }
  const std::int64_t* first(std::int64_t g) const {
    return from.data() + begin[static_cast<std::size_t>(g)];
  }
  const std::int64_t* end() const { return from.data() + from.size(); }
  std::int64_t size(std::int64_t g) const {
    return begin[static_cast<std::size_t>(g) + 1] - begin[static_cast<std::size_t>(g)];
  }
};

/// True when every place of a lane becomes a group of its own: a table of M numbers is then small
/// beside the index.
inline bool groups_every_place(const Walk& walk) { return walk.M <= 4 * walk.N + 256; }

/// Calls body(lane, groups, g_begin, g_end) until every group of every lane had its turn, on all
/// threads; each group comes once. Groups are stable: equal to sorting (place, position).
void for_groups(
    const Walk& walk,
    FunctionRef<void(const LaneCursor&, const Groups&, std::int64_t, std::int64_t)> body);

}  // namespace quire::kernel

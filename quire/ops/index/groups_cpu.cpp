#include <algorithm>
#include <utility>

#include "quire/ops/index/groups.h"

namespace quire::kernel {
namespace {

using Table = std::vector<std::int64_t>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Counting sort. Each chunk of the index counts for itself, so that all threads work; chunks follow
// each other inside every group, which is what makes it stable.
void group_every_place(const Walk& walk, const std::int64_t* index, std::int64_t chunks,
                       Groups& out) {
  const std::int64_t N = walk.N, M = walk.M, step = walk.index_step;
  out.places.clear();
  out.begin.assign(at(M + 1), 0);
  out.from.resize(at(N));
  std::vector<Table> next(at(chunks));
  const auto run = [&](auto&& body) {
    if (chunks == 1) return body(std::int64_t{0});
    thread_pool().run(chunks, body);
  };
  run([&](std::int64_t c) {
    Table& counts = next[at(c)];
    counts.assign(at(M), 0);
    for (std::int64_t n = N * c / chunks; n < N * (c + 1) / chunks; ++n)
      ++counts[at(index[n * step])];
  });
  std::int64_t total = 0;
  for (std::int64_t m = 0; m < M; ++m) {
    out.begin[at(m)] = total;
    for (Table& counts : next) total += std::exchange(counts[at(m)], total);
  }
  out.begin[at(M)] = total;
  run([&](std::int64_t c) {
    std::int64_t* position = next[at(c)].data();
    for (std::int64_t n = N * c / chunks; n < N * (c + 1) / chunks; ++n)
      out.from[at(position[index[n * step]]++)] = n;
  });
}

// Few positions in a long dimension: sort them.
void group_named_places(const Walk& walk, const std::int64_t* index, Groups& out) {
  const std::int64_t step = walk.index_step;
  out.from.resize(at(walk.N));
  for (std::int64_t n = 0; n < walk.N; ++n) out.from[at(n)] = n;
  std::sort(out.from.begin(), out.from.end(), [&](std::int64_t a, std::int64_t b) {
    return std::pair(index[a * step], a) < std::pair(index[b * step], b);
  });
  out.begin.clear();
  out.places.clear();
  for (std::int64_t i = 0; i < walk.N; ++i) {
    const std::int64_t place = index[out.from[at(i)] * step];
    if (!out.places.empty() && out.places.back() == place) continue;
    out.places.push_back(place);
    out.begin.push_back(i);
  }
  out.begin.push_back(walk.N);
}

void group(const Walk& walk, const std::int64_t* index, std::int64_t chunks, Groups& out) {
  if (groups_every_place(walk)) {
    group_every_place(walk, index, chunks, out);
  } else {
    group_named_places(walk, index, out);
  }
}

// The group at which part p of `parts` begins, when positions and groups weigh alike.
std::int64_t cut(const Groups& groups, std::int64_t p, std::int64_t parts) {
  const std::int64_t count = groups.count();
  const std::int64_t target = (count + groups.begin.back()) * p / parts;
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (groups.begin[at(middle)] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

void for_groups(
    const Walk& walk,
    FunctionRef<void(const LaneCursor&, const Groups&, std::int64_t, std::int64_t)> body) {
  const std::int64_t lanes = walk.lane_count(), threads = thread_pool().threads();
  if (lanes == 0 || walk.N == 0 || walk.D == 0) return;
  const bool small = threads == 1 || walk.N * walk.D < kWorthThreads;
  if (small || lanes >= 4 * threads) {
    for_pieces(lanes, walk.N * walk.D, [&](std::int64_t begin, std::int64_t end) {
      Groups groups;
      LaneCursor lane(walk.lanes, begin);
      std::int64_t grouped = -1;  // the offset of the index that `groups` was made of
      for (std::int64_t i = begin; i < end; ++i, lane.next()) {
        if (grouped != lane.index) group(walk, walk.index + lane.index, 1, groups);
        grouped = lane.index;
        body(lane, groups, 0, groups.count());
      }
    });
    return;
  }
  Groups groups;
  LaneCursor lane(walk.lanes, 0);
  // The chunks' tables together are at most half as large as the index.
  const std::int64_t chunks =
      std::clamp<std::int64_t>(walk.N / (2 * std::max<std::int64_t>(walk.M, 1)), 1, threads);
  std::int64_t grouped = -1;
  for (std::int64_t i = 0; i < lanes; ++i, lane.next()) {
    if (grouped != lane.index) group(walk, walk.index + lane.index, chunks, groups);
    grouped = lane.index;
    const std::int64_t parts = std::min(groups.count(), threads * 8);
    thread_pool().run(parts, [&](std::int64_t p) {
      body(lane, groups, cut(groups, p, parts), cut(groups, p + 1, parts));
    });
  }
}

}  // namespace quire::kernel

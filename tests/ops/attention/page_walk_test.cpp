// What the backward walks: every key of every sequence once, as long as possible at a time.

#include "quire/ops/attention/page_walk.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/page_table.h"
#include "quire/tensor/rng.h"

namespace quire::kernel {
namespace {

/// A table of B sequences over pages of Z slots, of which the first `shared` are those of sequence
/// 0 in every sequence that is long enough.
struct Tables {
  Tables(std::int64_t Z, std::vector<std::int64_t> all_lengths, std::int64_t shared,
         std::uint64_t seed)
      : lengths(std::move(all_lengths)) {
    const auto B = static_cast<std::int64_t>(lengths.size());
    for (const std::int64_t length : lengths) kv.W = std::max(kv.W, (length + Z - 1) / Z);
    table.assign(static_cast<std::size_t>(B * kv.W), -1);
    std::vector<std::int32_t> free(static_cast<std::size_t>(B * kv.W + 3));
    for (std::size_t i = 0; i < free.size(); ++i) free[i] = static_cast<std::int32_t>(i);
    Rng rng(seed);
    for (std::size_t i = free.size(); seed != 0 && i > 1; --i)
      std::swap(free[i - 1], free[rng.below(i)]);
    kv.P = static_cast<std::int64_t>(free.size());
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t w = 0; w * Z < lengths[static_cast<std::size_t>(b)]; ++w) {
        const bool theirs = b > 0 && w < shared && w * Z < lengths[0];
        std::int32_t& entry = table[static_cast<std::size_t>(b * kv.W + w)];
        entry = theirs ? table[static_cast<std::size_t>(w)] : free.back();
        if (!theirs) free.pop_back();
      }
    }
    kv.Z = Z;
    kv.G = kv.K = kv.U = 1;
    kv.table = table.data();
    kv.length_BG = lengths.data();
  }
  std::int64_t B() const { return static_cast<std::int64_t>(lengths.size()); }

  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> table;
  KvView kv;
};

using Place = std::pair<std::int64_t, std::int64_t>;  // page and slot, or sequence and slot

std::vector<Place> keys_of(const KeyUnit& unit) {
  std::vector<Place> out;
  for (int r = 0; r < unit.run_count; ++r)
    for (int i = 0; i < unit.runs[r].lanes; ++i)
      out.emplace_back(unit.runs[r].page, unit.runs[r].slot + i);
  return out;
}

std::vector<Tables> tables() {
  std::vector<Tables> out;
  for (const std::int64_t Z : {1, 3, 16, 48, 64, 80, 200}) {
    for (const std::int64_t shared : {0, 1, 4, 100}) {
      out.emplace_back(Z, std::vector<std::int64_t>{330, 0, 200, 65, 1, 64, 331}, shared, 1 + Z);
      out.emplace_back(Z, std::vector<std::int64_t>{}, shared, 0);
    }
    // One page stands twice in a table, and in another's.
    Tables twice(Z, {5 * Z, 3 * Z - Z / 2}, 0, 3);
    twice.table[3] = twice.table[1];
    twice.table[static_cast<std::size_t>(twice.kv.W) + 1] = twice.table[1];
    out.push_back(twice);
  }
  for (Tables& at : out) {  // (their arrays moved)
    at.kv.table = at.table.data();
    at.kv.length_BG = at.lengths.data();
  }
  return out;
}

TEST(PageWalk, PAG_09_B6_EveryKeyOfEverySequenceIsInOneUnit) {
  // Who walks all units once forms each pair of a query and a key that it sees once, and no other.
  for (const Tables& at : tables()) {
    const PageWalk walk(at.kv, at.B(), 0);
    std::map<Place, int> seen, held;
    std::int64_t lanes = 0;
    for (std::int64_t i = 0; i < walk.unit_count(); ++i) {
      const KeyUnit unit = walk.unit(i);
      const std::vector<Place> keys = keys_of(unit);
      ASSERT_EQ(static_cast<int>(keys.size()), unit.lanes);
      ASSERT_GE(unit.lanes, 1);
      ASSERT_LE(unit.lanes, kUnitKeys);
      for (const Place& key : keys) ++held[key];
      for (int v = 0; v < unit.viewer_count; ++v) {
        const Viewer& viewer = unit.viewers[v];
        ASSERT_EQ(viewer.unit, i);
        for (std::int64_t lane = 0; lane < viewer.lanes; ++lane, ++lanes) {
          const std::int64_t slot = viewer.slot + lane;
          ++seen[{viewer.b, slot}];
          const Place expected{page_at(at.kv, viewer.b, 0, slot / at.kv.Z), slot % at.kv.Z};
          ASSERT_EQ(keys[static_cast<std::size_t>(lane)], expected);
        }
      }
    }
    std::int64_t tokens = 0;
    for (std::int64_t b = 0; b < at.B(); ++b) {
      tokens += at.lengths[static_cast<std::size_t>(b)];
      for (std::int64_t s = 0; s < at.lengths[static_cast<std::size_t>(b)]; ++s)
        ASSERT_EQ((seen[{b, s}]), 1) << "sequence " << b << ", slot " << s;
    }
    EXPECT_EQ(lanes, tokens);
    for (const auto& [key, count] : held) EXPECT_EQ(count, 1) << "page " << key.first;
  }
}

TEST(PageWalk, B6_SmallPagesFillUnits) {
  // A unit is the keys that a kernel works on at once: pages of one slot cost no more units than
  // pages of 64.
  for (const std::int64_t Z : {1, 4, 16, 64, 256}) {
    for (const std::uint64_t seed : {0u, 7u}) {
      const Tables one(Z, {640}, 0, seed);
      EXPECT_EQ(PageWalk(one.kv, 1, 0).unit_count(), 10) << "pages of " << Z;
      // A prompt of 256 that three share, and 64 keys of each alone.
      const Tables shared(Z, {320, 320, 320}, 256 / Z, seed);
      EXPECT_EQ(PageWalk(shared.kv, 3, 0).unit_count(), 4 + 3) << "pages of " << Z;
    }
  }
}

TEST(PageWalk, B6_T20_GroupsShareNothing) {
  for (const Tables& at : tables()) {
    const PageWalk walk(at.kv, at.B(), 0);
    std::int64_t next = 0;
    std::set<std::int64_t> before, pages_before;
    for (const PageWalk::Group& group : walk.groups()) {
      EXPECT_EQ(group.first, next);
      next = group.last;
      std::set<std::int64_t> here, pages;
      for (std::int64_t i = group.first; i < group.last; ++i) {
        const KeyUnit unit = walk.unit(i);
        for (int v = 0; v < unit.viewer_count; ++v) here.insert(unit.viewers[v].b);
        for (int r = 0; r < unit.run_count; ++r) pages.insert(unit.runs[r].page);
      }
      for (const std::int64_t b : here) EXPECT_TRUE(before.insert(b).second) << b;
      for (const std::int64_t page : pages) EXPECT_TRUE(pages_before.insert(page).second) << page;
    }
    EXPECT_EQ(next, walk.unit_count());
  }
  const Tables apart(16, {100, 40, 70}, 0, 5), together(16, {100, 40, 70}, 1, 5);
  EXPECT_EQ(PageWalk(apart.kv, 3, 0).groups().size(), 3u);
  EXPECT_EQ(PageWalk(together.kv, 3, 0).groups().size(), 1u);
}

TEST(PageWalk, ViewsAreTheUnitsOfEachSequenceInTheOrderOfTheWalk) {
  for (const Tables& at : tables()) {
    const PageWalk walk(at.kv, at.B(), 0);
    const auto views = walk.views();
    ASSERT_EQ(static_cast<std::int64_t>(views.size()), at.B());
    for (std::int64_t b = 0; b < at.B(); ++b) {
      std::int64_t lanes = 0;
      std::int32_t last = -1;
      for (const Viewer& viewer : views[static_cast<std::size_t>(b)]) {
        EXPECT_EQ(viewer.b, b);
        EXPECT_GE(viewer.unit, last);
        last = viewer.unit;
        lanes += viewer.lanes;
      }
      EXPECT_EQ(lanes, at.lengths[static_cast<std::size_t>(b)]);
    }
  }
}

}  // namespace
}  // namespace quire::kernel

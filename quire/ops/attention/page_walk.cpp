#include "quire/ops/attention/page_walk.h"

#include <algorithm>
#include <numeric>

#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel {

PageWalk::PageWalk(const KvView& kv, std::int64_t B, std::int64_t g) : kv_(kv), B_(B), g_(g) {
  find_sights();
  const std::vector<std::int64_t> group = group_of_sequences();
  std::vector<std::int64_t> order(static_cast<std::size_t>(B));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t x, std::int64_t y) {
    return group[static_cast<std::size_t>(x)] < group[static_cast<std::size_t>(y)];
  });
  std::vector<bool> done(static_cast<std::size_t>(kv.P));
  std::int64_t last_group = -1;
  for (const std::int64_t b : order) {
    if (group[static_cast<std::size_t>(b)] != last_group) {
      last_group = group[static_cast<std::size_t>(b)];
      groups_.push_back({unit_count(), unit_count()});
    }
    for (std::int64_t w = 0; w < pages_of(b); ++w)
      if (!done[static_cast<std::size_t>(page_at(kv_, b, g_, w))]) add_pages(b, w, done);
    groups_.back().last = unit_count();
  }
}

KeyUnit PageWalk::unit(std::int64_t i) const {
  const Unit& at = units_[static_cast<std::size_t>(i)];
  return {runs_.data() + at.first_run, viewers_.data() + at.first_viewer, at.run_count,
          at.viewer_count, at.lanes};
}

std::vector<std::vector<Viewer>> PageWalk::views() const {
  std::vector<std::vector<Viewer>> out(static_cast<std::size_t>(B_));
  for (const Viewer& viewer : viewers_) out[static_cast<std::size_t>(viewer.b)].push_back(viewer);
  return out;
}

std::int64_t PageWalk::pages_of(std::int64_t b) const {
  return (view_length(kv_, b, g_) + kv_.Z - 1) / kv_.Z;
}

void PageWalk::find_sights() {
  sight_start_.assign(static_cast<std::size_t>(kv_.P) + 1, 0);
  for (std::int64_t b = 0; b < B_; ++b)
    for (std::int64_t w = 0; w < pages_of(b); ++w)
      ++sight_start_[static_cast<std::size_t>(page_at(kv_, b, g_, w)) + 1];
  std::partial_sum(sight_start_.begin(), sight_start_.end(), sight_start_.begin());
  sights_.resize(static_cast<std::size_t>(sight_start_.back()));
  std::vector<std::int64_t> next(sight_start_.begin(), sight_start_.end() - 1);
  for (std::int64_t b = 0; b < B_; ++b) {
    for (std::int64_t w = 0; w < pages_of(b); ++w)
      sights_[static_cast<std::size_t>(next[static_cast<std::size_t>(page_at(kv_, b, g_, w))]++)] =
          {b, w};
  }
}

/// The first sequence of each one's group.
std::vector<std::int64_t> PageWalk::group_of_sequences() const {
  std::vector<std::int64_t> parent(static_cast<std::size_t>(B_));
  std::iota(parent.begin(), parent.end(), 0);
  const auto root = [&](std::int64_t b) {
    while (parent[static_cast<std::size_t>(b)] != b) {
      std::int64_t& up = parent[static_cast<std::size_t>(b)];
      up = parent[static_cast<std::size_t>(up)];
      b = up;
    }
    return b;
  };
  for (std::size_t page = 0; page + 1 < sight_start_.size(); ++page) {
    for (std::int64_t i = sight_start_[page] + 1; i < sight_start_[page + 1]; ++i) {
      const std::int64_t x = root(sights_[static_cast<std::size_t>(i - 1)].b),
                         y = root(sights_[static_cast<std::size_t>(i)].b);
      parent[static_cast<std::size_t>(std::max(x, y))] = std::min(x, y);
    }
  }
  for (std::int64_t b = 0; b < B_; ++b) parent[static_cast<std::size_t>(b)] = root(b);
  return parent;
}

/// Whether all that see `next` see `page` just before it.
bool PageWalk::follows(std::int64_t page, std::int64_t next) const {
  const auto first = [&](std::int64_t p) {
    return static_cast<std::size_t>(sight_start_[static_cast<std::size_t>(p)]);
  };
  std::size_t i = first(page);
  for (std::size_t j = first(next); j < first(next + 1); ++j, ++i) {
    while (i < first(page + 1) &&
           (sights_[i].b != sights_[j].b || sights_[i].w + 1 != sights_[j].w)) {
      ++i;
    }
    if (i == first(page + 1)) return false;
  }
  return true;
}

/// Units from page w of sequence b on: of parts of a large page, or of several small ones.
void PageWalk::add_pages(std::int64_t b, std::int64_t w, std::vector<bool>& done) {
  std::vector<std::int64_t> pages{page_at(kv_, b, g_, w)};
  done[static_cast<std::size_t>(pages.back())] = true;
  if (kv_.Z >= kUnitKeys) {
    for (std::int64_t slot = 0; slot < kv_.Z; slot += kUnitKeys) add_unit(pages, slot);
    return;
  }
  while (++w < pages_of(b)) {
    const std::int64_t next = page_at(kv_, b, g_, w);
    const auto count = static_cast<std::int64_t>(pages.size());
    if ((count + 1) * kv_.Z > kUnitKeys || done[static_cast<std::size_t>(next)] ||
        !follows(pages.back(), next)) {
      break;
    }
    pages.push_back(next);
    done[static_cast<std::size_t>(next)] = true;
  }
  add_unit(pages, 0);
}

/// The unit of these pages from `slot` of the first on, if anyone has keys there.
void PageWalk::add_unit(const std::vector<std::int64_t>& pages, std::int64_t slot) {
  Unit unit{runs_.size(), viewers_.size(), 0, 0, 0};
  const auto page = static_cast<std::size_t>(pages.front());
  for (std::int64_t i = sight_start_[page]; i < sight_start_[page + 1]; ++i) {
    const Sight& sight = sights_[static_cast<std::size_t>(i)];
    std::int64_t whole = 1;
    while (whole < static_cast<std::int64_t>(pages.size()) && sight.w + whole < pages_of(sight.b) &&
           page_at(kv_, sight.b, g_, sight.w + whole) == pages[static_cast<std::size_t>(whole)]) {
      ++whole;
    }
    const std::int64_t first = sight.w * kv_.Z + slot;
    const std::int64_t lanes = std::min(
        {std::int64_t{kUnitKeys}, whole * kv_.Z - slot, view_length(kv_, sight.b, g_) - first});
    if (lanes <= 0) continue;
    viewers_.push_back(
        {sight.b, first, static_cast<int>(lanes), static_cast<std::int32_t>(units_.size())});
    unit.lanes = std::max(unit.lanes, static_cast<int>(lanes));
    ++unit.viewer_count;
  }
  if (unit.lanes == 0) return;
  std::int64_t left = unit.lanes;
  for (const std::int64_t p : pages) {
    if (left <= 0) break;
    const std::int64_t here = std::min(left, kv_.Z - slot);
    runs_.push_back({p, slot, static_cast<int>(here)});
    ++unit.run_count;
    left -= here;
  }
  units_.push_back(unit);
}

}  // namespace quire::kernel

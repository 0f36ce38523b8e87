#include <algorithm>
#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/page_walk.h"
#include "quire/ops/attention/thread_memory.h"

namespace quire::kernel {
namespace {

/// Queries of one piece of the second pass: a unit's keys are read once for all of them.
constexpr std::int64_t kPieceRows = 8 * kStepRows;

float* scratch(std::int64_t count) {
  thread_local ThreadMemory memory;
  return memory.floats(count);
}

/// Units [first, last) of kv head g's walk: what one owner walks.
struct Owner {
  std::int64_t g, first, last;
  double cost;
};

class Run {
 public:
  explicit Run(const AttentionBackward& args)
      : a_(args), group_(args.H / args.kv.G), floats_(backward_scratch(a_.kv.K, a_.kv.U, group_)) {
    const bool alike = a_.kv.table_head_stride == 0 && a_.kv.length_stride_G == 0;
    for (std::int64_t g = 0; g < (alike ? 1 : a_.kv.G); ++g) walks_.emplace_back(a_.kv, a_.B, g);
    for (std::int64_t g = 0; g < a_.kv.G; ++g)
      for (const PageWalk::Group& part : walk(g).groups()) add_owner(g, part);
    // The longest first, so that no thread begins a long walk when the others end.
    std::stable_sort(owners_.begin(), owners_.end(),
                     [](const Owner& x, const Owner& y) { return x.cost > y.cost; });
  }

  void operator()() {
    const bool keys = a_.dk_pages != nullptr || a_.dv_pages != nullptr || a_.dbias != nullptr;
    if (keys && one_pass_is_faster()) return walk_by_owners();
    if (keys) walk_by_units();
    walk_by_queries();
  }

 private:
  const PageWalk& walk(std::int64_t g) const {
    return walks_[walks_.size() == 1 ? 0 : static_cast<std::size_t>(g)];
  }

  double cost(const KeyUnit& unit) const {
    double sum = 0;
    for (int i = 0; i < unit.viewer_count; ++i) {
      const std::int64_t b = unit.viewers[i].b;
      sum += static_cast<double>(a_.start_J[b + 1] - a_.start_J[b]) * unit.viewers[i].lanes;
    }
    return sum;
  }

  void add_owner(std::int64_t g, PageWalk::Group part) {
    Owner owner{g, part.first, part.last, 0};
    for (std::int64_t i = part.first; i < part.last; ++i) owner.cost += cost(walk(g).unit(i));
    if (owner.cost > 0) owners_.push_back(owner);
  }

  /// Owners form five products where the two passes form seven, but may leave threads idle.
  bool one_pass_is_faster() const {
    const auto threads = static_cast<std::size_t>(thread_pool().threads());
    std::vector<double> busy(threads, 0.0);
    double total = 0;
    for (const Owner& owner : owners_) {
      *std::min_element(busy.begin(), busy.end()) += owner.cost;
      total += owner.cost;
    }
    return 5 * *std::max_element(busy.begin(), busy.end()) <=
           7 * total / static_cast<double>(threads);
  }

  void unit(std::int64_t g, const KeyUnit& unit, QueryRange queries, Pass pass) const {
    QUIRE_FOR_ISA(backward_unit)(a_, g, unit, queries, pass, scratch(floats_));
  }

  void walk_by_owners() const {
    thread_pool().run(static_cast<std::int64_t>(owners_.size()), [&](std::int64_t i) {
      const Owner& owner = owners_[static_cast<std::size_t>(i)];
      for (std::int64_t at = owner.first; at < owner.last; ++at)
        unit(owner.g, walk(owner.g).unit(at), {0, INT64_MAX}, Pass::kBoth);
    });
  }

  /// Gradients of keys and values: a unit has one owner, whoever it is.
  void walk_by_units() const {
    for (const Owner& owner : owners_) {
      thread_pool().run(owner.last - owner.first, [&](std::int64_t i) {
        unit(owner.g, walk(owner.g).unit(owner.first + i), {0, INT64_MAX}, Pass::kKeys);
      });
    }
  }

  struct Piece {
    std::int64_t g, b;
    QueryRange queries;
  };

  /// Gradients of queries: the owner of a few walks all that they see.
  void walk_by_queries() const {
    std::vector<Piece> pieces;
    const std::int64_t step = std::max<std::int64_t>(1, kPieceRows / group_);
    std::vector<std::vector<std::vector<Viewer>>> views;
    for (const PageWalk& each : walks_) views.push_back(each.views());
    for (std::int64_t g = 0; g < a_.kv.G; ++g) {
      for (std::int64_t b = 0; b < a_.B; ++b) {
        // The last queries see the most keys: they begin.
        const std::int64_t T = a_.start_J[b + 1] - a_.start_J[b];
        for (std::int64_t last = T; last > 0; last -= step)
          pieces.push_back({g, b, {std::max<std::int64_t>(0, last - step), last}});
      }
    }
    thread_pool().run(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      const std::size_t which = walks_.size() == 1 ? 0 : static_cast<std::size_t>(piece.g);
      for (const Viewer& viewer : views[which][static_cast<std::size_t>(piece.b)]) {
        KeyUnit one = walks_[which].unit(viewer.unit);
        one.viewers = &viewer;
        one.viewer_count = 1;
        unit(piece.g, one, piece.queries, Pass::kQueries);
      }
    });
  }

  const AttentionBackward& a_;
  std::int64_t group_, floats_;
  std::vector<PageWalk> walks_;  // one, where all kv heads have the same keys
  std::vector<Owner> owners_;
};

}  // namespace

void attention_backward_cpu(const AttentionBackward& args) { Run{args}(); }

}  // namespace quire::kernel

#include <algorithm>
#include <vector>

#include "quire/ops/index/element.h"
#include "quire/ops/index/groups.h"
#include "quire/ops/index/scatter_backward_kernel.h"

namespace quire::kernel {
namespace {

// One place and one column; the rows are those of its group.
template <class T>
struct Column {
  T* dself;
  T* dsrc;
  const T* src;
  Acc<T> self, dout;
  const std::int64_t* from;
  std::int64_t count, step;

  Acc<T> value(std::int64_t k) const { return widen(src[from[k] * step]); }
  void give(std::int64_t k, Acc<T> gradient) const { dsrc[from[k] * step] = narrow<T>(gradient); }
};

template <class T>
void share(const ScatterBackward& args, const Column<T>& at) {
  Acc<T> each = at.dout;
  if (args.combine == Combine::kMean) each = divide(each, at.count + (args.include ? 1 : 0));
  for (std::int64_t k = 0; k < at.count; ++k) at.give(k, each);
  *at.dself = narrow<T>(args.include ? each : 0);
}

// Products of all others, without division: what comes before times what comes after.
template <class T>
void product(const ScatterBackward& args, const Column<T>& at, std::vector<Acc<T>>& before) {
  before.resize(static_cast<std::size_t>(at.count));
  Acc<T> running = args.include ? at.self : 1;
  for (std::int64_t k = 0; k < at.count; ++k) {
    before[static_cast<std::size_t>(k)] = running;
    running *= at.value(k);
  }
  Acc<T> after = 1;
  for (std::int64_t k = at.count - 1; k >= 0; --k) {
    at.give(k, at.dout * (before[static_cast<std::size_t>(k)] * after));
    after *= at.value(k);
  }
  *at.dself = narrow<T>(args.include ? at.dout * after : 0);
}

template <class T, Combine C>
void extreme(const ScatterBackward& args, const Column<T>& at) {
  Acc<T> result = args.include ? at.self : identity<C, Acc<T>>();
  for (std::int64_t k = 0; k < at.count; ++k) result = combine<C>(result, at.value(k));
  const bool self_ties = args.self_ties && at.self == result;
  std::int64_t ties = self_ties ? 1 : 0;
  for (std::int64_t k = 0; k < at.count; ++k) ties += at.value(k) == result ? 1 : 0;
  // Nothing equals a NaN: 0 / 0, a NaN for everyone.
  const bool nan = result != result;
  const Acc<T> each = nan ? result : ties == 0 ? 0 : divide(at.dout, ties);
  for (std::int64_t k = 0; k < at.count; ++k) at.give(k, nan || at.value(k) == result ? each : 0);
  *at.dself = narrow<T>(args.include && (nan || self_ties) ? each : 0);
}

template <class T>
void place(const ScatterBackward& args, const Column<T>& at, std::vector<Acc<T>>& scratch) {
  switch (args.combine) {
    case Combine::kProd:
      return product(args, at, scratch);
    case Combine::kAmax:
      return extreme<T, Combine::kAmax>(args, at);
    case Combine::kAmin:
      return extreme<T, Combine::kAmin>(args, at);
    default:
      return share(args, at);
  }
}

template <class T>
void run(const ScatterBackward& args) {
  const Walk& walk = *args.walk;
  for_groups(walk, [&](const LaneCursor& lane, const Groups& groups, std::int64_t begin,
                       std::int64_t end) {
    std::vector<Acc<T>> scratch;
    for (std::int64_t g = begin; g < end; ++g) {
      if (groups.size(g) == 0) continue;
      const std::int64_t row = lane.place + groups.place(g) * walk.place_step;
      for (std::int64_t d = 0; d < walk.D; ++d) {
        place<T>(args,
                 {.dself = static_cast<T*>(args.dself) + row + d,
                  .dsrc = static_cast<T*>(args.dsrc) + lane.plain + d,
                  .src = static_cast<const T*>(args.src) + lane.plain + d,
                  .self = widen(static_cast<const T*>(args.self)[row + d]),
                  .dout = widen(static_cast<const T*>(args.dout)[row + d]),
                  .from = groups.first(g),
                  .count = groups.size(g),
                  .step = walk.plain_step},
                 scratch);
      }
    }
  });
}

}  // namespace

void scatter_backward_cpu(const ScatterBackward& args) {
  with_floating_type(args.dtype, [&]<class T>() { run<T>(args); });
}

}  // namespace quire::kernel

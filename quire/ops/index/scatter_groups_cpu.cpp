#include <algorithm>
#include <concepts>
#include <cstring>
#include <type_traits>

#include "quire/ops/index/element.h"
#include "quire/ops/index/groups.h"
#include "quire/ops/index/scatter_groups.h"
#include "quire/ops/index/walk.h"

namespace quire::kernel {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

template <class T, Combine C>
void fold_place(const Scatter& args, T* out, const T* init, const T* src, const std::int64_t* from,
                std::int64_t count) {
  constexpr std::int64_t kColumns = 64;
  const Walk& walk = *args.walk;
  using A = std::conditional_t<C == Combine::kMean && std::integral<T>, std::int64_t, Acc<T>>;
  const A alpha = factor<A>(args.alpha);
  for (std::int64_t d = 0; d < walk.D; d += kColumns) {
    const std::int64_t columns = std::min(kColumns, walk.D - d);
    A acc[kColumns];
    for (std::int64_t c = 0; c < columns; ++c)
      acc[c] = args.include ? A(widen(init[d + c])) : identity<C, A>();
    for (std::int64_t k = 0; k < count; ++k) {
      const T* row = src + from[k] * walk.plain_step + d;
      if (args.alpha == 1) {
        for (std::int64_t c = 0; c < columns; ++c) acc[c] = combine<C>(acc[c], A(widen(row[c])));
      } else {
        for (std::int64_t c = 0; c < columns; ++c)
          acc[c] = combine<C>(acc[c], times(alpha, A(widen(row[c]))));
      }
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      if (C == Combine::kMean) acc[c] = divide(acc[c], divisor(args, count));
      out[d + c] = narrow<T>(static_cast<Acc<T>>(acc[c]));
    }
  }
}

template <class T, Combine C>
void fold_groups(const Scatter& args) {
  const Walk& walk = *args.walk;
  const auto fold = QUIRE_FOR_ISA(fold_rows);
  for_groups(walk, [&](const LaneCursor& lane, const Groups& groups, std::int64_t begin,
                       std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t place = lane.place + groups.place(g) * walk.place_step;
      T* out = static_cast<T*>(args.out) + place;
      const T* init = static_cast<const T*>(args.self) + place;
      const T* src = static_cast<const T*>(args.src) + lane.plain;
      const std::int64_t count = groups.size(g);
      if (count == 0) {
        if (out != init) std::memcpy(out, init, at(walk.D) * sizeof(T));
      } else if constexpr (std::is_same_v<T, float>) {
        fold({.out = out,
              .init = args.include ? init : nullptr,
              .src = src,
              .src_step = walk.plain_step,
              .D = walk.D,
              .from = groups.first(g),
              .from_end = groups.end(),
              .count = count,
              .combine = args.combine,
              .alpha = static_cast<float>(args.alpha),
              .divisor = static_cast<float>(divisor(args, count))});
      } else {
        fold_place<T, C>(args, out, init, src, groups.first(g), count);
      }
    }
  });
}

}  // namespace

void scatter_by_groups(const Scatter& args) {
  with_type(args.dtype, [&]<class T>() {
    with_reduction(args.combine, [&]<Combine C>() {
      constexpr bool kHasNoMean = std::is_same_v<T, bool> && C == Combine::kMean;
      if constexpr (!kHasNoMean) fold_groups<T, C>(args);
    });
  });
}

}  // namespace quire::kernel

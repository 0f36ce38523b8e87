#include <algorithm>
#include <concepts>
#include <span>
#include <type_traits>
#include <vector>

#include "quire/ops/index/element.h"
#include "quire/ops/index/groups.h"
#include "quire/ops/index/scatter_groups.h"
#include "quire/ops/index/scatter_kernel.h"
#include "quire/ops/index/walk.h"

namespace quire::kernel {
namespace {

// Two ways to the same bits. Straight: the index is walked in order, each thread keeps to its range
// of places, and out is the accumulator. By groups: the index is turned around first, and each
// place is finished at once, in registers; the choice where out would not stay in the cache, and
// where the accumulator is not of out's dtype.

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

bool by_groups(const Scatter& args) {
  constexpr std::int64_t kCacheElements = 3 << 20;
  const Walk& walk = *args.walk;
  if (args.combine == Combine::kAssign) return false;
  if (args.dtype == DType::kF16 || args.dtype == DType::kBF16) return true;
  // The sum behind a mean of integers is i64.
  const bool integers = args.dtype != DType::kF64 && args.dtype != DType::kF32;
  if (args.combine == Combine::kMean && integers) return true;
  if (counted(args) && !groups_every_place(walk)) return true;
  return walk.D >= 8 && walk.M * walk.D > kCacheElements && groups_every_place(walk);
}

// The positions of a block of the index whose places lie in a range.
struct Block {
  static constexpr std::int64_t kSize = 512;
  std::int64_t place[kSize], from[kSize];
  std::uint8_t fresh[kSize];
  std::int64_t count = 0;

  void fill(const std::int64_t* index, std::int64_t step, std::int64_t begin, std::int64_t end,
            std::int64_t low, std::int64_t high) {
    const auto span = static_cast<std::uint64_t>(high - low);
    count = 0;
    for (std::int64_t n = begin; n < end; ++n) {
      const std::int64_t value = index[n * step];
      place[count] = value;
      from[count] = n;
      count += static_cast<std::uint64_t>(value - low) < span ? 1 : 0;
    }
  }
};

template <class T, Combine C>
void combine_block(const Scatter& args, T* out, const T* src, const Block& block, bool fresh) {
  const Walk& walk = *args.walk;
  const T alpha = factor<T>(args.alpha);
  const bool scaled = args.alpha != 1;
  if constexpr (std::is_same_v<T, float> && C != Combine::kAssign) {
    if (walk.D >= 8)
      return QUIRE_FOR_ISA(combine_rows)({.out = out,
                                          .src = src,
                                          .out_step = walk.place_step,
                                          .src_step = walk.plain_step,
                                          .D = walk.D,
                                          .place = block.place,
                                          .from = block.from,
                                          .fresh = fresh ? block.fresh : nullptr,
                                          .count = block.count,
                                          .combine = C,
                                          .alpha = alpha});
  }
  if (walk.D == 1 && !fresh && !scaled) {
    for (std::int64_t k = 0; k < block.count; ++k) {
      T& place = out[block.place[k] * walk.place_step];
      place = combine<C>(place, src[block.from[k] * walk.plain_step]);
    }
    return;
  }
  for (std::int64_t k = 0; k < block.count; ++k) {
    T* row = out + block.place[k] * walk.place_step;
    const T* add = src + block.from[k] * walk.plain_step;
    const bool first = fresh && block.fresh[k] != 0;
    for (std::int64_t d = 0; d < walk.D; ++d) {
      const T x = scaled ? times(alpha, add[d]) : add[d];
      row[d] = combine<C>(first ? identity<C, T>() : row[d], x);
    }
  }
}

template <class T, Combine C>
void combine_blocks(const Scatter& args, T* out, const T* src, const std::int64_t* index,
                    std::int64_t low, std::int64_t high, std::int64_t* met) {
  const Walk& walk = *args.walk;
  Block block;
  for (std::int64_t n = 0; n < walk.N; n += Block::kSize) {
    block.fill(index, walk.index_step, n, std::min(n + Block::kSize, walk.N), low, high);
    if (met != nullptr) {
      for (std::int64_t k = 0; k < block.count; ++k)
        block.fresh[k] = met[block.place[k]]++ == 0 ? 1 : 0;
    }
    combine_block<T, C>(args, out, src, block, !args.include && met != nullptr);
  }
}

// Single floats have a kernel of their own.
template <class T, Combine C>
bool next_to_each_other(const Scatter& args, std::int64_t span) {
  const Walk& walk = *args.walk;
  return std::is_same_v<T, float> && C != Combine::kAssign && walk.place_step == 1 &&
         walk.plain_step == 1 && walk.index_step == 1 && args.alpha == 1 && span < 1LL << 31;
}

// Places [low, high) of a lane, and the one of them, if any, that a large part of the index names.
struct Part {
  std::int64_t low, high, hot = -1;
};

// A part of one lane; met counts who came to each place (null: nobody asks).
template <class T, Combine C>
void combine_range(const Scatter& args, const LaneCursor& lane, const Part& part,
                   std::int64_t* met) {
  const auto [low, high, hot] = part;
  if (low == high) return;
  const Walk& walk = *args.walk;
  T* out = static_cast<T*>(args.out) + lane.place;
  const T* src = static_cast<const T*>(args.src) + lane.plain;
  const std::int64_t* index = walk.index + lane.index;
  if (walk.D == 1 && next_to_each_other<T, C>(args, high - low)) {
    QUIRE_FOR_ISA(combine_floats)
    ({.out = reinterpret_cast<float*>(out),
      .src = reinterpret_cast<const float*>(src),
      .index = index,
      .N = walk.N,
      .low = low,
      .high = high,
      .hot = hot,
      .met = met,
      .fresh = !args.include,
      .combine = C});
  } else {
    combine_blocks<T, C>(args, out, src, index, low, high, met);
  }
  if constexpr (C == Combine::kMean) {
    for (std::int64_t m = low; m < high; ++m) {
      if (met[m] == 0) continue;
      T* row = out + m * walk.place_step;
      for (std::int64_t d = 0; d < walk.D; ++d) row[d] = divide(row[d], divisor(args, met[m]));
    }
  }
}

// The place that most of a sorted sample name, where it is more than an eighth of it.
std::int64_t hot_place(std::span<const std::int64_t> sample) {
  std::int64_t hot = -1;
  std::size_t most = sample.size() / 8, run = 0;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    run = i > 0 && sample[i] == sample[i - 1] ? run + 1 : 1;
    if (run <= most) continue;
    most = run;
    hot = sample[i];
  }
  return hot;
}

// [0, M) cut so that each part is named about equally often: at the quantiles of a sample.
std::vector<Part> cut_places(const Walk& walk, const std::int64_t* index, std::int64_t count) {
  constexpr std::int64_t kSample = 1024;
  std::vector<std::int64_t> sample;
  const std::int64_t stride = walk.N / kSample + 1;
  for (std::int64_t n = 0; n < walk.N; n += stride) sample.push_back(index[n * walk.index_step]);
  std::sort(sample.begin(), sample.end());
  std::vector<Part> out;
  auto begin = sample.begin();
  for (std::int64_t p = 1; p <= count; ++p) {
    const std::int64_t low = out.empty() ? 0 : out.back().high;
    const std::int64_t high = p == count ? walk.M : sample[sample.size() * at(p) / at(count)];
    const auto end = std::lower_bound(begin, sample.end(), high);
    out.push_back({low, high, hot_place({begin, end})});
    begin = end;
  }
  return out;
}

template <class T, Combine C>
void combine_lanes(const Scatter& args) {
  const Walk& walk = *args.walk;
  const bool counts = counted(args);
  const std::int64_t lanes = walk.lane_count(), threads = thread_pool().threads();
  if (lanes >= threads || walk.N * walk.D < kWorthThreads) {
    for_pieces(lanes, walk.N * walk.D, [&](std::int64_t begin, std::int64_t end) {
      LaneCursor lane(walk.lanes, begin);
      std::vector<std::int64_t> met;
      for (std::int64_t i = begin; i < end; ++i, lane.next()) {
        if (counts) met.assign(at(walk.M), 0);
        const Part whole = walk.N * walk.D < kWorthThreads
                               ? Part{0, walk.M}
                               : cut_places(walk, walk.index + lane.index, 1).front();
        combine_range<T, C>(args, lane, whole, counts ? met.data() : nullptr);
      }
    });
    return;
  }
  // Every part reads the whole index, so there are few where a row is short.
  const std::int64_t count = std::min<std::int64_t>(threads, walk.D >= 16 ? 64 : 8);
  LaneCursor lane(walk.lanes, 0);
  std::vector<std::int64_t> met;
  for (std::int64_t i = 0; i < lanes; ++i, lane.next()) {
    if (counts) met.assign(at(walk.M), 0);
    const std::vector<Part> parts = cut_places(walk, walk.index + lane.index, count);
    thread_pool().run(count, [&](std::int64_t p) {
      combine_range<T, C>(args, lane, parts[at(p)], counts ? met.data() : nullptr);
    });
  }
}

// Lanes [first, last) of a line, beginning at `lane`: position after position, along the lanes, so
// that memory is read in order. Each lane has places of its own, whatever the index says. met holds
// M rows of `width` counts (null: nobody asks).
template <class T, Combine C>
void combine_strip(const Scatter& args, const LaneCursor& lane, const LaneDim& inner,
                   std::int64_t first, std::int64_t last, std::uint32_t* met, std::int64_t width) {
  constexpr std::int64_t kAhead = 12;
  const Walk& walk = *args.walk;
  const T alpha = factor<T>(args.alpha);
  const bool scaled = args.alpha != 1;
  T* out = static_cast<T*>(args.out) + lane.place;
  for (std::int64_t n = 0; n < walk.N; ++n) {
    const T* src = static_cast<const T*>(args.src) + lane.plain + n * walk.plain_step;
    const std::int64_t* index = walk.index + lane.index + n * walk.index_step;
    if (n + kAhead < walk.N) {
      // A step from position to position is too long for the processor to foresee.
      const T* next_src = src + kAhead * walk.plain_step;
      const std::int64_t* next_index = index + kAhead * walk.index_step;
      constexpr std::int64_t kSrcLine = 64 / static_cast<std::int64_t>(sizeof(T));
      for (std::int64_t l = first; l < last; l += kSrcLine)
        __builtin_prefetch(next_src + l * inner.plain, 0, 2);
      for (std::int64_t l = first; l < last; l += 8)
        __builtin_prefetch(next_index + l * inner.index, 0, 2);
    }
    for (std::int64_t l = first; l < last; ++l) {
      const std::int64_t at = index[l * inner.index];
      T& place = out[at * walk.place_step + l * inner.place];
      const T x = scaled ? times(alpha, src[l * inner.plain]) : src[l * inner.plain];
      const bool fresh = met != nullptr && met[at * width + l - first]++ == 0 && !args.include;
      place = combine<C>(fresh ? identity<C, T>() : place, x);
    }
  }
  if constexpr (C == Combine::kMean) {
    for (std::int64_t m = 0; m < walk.M; ++m) {
      for (std::int64_t l = first; l < last; ++l) {
        const std::uint32_t count = met[m * width + l - first];
        T& place = out[m * walk.place_step + l * inner.place];
        if (count > 0) place = divide(place, divisor(args, count));
      }
    }
  }
}

// An index with an entry for every element, whose neighbours belong to different lanes.
template <class T, Combine C>
void combine_lines(const Scatter& args) {
  const Walk& walk = *args.walk;
  const bool counts = counted(args);
  std::vector<LaneDim> outer = walk.lanes;
  const LaneDim inner = outer.back();
  outer.pop_back();
  std::int64_t lines = 1;
  for (const LaneDim& dim : outer) lines *= dim.size;
  constexpr auto kWidth = 64 / static_cast<std::int64_t>(sizeof(T));  // the places of a cache line
  const std::int64_t cuts = (inner.size + kWidth - 1) / kWidth;
  for_pieces(lines * cuts, walk.N * kWidth, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint32_t> met;
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const LaneCursor lane(outer, piece / cuts);
      const std::int64_t first = piece % cuts * kWidth;
      if (counts) met.assign(at(walk.M * kWidth), 0);
      combine_strip<T, C>(args, lane, inner, first, std::min(first + kWidth, inner.size),
                          counts ? met.data() : nullptr, kWidth);
    }
  });
}

template <class T, Combine C>
void straight(const Scatter& args) {
  const Walk& walk = *args.walk;
  // Counts of a strip are 32 bits wide, and its table must stay small beside the index.
  const bool countable = !counted(args) || (walk.N < 1LL << 32 && groups_every_place(walk));
  const bool lines =
      walk.D == 1 && !walk.lanes.empty() && countable && walk.lanes.back().plain < walk.plain_step;
  if (lines) {
    combine_lines<T, C>(args);
  } else {
    combine_lanes<T, C>(args);
  }
}

}  // namespace

bool scatter_fills(const Scatter& args) {
  const Walk& walk = *args.walk;
  return by_groups(args) && groups_every_place(walk) && walk.lanes.empty() &&
         walk.M * walk.D == args.out_elements;
}

void scatter_cpu(const Scatter& args) {
  const Walk& walk = *args.walk;
  if (walk.lane_count() * walk.N * walk.D == 0) return;
  if (args.combine == Combine::kAssign) {
    // Elements move as they are: two bytes are two bytes.
    const bool is_short = args.dtype == DType::kF16 || args.dtype == DType::kBF16;
    return with_type(is_short ? DType::kI16 : args.dtype, [&]<class T>() {
      if constexpr (!kIsShort<T>) straight<T, Combine::kAssign>(args);
    });
  }
  if (by_groups(args)) return scatter_by_groups(args);
  with_type(args.dtype, [&]<class T>() {
    with_reduction(args.combine, [&]<Combine C>() {
      constexpr bool kOnlyByGroups = kIsShort<T> || (std::integral<T> && C == Combine::kMean);
      if constexpr (!kOnlyByGroups) straight<T, C>(args);
    });
  });
}

}  // namespace quire::kernel

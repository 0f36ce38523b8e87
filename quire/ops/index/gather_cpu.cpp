#include <algorithm>
#include <atomic>

#include "quire/ops/index/gather_kernel.h"
#include "quire/ops/index/walk.h"

namespace quire::kernel {
namespace {

// Indices are checked in blocks that stay in the first cache until the copy reads them again.
constexpr std::int64_t kBlock = 1024;

bool in_range(const std::int64_t* index, std::int64_t step, std::int64_t count, std::int64_t M) {
  bool good = true;
  for (std::int64_t n = 0; n < count; ++n)
    good &= static_cast<std::uint64_t>(index[n * step]) < static_cast<std::uint64_t>(M);
  return good;
}

bool copy_rows(const Gather& args, const LaneCursor& lane, std::int64_t begin, std::int64_t end,
               bool stream) {
  const Walk& walk = *args.walk;
  const std::int64_t bytes = args.element_bytes;
  const auto rows = QUIRE_FOR_ISA(gather_rows);
  for (std::int64_t n = begin; n < end; n += kBlock) {
    const std::int64_t count = std::min(kBlock, end - n);
    const std::int64_t* index = walk.index + lane.index + n * walk.index_step;
    if (!in_range(index, walk.index_step, count, walk.M)) return false;
    rows({.out = static_cast<std::byte*>(args.out) + (lane.plain + n * walk.plain_step) * bytes,
          .self = static_cast<const std::byte*>(args.self) + lane.place * bytes,
          .index = index,
          .out_step = walk.plain_step * bytes,
          .self_step = walk.place_step * bytes,
          .index_step = walk.index_step,
          .row_bytes = walk.D * bytes,
          .count = count,
          .stream = stream});
  }
  return true;
}

// Output larger than any cache goes around them: a line is then not read before it is written.
bool worth_streaming(const Gather& args) {
  constexpr std::int64_t kLargerThanCaches = 32 << 20;
  const Walk& walk = *args.walk;
  const std::int64_t bytes = args.element_bytes;
  if (walk.D * bytes % 64 != 0 || walk.plain_step * bytes % 64 != 0) return false;
  if (reinterpret_cast<std::uintptr_t>(args.out) % 64 != 0) return false;
  for (const LaneDim& lane : walk.lanes)
    if (lane.plain * bytes % 64 != 0) return false;
  return walk.lane_count() * walk.N * walk.D * bytes >= kLargerThanCaches;
}

bool gather_whole_rows(const Gather& args) {
  const Walk& walk = *args.walk;
  const bool stream = worth_streaming(args);
  std::atomic<bool> good = true;
  const std::int64_t rows = walk.lane_count() * walk.N;
  for_pieces(rows, walk.D, [&](std::int64_t begin, std::int64_t end) {
    LaneCursor lane(walk.lanes, begin / walk.N);
    while (begin < end) {
      const std::int64_t n = begin % walk.N, count = std::min(end - begin, walk.N - n);
      if (!copy_rows(args, lane, n, n + count, stream)) good = false;
      begin += count;
      lane.next();
    }
  });
  return good;
}

// One line of elements: `inner` runs along the index or along a lane, whichever is denser in out.
template <class T>
bool copy_line(T* out, const T* self, const std::int64_t* index, const Walk& walk,
               const LaneDim& inner) {
  bool good = true;
  const auto M = static_cast<std::uint64_t>(walk.M);
  for (std::int64_t i = 0; i < inner.size; ++i) {
    const auto value = static_cast<std::uint64_t>(index[i * inner.index]);
    const bool fine = value < M;
    good &= fine;
    const std::int64_t at = fine ? static_cast<std::int64_t>(value) : 0;
    out[i * inner.plain] = self[i * inner.place + at * walk.place_step];
  }
  return good;
}

template <class T>
bool gather_elements(const Gather& args) {
  const Walk& walk = *args.walk;
  std::vector<LaneDim> dims = walk.lanes;
  dims.push_back({walk.N, 0, walk.plain_step, walk.index_step});
  if (dims.size() > 1 && dims[dims.size() - 2].plain < walk.plain_step)
    std::swap(dims.back(), dims[dims.size() - 2]);
  const LaneDim inner = dims.back();
  dims.pop_back();
  std::int64_t lines = 1;
  for (const LaneDim& dim : dims) lines *= dim.size;
  // A line alone is cut into pieces as well; M > 0 wherever there is an index.
  const std::int64_t cuts = lines == 1 ? std::max<std::int64_t>(1, inner.size / 4096) : 1;
  std::atomic<bool> good = true;
  for_pieces(lines * cuts, inner.size / cuts, [&](std::int64_t begin, std::int64_t end) {
    LaneCursor at(dims, begin / cuts);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t from = inner.size * (i % cuts) / cuts;
      LaneDim part = inner;
      part.size = inner.size * (i % cuts + 1) / cuts - from;
      if (!copy_line(static_cast<T*>(args.out) + at.plain + from * inner.plain,
                     static_cast<const T*>(args.self) + at.place + from * inner.place,
                     walk.index + at.index + from * inner.index, walk, part))
        good = false;
      if (cuts == 1) at.next();
    }
  });
  return good;
}

}  // namespace

bool gather_cpu(const Gather& args) {
  const Walk& walk = *args.walk;
  if (walk.lane_count() * walk.N * walk.D == 0) return true;
  if (walk.M == 0) return false;
  if (walk.D > 1) return gather_whole_rows(args);
  switch (args.element_bytes) {
    case 1:
      return gather_elements<std::uint8_t>(args);
    case 2:
      return gather_elements<std::uint16_t>(args);
    case 4:
      return gather_elements<std::uint32_t>(args);
    default:
      return gather_elements<std::uint64_t>(args);
  }
}

}  // namespace quire::kernel

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <type_traits>

#include "quire/ops/index/element.h"
#include "quire/ops/index/sort_kernel.h"
#include "quire/ops/index/walk.h"

namespace quire::kernel {
namespace {

// An unsigned number that orders as the element does: NaN above all, -0 as +0.
template <class T>
std::uint64_t order_key(T x) {
  if constexpr (std::integral<T>) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(x)) ^ std::uint64_t{1} << 63;
  } else {
    const auto wide = static_cast<double>(widen(x));
    if (wide != wide) return ~std::uint64_t{0};
    const auto bits = std::bit_cast<std::uint64_t>(wide == 0 ? 0.0 : wide);
    return bits >> 63 != 0 ? ~bits : bits | std::uint64_t{1} << 63;
  }
}

struct Item {
  std::uint64_t key;
  std::int64_t from;
};

// Stable radix sort, a byte at a time; bytes that are equal everywhere are passed over.
void radix_sort(std::vector<Item>& items, std::vector<Item>& spare) {
  std::array<std::array<std::int64_t, 256>, 8> counts{};
  for (const Item& item : items) {
    for (std::size_t b = 0; b < 8; ++b) ++counts[b][item.key >> (8 * b) & 255];
  }
  spare.resize(items.size());
  for (std::size_t b = 0; b < 8; ++b) {
    auto& count = counts[b];
    if (count[items[0].key >> (8 * b) & 255] == static_cast<std::int64_t>(items.size())) continue;
    std::int64_t total = 0;
    for (std::int64_t& c : count) {
      const std::int64_t here = c;
      c = total;
      total += here;
    }
    for (const Item& item : items)
      spare[static_cast<std::size_t>(count[item.key >> (8 * b) & 255]++)] = item;
    items.swap(spare);
  }
}

void sort_items(std::vector<Item>& items, std::vector<Item>& spare) {
  constexpr std::size_t kWorthRadix = 512;
  if (items.size() >= kWorthRadix) return radix_sort(items, spare);
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.key != b.key ? a.key < b.key : a.from < b.from;
  });
}

template <class T>
void run(const Sort& args) {
  std::vector<LaneDim> dims;
  std::int64_t lanes = 1;
  for (std::size_t d = 0; d < args.sizes.size(); ++d) {
    dims.push_back({args.sizes[d], args.x_strides[d], args.out_strides[d], 0});
    lanes *= args.sizes[d];
  }
  for_pieces(lanes, args.N * 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<Item> items, spare;
    LaneCursor lane(dims, begin);
    for (std::int64_t l = begin; l < end; ++l, lane.next()) {
      const T* x = static_cast<const T*>(args.x) + lane.place;
      items.resize(static_cast<std::size_t>(args.N));
      for (std::int64_t n = 0; n < args.N; ++n) {
        const std::uint64_t key = order_key(x[n * args.x_step]);
        items[static_cast<std::size_t>(n)] = {args.descending ? ~key : key, n};
      }
      sort_items(items, spare);
      T* values = static_cast<T*>(args.values) + lane.plain;
      std::int64_t* index = args.index + lane.plain;
      for (std::int64_t n = 0; n < args.N; ++n) {
        const std::int64_t from = items[static_cast<std::size_t>(n)].from;
        values[n * args.out_step] = x[from * args.x_step];
        index[n * args.out_step] = from;
      }
    }
  });
}

}  // namespace

void sort_cpu(const Sort& args) {
  with_type(args.dtype, [&]<class T>() { run<T>(args); });
}

}  // namespace quire::kernel

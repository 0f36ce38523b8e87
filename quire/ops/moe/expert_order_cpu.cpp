#include <algorithm>
#include <vector>

#include "quire/ops/moe/expert_order_kernel.h"

namespace quire::kernel {

std::int64_t first_outside_cpu(const std::int64_t* x, std::int64_t count, std::int64_t low,
                               std::int64_t high) {
  for (std::int64_t i = 0; i < count; ++i)
    if (x[i] < low || x[i] >= high) return i;
  return -1;
}

std::int64_t first_repeated_cpu(const std::int64_t* x, std::int64_t count, std::int64_t slots) {
  std::vector<bool> seen(static_cast<std::size_t>(slots));
  for (std::int64_t i = 0; i < count; ++i) {
    if (seen[static_cast<std::size_t>(x[i])]) return i;
    seen[static_cast<std::size_t>(x[i])] = true;
  }
  return -1;
}

std::int64_t first_falling_cpu(const std::int64_t* x, std::int64_t count) {
  for (std::int64_t i = 1; i < count; ++i)
    if (x[i] < x[i - 1]) return i;
  return -1;
}

void count_experts_cpu(const std::int64_t* experts, std::int64_t slots, std::int64_t E,
                       std::int64_t* start) {
  for (std::int64_t i = 0; i < slots; ++i)
    if (experts[i] >= 0) ++start[experts[i] + 1];
  for (std::int64_t e = 0; e < E; ++e) start[e + 1] += start[e];
}

void place_slots_cpu(const std::int64_t* experts, std::int64_t slots, std::int64_t E,
                     const std::int64_t* start, std::int64_t* slot) {
  std::vector<std::int64_t> next(start, start + E);
  for (std::int64_t i = 0; i < slots; ++i)
    if (experts[i] >= 0) slot[next[static_cast<std::size_t>(experts[i])]++] = i;
}

void map_experts_cpu(std::int64_t* out, const std::int64_t* experts, std::int64_t count,
                     const std::int64_t* map) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = experts[i] < 0 ? -1 : map[experts[i]];
}

void fill_experts_cpu(std::int64_t* out, const std::int64_t* start, std::int64_t E) {
  for (std::int64_t e = 0; e < E; ++e) std::fill(out + start[e], out + start[e + 1], e);
}

std::int64_t count_blocks_cpu(const std::int64_t* start, std::int64_t E, std::int64_t block_rows) {
  std::int64_t blocks = 0;
  for (std::int64_t e = 0; e < E; ++e)
    blocks += (start[e + 1] - start[e] + block_rows - 1) / block_rows;
  return blocks;
}

void pad_order_cpu(const PadOrder& args, std::int64_t* slot, std::int64_t* expert) {
  for (std::int64_t e = 0; e < args.E; ++e) {
    for (std::int64_t m = args.start[e]; m < args.start[e + 1]; m += args.block_rows) {
      const std::int64_t count = std::min(args.block_rows, args.start[e + 1] - m);
      std::copy(args.slot + m, args.slot + m + count, slot);
      std::fill(slot + count, slot + args.block_rows, args.padding);
      slot += args.block_rows;
      *expert++ = e;
    }
  }
}

std::int64_t unpad_order_cpu(const std::int64_t* slot, const std::int64_t* expert,
                             std::int64_t blocks, const PadOrder& args, std::int64_t* out_slot,
                             std::int64_t* out_expert) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < blocks * args.block_rows; ++i) {
    const std::int64_t e = expert[i / args.block_rows];
    if (slot[i] == args.padding || e < 0) continue;
    out_slot[count] = slot[i];
    out_expert[count++] = e;
  }
  return count;
}

}  // namespace quire::kernel

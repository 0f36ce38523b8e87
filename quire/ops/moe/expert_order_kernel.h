#pragma once

#include <cstdint>

namespace quire::kernel {

/// The first position whose value is not in [low, high), or −1.
std::int64_t first_outside_cpu(const std::int64_t* x, std::int64_t count, std::int64_t low,
                               std::int64_t high);
/// The first position whose value stood before (all in [0, slots)), or −1.
std::int64_t first_repeated_cpu(const std::int64_t* x, std::int64_t count, std::int64_t slots);
/// The first position that is below the one before it, or −1.
std::int64_t first_falling_cpu(const std::int64_t* x, std::int64_t count);

/// Counts into start[e + 1] (given zeros), sums up, and places the slots; −1 is left out. `slot`
/// has room for start[E] numbers: it is filled in the second of two calls.
void count_experts_cpu(const std::int64_t* experts, std::int64_t slots, std::int64_t E,
                       std::int64_t* start);
void place_slots_cpu(const std::int64_t* experts, std::int64_t slots, std::int64_t E,
                     const std::int64_t* start, std::int64_t* slot);
/// out[i] = map[experts[i]], −1 for −1.
void map_experts_cpu(std::int64_t* out, const std::int64_t* experts, std::int64_t count,
                     const std::int64_t* map);
/// out[m] = the expert whose range holds m.
void fill_experts_cpu(std::int64_t* out, const std::int64_t* start, std::int64_t E);

/// How many blocks the padded order has.
std::int64_t count_blocks_cpu(const std::int64_t* start, std::int64_t E, std::int64_t block_rows);
struct PadOrder {
  const std::int64_t* start;
  const std::int64_t* slot;
  std::int64_t E, block_rows, padding;
};
void pad_order_cpu(const PadOrder& args, std::int64_t* slot, std::int64_t* expert);
/// What stands in the blocks without the padding: the slots and their experts. Returns how many.
std::int64_t unpad_order_cpu(const std::int64_t* slot, const std::int64_t* expert,
                             std::int64_t blocks, const PadOrder& args, std::int64_t* out_slot,
                             std::int64_t* out_expert);

}  // namespace quire::kernel

#include "quire/ops/moe/expert_order.h"

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/ops/moe/expert_order_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

void check_integers(const char* name, const Tensor& x) {
  QUIRE_CHECK(x.dtype() == DType::kI64 || x.dtype() == DType::kI32, name, " is ",
              to_string(x.dtype()), ", expected i64 or i32");
}

void check_range(const char* name, const Tensor& x, std::int64_t low, std::int64_t high) {
  const auto* at = x.data<std::int64_t>();
  const std::int64_t bad = kernel::first_outside_cpu(at, x.elements(), low, high);
  QUIRE_CHECK(bad < 0, name, "[", bad, "] is ", at[bad], ", expected ", low, " to ", high - 1);
}

}  // namespace

ExpertOrder::ExpertOrder(const Tensor& slot_M, const Tensor& start_J, std::int64_t slots)
    : slots_(slots) {
  const Dims dims = QUIRE_DIMS(slot_M, start_J);
  check_integers("slot_M", slot_M);
  check_integers("start_J", start_J);
  QUIRE_CHECK(dims['J'] > 0, "start_J has no elements, expected E + 1");
  QUIRE_CHECK(slots >= dims['M'], "slots is ", slots, ", but slot_M has M = ", dims['M']);
  slot_M_ = slot_M.to(DType::kI64);
  start_J_ = start_J.to(DType::kI64);
  check_range("slot_M", slot_M_, 0, slots);
  check_range("start_J", start_J_, 0, dims['M'] + 1);
  const auto* start = start_J_.data<std::int64_t>();
  const std::int64_t falling = kernel::first_falling_cpu(start, dims['J']);
  QUIRE_CHECK(falling < 0, "start_J[", falling, "] is ", start[falling], ", less than start_J[",
              falling - 1, "] = ", start[falling - 1]);
  QUIRE_CHECK(start[0] == 0 && start[dims['J'] - 1] == dims['M'], "start_J runs from ", start[0],
              " to ", start[dims['J'] - 1], ", expected 0 to M = ", dims['M']);
  const auto* slot = slot_M_.data<std::int64_t>();
  const std::int64_t repeated = kernel::first_repeated_cpu(slot, dims['M'], slots);
  QUIRE_CHECK(repeated < 0, "slot_M[", repeated, "] is ", slot[repeated], ", which stood before");
}

ExpertOrder expert_order(const Tensor& experts_NC, std::int64_t E) {
  const Dims dims = QUIRE_DIMS(experts_NC);
  check_integers("experts_NC", experts_NC);
  QUIRE_CHECK(E > 0 && E < (std::int64_t{1} << 40), "E is ", E, ", expected at least 1");
  const Tensor experts = experts_NC.to(DType::kI64);
  check_range("experts_NC", experts, -1, E);
  const std::int64_t slots = dims['N'] * dims['C'];
  Tensor start_J = Tensor::zeros({E + 1}, DType::kI64);
  auto* start = start_J.mutable_data<std::int64_t>();
  kernel::count_experts_cpu(experts.data<std::int64_t>(), slots, E, start);
  Tensor slot_M = Tensor::empty({start[E]}, DType::kI64);
  kernel::place_slots_cpu(experts.data<std::int64_t>(), slots, E, start,
                          slot_M.mutable_data<std::int64_t>());
  return ExpertOrder(slot_M, start_J, slots);
}

Tensor map_experts(const Tensor& experts_NC, const Tensor& map_E) {
  (void)QUIRE_DIMS(experts_NC, map_E);
  check_integers("experts_NC", experts_NC);
  check_integers("map_E", map_E);
  const Tensor experts = experts_NC.to(DType::kI64), map = map_E.to(DType::kI64);
  check_range("experts_NC", experts, -1, map.size(0));
  check_range("map_E", map, -1, map.size(0));
  Tensor out = Tensor::empty(experts.shape(), DType::kI64);
  kernel::map_experts_cpu(out.mutable_data<std::int64_t>(), experts.data<std::int64_t>(),
                          out.elements(), map.data<std::int64_t>());
  return out;
}

Tensor sorted_experts(const ExpertOrder& order) {
  Tensor out = Tensor::empty({order.rows()}, DType::kI64);
  kernel::fill_experts_cpu(out.mutable_data<std::int64_t>(), order.start_J().data<std::int64_t>(),
                           order.experts());
  return out;
}

Tensor inclusive_ends(const ExpertOrder& order) {
  return order.start_J().slice(0, 1, order.experts() + 1).to(DType::kI64);
}

ExpertOrder order_of_ends(const Tensor& slot_M, const Tensor& ends_E, std::int64_t slots) {
  (void)QUIRE_DIMS(slot_M, ends_E);
  check_integers("ends_E", ends_E);
  Tensor start_J = Tensor::zeros({ends_E.size(0) + 1}, DType::kI64);
  const Tensor ends = ends_E.to(DType::kI64);
  auto* start = start_J.mutable_data<std::int64_t>() + 1;
  for (std::int64_t e = 0; e < ends.size(0); ++e) start[e] = ends.data<std::int64_t>()[e];
  return ExpertOrder(slot_M, start_J, slots);
}

PaddedBlocks padded_blocks(const ExpertOrder& order, std::int64_t block_rows) {
  QUIRE_CHECK(block_rows > 0 && block_rows < (std::int64_t{1} << 32), "block_rows is ", block_rows,
              ", expected at least 1");
  const auto* start = order.start_J().data<std::int64_t>();
  const std::int64_t blocks = kernel::count_blocks_cpu(start, order.experts(), block_rows);
  const Checked entries =
      Checked(static_cast<std::uint64_t>(blocks)) * Checked(static_cast<std::uint64_t>(block_rows));
  QUIRE_CHECK(entries.at_most(1ull << 40), "blocks of ", block_rows, " rows: too many entries");
  PaddedBlocks out{Tensor::empty({blocks * block_rows}, DType::kI64),
                   Tensor::empty({blocks}, DType::kI64)};
  kernel::pad_order_cpu({.start = start,
                         .slot = order.slot_M().data<std::int64_t>(),
                         .E = order.experts(),
                         .block_rows = block_rows,
                         .padding = order.slots()},
                        out.slot.mutable_data<std::int64_t>(),
                        out.expert.mutable_data<std::int64_t>());
  return out;
}

ExpertOrder order_of_blocks(const PaddedBlocks& blocks, std::int64_t E, std::int64_t slots) {
  const std::int64_t count = blocks.expert.elements(), entries = blocks.slot.elements();
  check_integers("slot", blocks.slot);
  check_integers("expert", blocks.expert);
  QUIRE_CHECK(E > 0 && slots >= 0, "E is ", E, " and slots ", slots);
  QUIRE_CHECK(count == 0 ? entries == 0 : entries % count == 0, "slot has ", entries,
              " entries, expected a multiple of the ", count, " blocks");
  const Tensor slot = blocks.slot.to(DType::kI64), expert = blocks.expert.to(DType::kI64);
  check_range("slot", slot, 0, slots + 1);
  check_range("expert", expert, -1, E);
  Tensor kept = Tensor::empty({entries}, DType::kI64), of = Tensor::empty({entries}, DType::kI64);
  const std::int64_t M =
      kernel::unpad_order_cpu(slot.data<std::int64_t>(), expert.data<std::int64_t>(), count,
                              {.start = nullptr,
                               .slot = nullptr,
                               .E = E,
                               .block_rows = count == 0 ? 1 : entries / count,
                               .padding = slots},
                              kept.mutable_data<std::int64_t>(), of.mutable_data<std::int64_t>());
  const Tensor experts = of.slice(0, 0, M);
  const auto* sorted = experts.data<std::int64_t>();
  const std::int64_t falling = kernel::first_falling_cpu(sorted, M);
  QUIRE_CHECK(falling<0, "expert ", M> 0 && falling >= 0 ? sorted[falling] : 0,
              " has a block behind those of a later expert");
  Tensor start_J = Tensor::zeros({E + 1}, DType::kI64);
  kernel::count_experts_cpu(sorted, M, E, start_J.mutable_data<std::int64_t>());
  return ExpertOrder(kept.slice(0, 0, M), start_J, slots);
}

}  // namespace quire

#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Whether the rows of a tensor stand in the order of their tokens, or grouped by expert.
enum class RowOrder : std::uint8_t { kScattered, kGrouped };

/// Which slots belong to which expert. A slot is one choice of one token: slot n · C + c is choice
/// c of token n. Expert e has the slots slot_M[start_J[e]] to slot_M[start_J[e + 1] − 1], in order.
/// Slots of no expert (−1 before sorting) are left out: M is then smaller than the number of slots.
class ExpertOrder {
 public:
  /// From tensors that stand in that order already.
  ///
  /// slot_M   i64, each slot at most once
  /// start_J  i64 [E + 1], not falling, from 0 to M
  /// slots    how many there are, at least M
  ///
  /// Throws  ArgumentError on the above, with the position.
  ExpertOrder(const Tensor& slot_M, const Tensor& start_J, std::int64_t slots);

  const Tensor& slot_M() const { return slot_M_; }
  const Tensor& start_J() const { return start_J_; }
  std::int64_t slots() const { return slots_; }
  std::int64_t experts() const { return start_J_.size(0) - 1; }
  std::int64_t rows() const { return slot_M_.size(0); }

 private:
  Tensor slot_M_, start_J_;
  std::int64_t slots_;
};

/// Sorts the slots by (expert, slot): the order inside an expert is that of the tokens.
///
/// experts_NC  i64 or i32, each in [0, E) or −1 (an expert of another rank); one expert may be
///             chosen twice by a token
/// E           at least 1
///
/// Throws  ArgumentError on the above, with the position.
/// Order   stable; the same with any number of threads.
ExpertOrder expert_order(const Tensor& experts_NC, std::int64_t E);

/// The numbers that experts have here: out[n, c] = map_E[experts[n, c]], −1 for those that live
/// elsewhere. Both i64; −1 stays −1. Throws ArgumentError with the position of any other number.
Tensor map_experts(const Tensor& experts_NC, const Tensor& map_E);

/// The expert of each sorted slot, i64 [M].
Tensor sorted_experts(const ExpertOrder& order);

/// The starts as ends without the leading 0, i64 [E]: what xma and grouped_mm take. And back;
/// throws as ExpertOrder does.
Tensor inclusive_ends(const ExpertOrder& order);
ExpertOrder order_of_ends(const Tensor& slot_M, const Tensor& ends_E, std::int64_t slots);

/// The order with each expert's slots padded to whole blocks by the number of slots, as vLLM has
/// it: slot [blocks · block_rows] and the expert of each block, both i64. And back: E and the
/// number of slots are told, as padding does not show them. Throws ArgumentError for block_rows
/// below 1, and as ExpertOrder does.
struct PaddedBlocks {
  Tensor slot, expert;
};
PaddedBlocks padded_blocks(const ExpertOrder& order, std::int64_t block_rows);
ExpertOrder order_of_blocks(const PaddedBlocks& blocks, std::int64_t E, std::int64_t slots);

}  // namespace quire

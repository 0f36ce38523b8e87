#pragma once

#include <cstddef>
#include <cstdint>

#include "quire/base/isa.h"

namespace quire::kernel {

inline constexpr std::int64_t kPanelRows = 16;
inline constexpr std::int64_t kGroup = 32;  // columns that share one scale of a rounded input

/// What a block type tells the packer.
struct PanelFormat {
  std::int64_t block;        // columns in a block of the file
  std::int64_t block_bytes;  // bytes of a block in the file
  std::int64_t panel_bytes;  // bytes of 16 rows × one block in a panel
  bool quantized;            // has an integer form
};

/// One scale, and the sums that correct for the zero point and the minimum of a weight block, for
/// 32 rounded inputs.
struct Rounded {
  float scale;
  float scaled_sum;  // scale · Σ
  std::int32_t sum;  // Σ of the 32 rounded values
};

/// One weight of a product and where its result goes.
struct MatmulWeight {
  int type;  // WeightType as a number
  const std::byte* panels;
  std::int64_t M, D;  // rows and columns
  float* out_NM;      // rows M apart
};

/// The input of a product, shared by all of its weights.
struct MatmulInput {
  const float* x_ND;  // contiguous
  std::int64_t N, D;
  int terms;                      // 0: exact; 1 or 2: rounded, where the weight has an integer form
  const std::int8_t* rounded_ND;  // terms · N rows; row n · terms + t is term t of input n
  const Rounded* rounded_NG;      // [terms · N, D / 32]
};

/// Panels [first, last) of one weight for all rows of the input.
struct MatmulPiece {
  MatmulWeight weight;
  MatmulInput input;
  std::int64_t first, last;
  float* scratch;  // matmul_scratch(D) floats
};

/// Floats of scratch that a piece needs: four widened panels, which is more than an unpacked one.
constexpr std::int64_t matmul_scratch(std::int64_t D) { return 4 * 16 * D; }

/// Several weights times one input: rounds the input where needed and shares the panels of all
/// weights among the threads.
struct Matmul {
  const MatmulWeight* weights;
  int count;
  const float* x_ND;
  std::int64_t N, D;
  int terms;
};
void matmul_cpu(const Matmul& args);

QUIRE_DECLARE_KERNEL(PanelFormat, panel_format, int type)
/// Packs `rows` (1 to 16) rows of the file form, `stride` bytes apart, into one panel; absent rows
/// become zero.
QUIRE_DECLARE_KERNEL(void, pack_panel, int type, const std::byte* source, std::int64_t stride,
                     int rows, std::int64_t D, std::byte* panel)
/// The panel as floats [D, 16].
QUIRE_DECLARE_KERNEL(void, widen_panel, int type, const std::byte* panel, std::int64_t D,
                     float* tile_D16)
QUIRE_DECLARE_KERNEL(void, matmul_piece, const MatmulPiece& piece)
/// Rounds one row of D inputs (a multiple of 32) into `terms` rows of int8.
QUIRE_DECLARE_KERNEL(void, round_row, const float* x_D, std::int64_t D, int terms,
                     std::int8_t* rounded, Rounded* groups)

}  // namespace quire::kernel

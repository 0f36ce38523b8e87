#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "quire/base/thread_pool.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// How the elements of a weight are stored: plain numbers, or blocks of quantized numbers along a
/// row (GGUF's formats). A further block type is one file in ops/matmul/block/, one line in
/// matmul_simd.cpp, and its name here.
enum class WeightType : std::uint8_t { kF32, kF16, kBF16, kQ4_1, kQ8_0 };

/// "F32", "F16", "BF16", "Q4_1", "Q8_0".
std::string_view to_string(WeightType type);

/// The blocks that a weight type consists of.
struct WeightTypeInfo {
  std::int64_t block;        // elements in a block; a row is a whole number of blocks
  std::int64_t block_bytes;  // bytes of a block in a file
};
/// The blocks of `type`.
WeightTypeInfo info(WeightType type);

/// A weight matrix [M rows (outputs), D columns (inputs)] in panels of 16 rows, still quantized:
/// what the matmul kernels read. Copying shares the panels; they never change after construction.
class Weight {
 public:
  Weight() = default;

  /// Fills `rows` with whole file rows [first, first + count): count · D / block · block_bytes
  /// bytes.
  using ReadRows =
      FunctionRef<void(std::int64_t first, std::int64_t count, std::span<std::byte> rows)>;

  /// Reads the matrix through `read`, a few rows at a time, and packs it. `read` is called from one
  /// thread, in order. Throws ArgumentError when D is not a multiple of the block, OutOfMemory, and
  /// whatever `read` throws.
  static Weight pack(WeightType type, std::int64_t rows, std::int64_t columns, ReadRows read);

  WeightType type() const { return type_; }
  std::int64_t rows() const { return rows_; }        // M
  std::int64_t columns() const { return columns_; }  // D
  std::int64_t bytes() const;                        // of the panels, padding rows included
  const std::byte* panels() const;

  /// Row `row` as floats into out[0, columns): what embedding lookup needs. Bit for bit what the
  /// block format says.
  void row(std::int64_t row, float* out) const;

 private:
  WeightType type_ = WeightType::kF32;
  std::int64_t rows_ = 0, columns_ = 0;
  std::shared_ptr<std::byte> panels_;
};

}  // namespace quire

#include <algorithm>
#include <cstring>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/matmul/dense_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kColumns = 64;
// Packing 64 columns costs one row's work: with this many rows it is a hundredth.
constexpr std::int64_t kRows = 96;
// Of one product with many rows, so many of them share the columns that a core has near; and so
// many floats of b are packed at a time, once for all rows.
constexpr std::int64_t kManyRows = 240;
constexpr std::int64_t kPackedFloats = 1 << 21;

std::int64_t blocks_of(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

struct Piece {
  std::int64_t output, row, rows, column, columns;
};

Piece piece_at(const Gemm& args, std::int64_t number) {
  const std::int64_t row_blocks = blocks_of(args.N, kRows),
                     column_blocks = blocks_of(args.M, kColumns);
  Piece out{};
  out.column = number % column_blocks * kColumns;
  out.row = number / column_blocks % row_blocks * kRows;
  out.output = number / column_blocks / row_blocks;
  out.columns = std::min(kColumns, args.M - out.column);
  out.rows = std::min(kRows, args.N - out.row);
  return out;
}

// Columns that b does not have are zeros, so that every row of the buffer is whole.
void pack(float* packed, const float* b, std::int64_t K, std::int64_t M, std::int64_t columns) {
  const auto bytes = static_cast<std::size_t>(columns) * sizeof(float);
  for (std::int64_t k = 0; k < K; ++k) {
    std::memcpy(packed + k * kColumns, b + k * M, bytes);
    std::fill(packed + k * kColumns + columns, packed + (k + 1) * kColumns, 0.0f);
  }
}

void piece_f32(const Gemm& args, const Piece& piece, std::vector<float>& packed) {
  const auto block = QUIRE_FOR_ISA(gemm_block);
  float* out = static_cast<float*>(args.out) + (piece.output * args.N + piece.row) * args.M;
  for (std::int64_t t = 0; t < args.terms; ++t) {
    const std::int64_t term = piece.output * args.terms + t;
    const float* b = static_cast<const float*>(args.b) + args.b_at[term] * args.K * args.M;
    pack(packed.data(), b + piece.column, args.K, args.M, piece.columns);
    block({.out = out + piece.column,
           .a = static_cast<const float*>(args.a) + (args.a_at[term] * args.N + piece.row) * args.K,
           .packed = packed.data(),
           .rows = piece.rows,
           .columns = piece.columns,
           .K = args.K,
           .out_step = args.M,
           .add = t > 0});
  }
}

/// One product with many rows: panels of 64 columns are packed once, then all rows meet them.
void one_product(const Gemm& args) {
  const auto block = QUIRE_FOR_ISA(gemm_block);
  const float* a = static_cast<const float*>(args.a) + args.a_at[0] * args.N * args.K;
  const float* b = static_cast<const float*>(args.b) + args.b_at[0] * args.K * args.M;
  const std::int64_t panel_floats = args.K * kColumns, row_blocks = blocks_of(args.N, kManyRows),
                     all = blocks_of(args.M, kColumns),
                     together = std::clamp<std::int64_t>(kPackedFloats / panel_floats, 1, all);
  thread_local std::vector<float> memory;
  memory.resize(static_cast<std::size_t>(together * panel_floats));
  float* packed = memory.data();
  for (std::int64_t first = 0; first < all; first += together) {
    const std::int64_t panels = std::min(together, all - first);
    const auto column = [&](std::int64_t panel) { return (first + panel) * kColumns; };
    const auto columns = [&](std::int64_t panel) {
      return std::min(kColumns, args.M - column(panel));
    };
    thread_pool().run(panels, [&](std::int64_t panel) {
      pack(packed + panel * panel_floats, b + column(panel), args.K, args.M, columns(panel));
    });
    thread_pool().run(row_blocks * panels, [&](std::int64_t number) {
      const std::int64_t row = number / panels * kManyRows, panel = number % panels;
      block({.out = static_cast<float*>(args.out) + row * args.M + column(panel),
             .a = a + row * args.K,
             .packed = packed + panel * panel_floats,
             .rows = std::min(kManyRows, args.N - row),
             .columns = columns(panel),
             .K = args.K,
             .out_step = args.M,
             .add = false});
    });
  }
}

void piece_f64(const Gemm& args, const Piece& piece) {
  for (std::int64_t n = piece.row; n < piece.row + piece.rows; ++n) {
    double* out = static_cast<double*>(args.out) + (piece.output * args.N + n) * args.M;
    out += piece.column;
    std::fill(out, out + piece.columns, 0.0);
    for (std::int64_t t = 0; t < args.terms; ++t) {
      const std::int64_t term = piece.output * args.terms + t;
      const double* a =
          static_cast<const double*>(args.a) + (args.a_at[term] * args.N + n) * args.K;
      const double* b = static_cast<const double*>(args.b) + args.b_at[term] * args.K * args.M;
      for (std::int64_t k = 0; k < args.K; ++k) {
        const double* row = b + k * args.M + piece.column;
        for (std::int64_t m = 0; m < piece.columns; ++m) out[m] += a[k] * row[m];
      }
    }
  }
}

}  // namespace

void gemm_cpu(const Gemm& args) {
  if (args.dtype == DType::kF32 && args.outputs == 1 && args.terms == 1 && args.N >= 4 * kManyRows)
    return one_product(args);
  const std::int64_t pieces = args.outputs * blocks_of(args.N, kRows) * blocks_of(args.M, kColumns);
  const auto work = [&](std::int64_t number) {
    const Piece piece = piece_at(args, number);
    if (args.dtype == DType::kF64) return piece_f64(args, piece);
    thread_local std::vector<float> packed;
    packed.resize(static_cast<std::size_t>(args.K * kColumns));
    piece_f32(args, piece, packed);
  };
  // Waking the pool costs about as much as this many multiplications.
  const bool small = args.outputs * args.terms * args.N * args.M * args.K < (1 << 18);
  if (!small) return thread_pool().run(pieces, work);
  for (std::int64_t number = 0; number < pieces; ++number) work(number);
}

}  // namespace quire::kernel

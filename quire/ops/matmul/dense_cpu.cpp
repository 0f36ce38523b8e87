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

struct Piece {
  std::int64_t output, row, rows, column, columns;
};

Piece piece_at(const Gemm& args, std::int64_t number) {
  const std::int64_t row_blocks = (args.N + kRows - 1) / kRows;
  const std::int64_t column_blocks = (args.M + kColumns - 1) / kColumns;
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
  const std::int64_t pieces =
      args.outputs * ((args.N + kRows - 1) / kRows) * ((args.M + kColumns - 1) / kColumns);
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

#include <algorithm>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/matmul/matmul_kernel.h"

namespace quire::kernel {
namespace {

// A piece should take some microseconds: much more than handing it out, much less than the whole.
constexpr double kPieceCycles = 12'000;
constexpr std::int64_t kPiecesPerThread = 8;
constexpr std::int64_t kRowsPerPiece = 4;  // when rounding the input

/// Memory of this thread that lives from call to call: page faults would cost more than the work.
template <class T>
T* scratch(std::size_t count) {
  thread_local std::vector<T> memory;
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

std::int64_t panels(const MatmulWeight& weight) { return (weight.M + kPanelRows - 1) / kPanelRows; }

/// How many pieces to cut the panels into: whole multiples of the threads, so that equal pieces end
/// together.
std::int64_t count_pieces(const Matmul& a, std::int64_t all_panels) {
  const double reading = static_cast<double>(16 * a.D) / 12;
  const double computing = static_cast<double>(16 * a.D * a.N) / (a.terms == 0 ? 12 : 48);
  const double cycles = static_cast<double>(all_panels) * std::max(reading, computing);
  const std::int64_t threads = thread_pool().threads();
  const auto rounds =
      static_cast<std::int64_t>(cycles / kPieceCycles / static_cast<double>(threads));
  return std::min(all_panels, threads * std::clamp<std::int64_t>(rounds, 1, kPiecesPerThread));
}

void round_input(MatmulInput& input) {
  const auto rows = static_cast<std::size_t>(input.terms * input.N);
  const auto groups = input.D / kGroup;
  auto* rounded = scratch<std::int8_t>(rows * static_cast<std::size_t>(input.D));
  auto* meta = scratch<Rounded>(rows * static_cast<std::size_t>(groups));
  const auto round = QUIRE_FOR_ISA(round_row);
  const std::int64_t step = input.terms;
  thread_pool().run((input.N + kRowsPerPiece - 1) / kRowsPerPiece, [&](std::int64_t piece) {
    const std::int64_t end = std::min(input.N, (piece + 1) * kRowsPerPiece);
    for (std::int64_t n = piece * kRowsPerPiece; n < end; ++n) {
      round(input.x_ND + n * input.D, input.D, input.terms, rounded + n * step * input.D,
            meta + n * step * groups);
    }
  });
  input.rounded_ND = rounded;
  input.rounded_NG = meta;
}

}  // namespace

void matmul_cpu(const Matmul& args) {
  MatmulInput input{args.x_ND, args.N, args.D, args.terms, nullptr, nullptr};
  if (args.terms > 0) round_input(input);
  std::int64_t all_panels = 0;
  for (int i = 0; i < args.count; ++i) all_panels += panels(args.weights[i]);
  const std::int64_t pieces = count_pieces(args, all_panels);
  const auto kernel = QUIRE_FOR_ISA(matmul_piece);
  thread_pool().run(pieces, [&](std::int64_t piece) {
    // Panels of all weights stand in one row; a piece may reach over the end of a weight.
    const std::int64_t begin = piece * all_panels / pieces, end = (piece + 1) * all_panels / pieces;
    float* memory = scratch<float>(static_cast<std::size_t>(matmul_scratch(args.D)));
    std::int64_t before = 0;
    for (int i = 0; i < args.count; ++i) {
      const std::int64_t count = panels(args.weights[i]);
      const std::int64_t first = std::max(begin - before, std::int64_t{0});
      const std::int64_t last = std::min(end - before, count);
      if (first < last) kernel({args.weights[i], input, first, last, memory});
      before += count;
    }
  });
}

}  // namespace quire::kernel

#include <algorithm>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/matmul/grouped_kernel.h"

namespace quire::kernel {
namespace {

// Rows that share one packing of 64 columns: their sums stay in the second cache.
constexpr std::int64_t kRows = 192;
// A piece should be much more than handing it out; the next block is known only inside a piece.
constexpr std::int64_t kPiecesPerThread = 16;
// Waking the pool costs about as much as this many multiplications.
constexpr std::int64_t kWorthThreads = 1 << 18;

/// Rows (or inputs, of an outer product) of one group, and 64 columns of its matrix.
struct Unit {
  std::int64_t e, row, rows, column;
};

/// Memory of this thread that lives from call to call.
struct Scratch {
  std::vector<float> packed, sums;
  std::vector<const float*> x, y;
  std::vector<void*> out;
  std::vector<float> factors;
};

/// Calls work(unit, next, scratch) for every unit, in runs; next is null at the end of a run. What
/// a unit computes does not depend on its run.
template <class Work>
void for_units(const std::vector<Unit>& units, std::int64_t multiplications, const Work& work) {
  const auto count = static_cast<std::int64_t>(units.size());
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    for (std::int64_t i = begin; i < end; ++i) {
      const Unit* unit = units.data() + i;
      work(*unit, i + 1 < end ? unit + 1 : nullptr, scratch);
    }
  };
  if (multiplications < kWorthThreads) return run(0, count);
  const std::int64_t pieces = std::min(count, thread_pool().threads() * kPiecesPerThread);
  thread_pool().run(pieces, [&](std::int64_t piece) {
    run(piece * count / pieces, (piece + 1) * count / pieces);
  });
}

template <class T>
const T* element(const void* data, std::int64_t at) {
  return static_cast<const T*>(data) + at;
}

// ---- products

WeightBlock block_of(const GroupedProduct& args, const Unit& unit) {
  return weight_block(args, unit.e, unit.column, std::min(kGroupedColumns, args.M - unit.column));
}

void product_f32(const GroupedProduct& args, const Unit& unit, const Unit* next, Scratch& scratch) {
  const auto out_bytes = static_cast<std::int64_t>(size_of(args.out_dtype));
  scratch.packed.resize(static_cast<std::size_t>(kGroupedDepth * kGroupedColumns));
  scratch.sums.resize(static_cast<std::size_t>(kRows * kGroupedColumns));
  scratch.x.resize(static_cast<std::size_t>(unit.rows));
  scratch.out.resize(static_cast<std::size_t>(unit.rows));
  for (std::int64_t r = 0; r < unit.rows; ++r) {
    const std::int64_t m = unit.row + r;
    scratch.x[static_cast<std::size_t>(r)] = element<float>(args.x, args.x_row(m) * args.K);
    scratch.out[static_cast<std::size_t>(r)] =
        static_cast<std::byte*>(args.out) + (args.out_row(m) * args.M + unit.column) * out_bytes;
  }
  GroupedBlock block{};
  block.x = scratch.x.data();
  block.out = scratch.out.data();
  block.rows = unit.rows;
  block.K = args.K;
  block.weight = block_of(args, unit);
  const bool new_block = next != nullptr && (next->e != unit.e || next->column != unit.column);
  if (new_block && args.weight.type < 0) block.weight.next = block_of(args, *next).data;
  if (args.bias != nullptr) block.bias = element<float>(args.bias, unit.e * args.M + unit.column);
  block.out_dtype = args.out_dtype;
  block.packed = scratch.packed.data();
  block.sums = scratch.sums.data();
  QUIRE_FOR_ISA(grouped_block)(block);
}

void product_f64(const GroupedProduct& args, const Unit& unit) {
  const std::int64_t columns = std::min(kGroupedColumns, args.M - unit.column);
  const GroupedWeight& w = args.weight;
  const double* weight = element<double>(w.data, unit.e * w.e_step + unit.column * w.m_step);
  for (std::int64_t m = unit.row; m < unit.row + unit.rows; ++m) {
    const double* x = element<double>(args.x, args.x_row(m) * args.K);
    double* out = static_cast<double*>(args.out) + args.out_row(m) * args.M + unit.column;
    std::fill(out, out + columns, 0.0);
    for (std::int64_t k = 0; k < args.K; ++k)
      for (std::int64_t c = 0; c < columns; ++c)
        out[c] += x[k] * weight[k * w.k_step + c * w.m_step];
    if (args.bias == nullptr) continue;
    const double* bias = element<double>(args.bias, unit.e * args.M + unit.column);
    for (std::int64_t c = 0; c < columns; ++c) out[c] += bias[c];
  }
}

// ---- outer products

// Inputs that share one packing of a group's rows, and the rows packed at once.
constexpr std::int64_t kInputs = 192;
constexpr std::int64_t kPackedRows = 128;

void outer_f32(const GroupedOuter& args, const Unit& unit, Scratch& scratch) {
  const std::int64_t columns = std::min(kGroupedColumns, args.M - unit.column);
  const bool direct = args.out_dtype == DType::kF32;
  scratch.packed.resize(static_cast<std::size_t>(kPackedRows * kGroupedColumns));
  scratch.sums.resize(static_cast<std::size_t>(kInputs * kGroupedColumns));
  for (auto* rows : {&scratch.x, &scratch.y}) rows->resize(static_cast<std::size_t>(kPackedRows));
  scratch.factors.resize(static_cast<std::size_t>(kPackedRows));
  const std::int64_t at = (unit.e * args.K + unit.row) * args.M + unit.column;
  OuterBlock block{};
  block.x = scratch.x.data();
  block.first = unit.row;
  block.inputs = unit.rows;
  block.packed = scratch.packed.data();
  block.columns = columns;
  block.out = direct ? static_cast<float*>(args.out) + at : scratch.sums.data();
  block.out_step = direct ? args.M : kGroupedColumns;
  const std::int64_t begin = args.start_J[unit.e], end = args.start_J[unit.e + 1];
  for (std::int64_t first = begin; first == begin || first < end; first += kPackedRows) {
    block.count = std::min(kPackedRows, end - first);
    for (std::int64_t r = 0; r < block.count; ++r) {
      const auto i = static_cast<std::size_t>(r);
      const std::int64_t m = first + r;
      scratch.x[i] = element<float>(args.x, args.x_row(m) * args.K);
      scratch.y[i] = element<float>(args.y, args.y_row(m) * args.M + unit.column);
      if (args.factor != nullptr)
        scratch.factors[i] = *element<float>(args.factor, args.factor_row(m));
    }
    QUIRE_FOR_ISA(pack_rows)
    (scratch.packed.data(), scratch.y.data(),
     args.factor != nullptr ? scratch.factors.data() : nullptr, block.count, columns);
    block.add = first > begin;
    QUIRE_FOR_ISA(outer_block)(block);
  }
  if (direct) return;
  const auto bytes = static_cast<std::int64_t>(size_of(args.out_dtype));
  for (std::int64_t k = 0; k < unit.rows; ++k) {
    QUIRE_FOR_ISA(narrow_floats)
    (static_cast<std::byte*>(args.out) + (at + k * args.M) * bytes,
     scratch.sums.data() + k * kGroupedColumns, columns, args.out_dtype);
  }
}

void outer_f64(const GroupedOuter& args, const Unit& unit) {
  const std::int64_t columns = std::min(kGroupedColumns, args.M - unit.column);
  for (std::int64_t k = unit.row; k < unit.row + unit.rows; ++k) {
    double* out = static_cast<double*>(args.out) + (unit.e * args.K + k) * args.M + unit.column;
    std::fill(out, out + columns, 0.0);
    for (std::int64_t m = args.start_J[unit.e]; m < args.start_J[unit.e + 1]; ++m) {
      const double x = *element<double>(args.x, args.x_row(m) * args.K + k);
      const double* y = element<double>(args.y, args.y_row(m) * args.M + unit.column);
      const double factor =
          args.factor == nullptr ? 1.0 : *element<double>(args.factor, args.factor_row(m));
      for (std::int64_t c = 0; c < columns; ++c) out[c] += x * (factor * y[c]);
    }
  }
}

}  // namespace

WeightBlock weight_block(const GroupedProduct& args, std::int64_t e, std::int64_t first,
                         std::int64_t columns) {
  const GroupedWeight& w = args.weight;
  WeightBlock out{};
  out.dtype = w.dtype;
  out.type = w.type;
  out.columns = columns;
  out.first = first;
  if (w.type >= 0) {
    out.panels = w.panels[e];
    out.turned = w.turned;
    out.panel_columns = w.turned ? args.M : args.K;
    return out;
  }
  const auto bytes = static_cast<std::int64_t>(size_of(w.dtype));
  out.data = static_cast<const std::byte*>(w.data) + (e * w.e_step + first * w.m_step) * bytes;
  out.k_step = w.k_step * bytes;
  out.m_step = w.m_step * bytes;
  return out;
}

void grouped_product_cpu(const GroupedProduct& args) {
  std::vector<Unit> units;
  for (std::int64_t e = 0; e < args.E; ++e) {
    const std::int64_t end = args.start_J[e + 1];
    for (std::int64_t column = 0; column < args.M; column += kGroupedColumns)
      for (std::int64_t row = args.start_J[e]; row < end; row += kRows)
        units.push_back({e, row, std::min(kRows, end - row), column});
  }
  const std::int64_t rows = args.start_J[args.E] - args.start_J[0];
  for_units(units, rows * args.K * args.M,
            [&](const Unit& unit, const Unit* next, Scratch& scratch) {
              if (args.dtype == DType::kF64) return product_f64(args, unit);
              product_f32(args, unit, next, scratch);
            });
}

void grouped_outer_cpu(const GroupedOuter& args) {
  std::vector<Unit> units;
  for (std::int64_t e = 0; e < args.E; ++e)
    for (std::int64_t k = 0; k < args.K; k += kInputs)
      for (std::int64_t column = 0; column < args.M; column += kGroupedColumns)
        units.push_back({e, k, std::min(kInputs, args.K - k), column});
  const std::int64_t rows = args.start_J[args.E] - args.start_J[0] + args.E;
  for_units(units, rows * args.K * args.M, [&](const Unit& unit, const Unit*, Scratch& scratch) {
    if (args.dtype == DType::kF64) return outer_f64(args, unit);
    outer_f32(args, unit, scratch);
  });
}

}  // namespace quire::kernel

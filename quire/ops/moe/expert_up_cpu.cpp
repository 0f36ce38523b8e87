#include <algorithm>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/base/half.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/moe/expert_up_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kRows = 96;
constexpr std::int64_t kPiecesPerThread = 16;

/// Rows [row, row + rows) of expert e and outputs [f, f + count) of the activation.
struct Unit {
  std::int64_t e, row, rows, f, count;
};

/// Columns of the product that a unit needs: one range, or two, one after another in its tile.
struct Range {
  std::int64_t first, columns, at;
};

int ranges_of(const ExpertUp& args, const Unit& unit, Range* out) {
  const std::int64_t n = unit.count;
  if (!args.activation.pairs) {
    out[0] = {unit.f, n, 0};
    return 1;
  }
  if (args.activation.layout == PairLayout::kHalves) {
    out[0] = {unit.f, n, 0};
    out[1] = {args.activation.F + unit.f, n, n};
    return 2;
  }
  const std::int64_t first = std::min(kGroupedColumns, 2 * n);
  out[0] = {2 * unit.f, first, 0};
  out[1] = {2 * unit.f + first, 2 * n - first, first};
  return out[1].columns > 0 ? 2 : 1;
}

/// Memory of this thread that lives from call to call.
struct Scratch {
  std::vector<float> packed = std::vector<float>(kGroupedDepth * kGroupedColumns);
  std::vector<float> sums = std::vector<float>(kRows * kGroupedColumns);
  std::vector<float> tile = std::vector<float>(kRows * 2 * kGroupedColumns);
  std::vector<std::uint16_t> narrow = std::vector<std::uint16_t>(2 * kGroupedColumns);
  std::vector<const float*> x;
  std::vector<void*> out;
};

// What would be stored between the two steps is rounded, whether it is stored or not.
void round_row(float* row, std::int64_t count, DType dtype, Scratch& scratch) {
  if (dtype == DType::kF32) return;
  QUIRE_FOR_ISA(narrow_floats)(scratch.narrow.data(), row, count, dtype);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = scratch.narrow[static_cast<std::size_t>(i)];
    row[i] = dtype == DType::kBF16 ? to_float(BFloat16{bits}) : to_float(Half{bits});
  }
}

void multiply(const ExpertUp& args, const Unit& unit, const Unit* next, std::int64_t width,
              Scratch& scratch) {
  const GroupedProduct& product = args.product;
  Range ranges[2], later[2];
  const int count = ranges_of(args, unit, ranges);
  scratch.x.resize(static_cast<std::size_t>(unit.rows));
  scratch.out.resize(scratch.x.size());
  for (int i = 0; i < count; ++i) {
    for (std::int64_t r = 0; r < unit.rows; ++r) {
      const auto at = static_cast<std::size_t>(r);
      scratch.x[at] =
          static_cast<const float*>(product.x) + product.x_row(unit.row + r) * product.K;
      scratch.out[at] = scratch.tile.data() + r * width + ranges[i].at;
    }
    GroupedBlock block{};
    block.x = scratch.x.data();
    block.out = scratch.out.data();
    block.rows = unit.rows;
    block.K = product.K;
    block.weight = weight_block(product, unit.e, ranges[i].first, ranges[i].columns);
    if (product.weight.type < 0 && i + 1 < count) {
      block.weight.next = weight_block(product, unit.e, ranges[1].first, 0).data;
    } else if (product.weight.type < 0 && next != nullptr) {
      ranges_of(args, *next, later);
      block.weight.next = weight_block(product, next->e, later[0].first, 0).data;
    }
    if (product.bias != nullptr)
      block.bias = static_cast<const float*>(product.bias) + unit.e * product.M + ranges[i].first;
    block.out_dtype = DType::kF32;
    block.packed = scratch.packed.data();
    block.sums = scratch.sums.data();
    QUIRE_FOR_ISA(grouped_block)(block);
  }
}

void activate(const ExpertUp& args, const Unit& unit, std::int64_t width, Scratch& scratch) {
  const GroupedProduct& product = args.product;
  const auto bytes = static_cast<std::int64_t>(size_of(product.out_dtype));
  const auto narrow = QUIRE_FOR_ISA(narrow_floats);
  Range ranges[2];
  const int count = ranges_of(args, unit, ranges);
  ActivationRows row = args.activation;
  row.F = unit.count;
  row.dtype = DType::kF32;
  row.out = scratch.sums.data();
  for (std::int64_t r = 0; r < unit.rows; ++r) {
    const std::int64_t to = product.out_row(unit.row + r);
    float* pre = scratch.tile.data() + r * width;
    round_row(pre, width, product.out_dtype, scratch);
    for (int i = 0; i < count && product.out != nullptr; ++i) {
      narrow(static_cast<std::byte*>(product.out) + (to * product.M + ranges[i].first) * bytes,
             pre + ranges[i].at, ranges[i].columns, product.out_dtype);
    }
    row.pre = pre;
    QUIRE_FOR_ISA(activation_row)(row, 0);
    narrow(static_cast<std::byte*>(args.hidden) + (to * args.activation.F + unit.f) * bytes,
           scratch.sums.data(), unit.count, product.out_dtype);
  }
}

}  // namespace

void expert_up_cpu(const ExpertUp& args) {
  const GroupedProduct& product = args.product;
  std::vector<Unit> units;
  for (std::int64_t e = 0; e < product.E; ++e) {
    const std::int64_t end = product.start_J[e + 1];
    for (std::int64_t f = 0; f < args.activation.F; f += kGroupedColumns)
      for (std::int64_t row = product.start_J[e]; row < end; row += kRows)
        units.push_back({e, row, std::min(kRows, end - row), f,
                         std::min(kGroupedColumns, args.activation.F - f)});
  }
  const auto count = static_cast<std::int64_t>(units.size());
  if (count == 0) return;
  const std::int64_t pieces = std::min(count, thread_pool().threads() * kPiecesPerThread);
  thread_pool().run(pieces, [&](std::int64_t piece) {
    thread_local Scratch scratch;
    const std::int64_t end = (piece + 1) * count / pieces;
    for (std::int64_t i = piece * count / pieces; i < end; ++i) {
      const Unit& unit = units[static_cast<std::size_t>(i)];
      const std::int64_t width = unit.count * (args.activation.pairs ? 2 : 1);
      multiply(args, unit, i + 1 < end ? &unit + 1 : nullptr, width, scratch);
      activate(args, unit, width, scratch);
    }
  });
}

}  // namespace quire::kernel

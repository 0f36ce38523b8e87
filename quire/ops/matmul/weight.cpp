#include "quire/ops/matmul/weight.h"

#include <algorithm>
#include <new>
#include <vector>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/ops/matmul/matmul_kernel.h"

namespace quire {
namespace {

constexpr std::int64_t kReadBytes = 1 << 20;  // read this much of the file form at a time

kernel::PanelFormat format(WeightType type) {
  return QUIRE_FOR_ISA(panel_format)(static_cast<int>(type));
}

std::int64_t panel_bytes(WeightType type, std::int64_t columns) {
  const kernel::PanelFormat f = format(type);
  return columns / f.block * f.panel_bytes;
}

std::int64_t panel_count(std::int64_t rows) {
  return rows / kernel::kPanelRows + (rows % kernel::kPanelRows != 0 ? 1 : 0);
}

std::shared_ptr<std::byte> allocate(std::int64_t bytes) {
  auto* memory = static_cast<std::byte*>(
      ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{64}, std::nothrow));
  if (memory == nullptr) throw OutOfMemory(concat("no memory for a weight of ", bytes, " bytes"));
  return {memory, [](std::byte* p) { ::operator delete (p, std::align_val_t{64}); }};
}

}  // namespace

std::string_view to_string(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "F32";
    case WeightType::kF16:
      return "F16";
    case WeightType::kBF16:
      return "BF16";
    case WeightType::kQ4_1:
      return "Q4_1";
    case WeightType::kQ8_0:
      return "Q8_0";
  }
  return "?";
}

WeightTypeInfo info(WeightType type) {
  const kernel::PanelFormat f = format(type);
  return {f.block, f.block_bytes};
}

Weight Weight::pack(WeightType type, std::int64_t rows, std::int64_t columns, ReadRows read) {
  const kernel::PanelFormat f = format(type);
  QUIRE_CHECK(rows >= 0 && columns >= 0, "a weight has ", rows, " rows and ", columns, " columns");
  QUIRE_CHECK(columns % f.block == 0, "a ", to_string(type), " weight has ", columns,
              " columns; they must be a multiple of ", f.block);
  const auto u = [](std::int64_t x) { return Checked(static_cast<std::uint64_t>(x)); };
  const Checked row_bytes = u(columns / f.block) * u(f.block_bytes);
  const Checked total = u(panel_count(rows)) * u(columns / f.block) * u(f.panel_bytes);
  QUIRE_CHECK(total.at_most(1ull << 62) && row_bytes.at_most(1ull << 40), "a weight of ", rows,
              " × ", columns, " is beyond the address space");

  Weight weight;
  weight.type_ = type;
  weight.rows_ = rows;
  weight.columns_ = columns;
  weight.panels_ = allocate(static_cast<std::int64_t>(*total.value()));
  const auto stride = static_cast<std::int64_t>(*row_bytes.value());
  const std::int64_t step =
      std::max<std::int64_t>(1,
                             kReadBytes / std::max<std::int64_t>(1, stride * kernel::kPanelRows)) *
      kernel::kPanelRows;
  std::vector<std::byte> source(static_cast<std::size_t>(std::min(step, rows) * stride));
  const auto pack_panel = QUIRE_FOR_ISA(pack_panel);
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    read(first, count, std::span(source).first(static_cast<std::size_t>(count * stride)));
    thread_pool().run(panel_count(count), [&](std::int64_t i) {
      const std::int64_t row = i * kernel::kPanelRows;
      const auto in_panel = static_cast<int>(std::min(kernel::kPanelRows, count - row));
      pack_panel(
          static_cast<int>(type), source.data() + row * stride, stride, in_panel, columns,
          weight.panels_.get() + (first + row) / kernel::kPanelRows * panel_bytes(type, columns));
    });
  }
  return weight;
}

std::int64_t Weight::bytes() const { return panel_count(rows_) * panel_bytes(type_, columns_); }

const std::byte* Weight::panels() const { return panels_.get(); }

void Weight::row(std::int64_t row, float* out) const {
  QUIRE_CHECK(row >= 0 && row < rows_, "row ", row, " of a weight with ", rows_, " rows");
  std::vector<float> tile(static_cast<std::size_t>(columns_ * kernel::kPanelRows));
  QUIRE_FOR_ISA(widen_panel)
  (static_cast<int>(type_), panels() + row / kernel::kPanelRows * panel_bytes(type_, columns_),
   columns_, tile.data());
  for (std::int64_t d = 0; d < columns_; ++d) {
    out[d] = tile[static_cast<std::size_t>(d * kernel::kPanelRows + row % kernel::kPanelRows)];
  }
}

}  // namespace quire

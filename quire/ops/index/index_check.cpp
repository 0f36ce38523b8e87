#include "quire/ops/index/index_check.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>
#include <utility>

#include "quire/base/error.h"

namespace quire::detail {
namespace {

// Whether values [begin, end) of a contiguous index are all in [0, size).
bool in_range(const std::int64_t* values, std::int64_t begin, std::int64_t end,
              std::uint64_t size) {
  bool good = true;
  for (std::int64_t i = begin; i < end; ++i) good &= static_cast<std::uint64_t>(values[i]) < size;
  return good;
}

std::string position_text(const std::vector<std::int64_t>& at) {
  std::string out = "[";
  for (std::size_t d = 0; d < at.size(); ++d) out += (d == 0 ? "" : ", ") + std::to_string(at[d]);
  return out + "]";
}

// Walks an index of any strides in row-major order and throws at the first bad value.
void find_bad(const Tensor& index, std::int64_t low, std::int64_t size, int dim) {
  const std::int64_t* values = index.data<std::int64_t>();
  std::vector<std::int64_t> at(index.shape().size(), 0);
  std::int64_t offset = 0;
  for (std::int64_t left = index.elements(); left > 0; --left) {
    const std::int64_t value = values[offset];
    QUIRE_CHECK(value >= low && value < size, "index", position_text(at), " is ", value,
                ", allowed are ", low, " to ", size - 1, " (size ", size, " at dim ", dim, ")");
    for (int d = index.rank() - 1; d >= 0; --d) {
      const auto i = static_cast<std::size_t>(d);
      offset += index.strides()[i];
      if (++at[i] < index.shape()[i]) break;
      offset -= at[i] * index.strides()[i];
      at[i] = 0;
    }
  }
}

// Dimensions that repeat the same memory shrink to one element.
Tensor without_repeats(const Tensor& x) {
  Tensor out = x;
  for (int d = 0; d < x.rank(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    if (x.strides()[i] == 0 && x.shape()[i] > 1) out = out.slice(d, 0, 1);
  }
  return out;
}

// Whether each of `rows` rows of `width` values repeats one value.
bool rows_repeat(const std::int64_t* values, std::int64_t rows, std::int64_t width) {
  std::atomic<bool> all = true;
  kernel::for_pieces(rows, width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t* at = values + row * width;
      std::int64_t differ = at[0] ^ at[width - 1];
      if (differ == 0) {
        for (std::int64_t i = 1; i < width; ++i) differ |= at[0] ^ at[i];
      }
      if (differ != 0) all = false;
      if (!all) return;
    }
  });
  return all;
}

struct Range {
  const std::byte* begin;
  const std::byte* end;
};

Range range_of(const Tensor& x) {
  std::int64_t last = 0;
  for (std::size_t d = 0; d < x.shape().size(); ++d) last += (x.shape()[d] - 1) * x.strides()[d];
  const auto* begin = static_cast<const std::byte*>(x.data<void>());
  return {begin, begin + (last + 1) * static_cast<std::int64_t>(size_of(x.dtype()))};
}

// All bytes between the first and the last belong to the tensor.
bool dense(const Tensor& x) {
  const Range range = range_of(x);
  return range.end - range.begin == x.bytes();
}

void sort_and_merge(std::vector<kernel::LaneDim>& lanes) {
  std::sort(lanes.begin(), lanes.end(), [](const auto& a, const auto& b) {
    return std::tuple(a.plain, a.place, a.index, a.size) >
           std::tuple(b.plain, b.place, b.index, b.size);
  });
  std::vector<kernel::LaneDim> merged;
  for (const kernel::LaneDim& lane : lanes) {
    if (!merged.empty()) {
      kernel::LaneDim& outer = merged.back();
      if (outer.place == lane.place * lane.size && outer.plain == lane.plain * lane.size &&
          outer.index == lane.index * lane.size) {
        outer = {outer.size * lane.size, lane.place, lane.plain, lane.index};
        continue;
      }
    }
    merged.push_back(lane);
  }
  lanes = std::move(merged);
}

}  // namespace

int wrap_dim(int dim, int rank) {
  const int dims = std::max(rank, 1);
  QUIRE_CHECK(dim >= -dims && dim < dims, "dim is ", dim, ", allowed are ", -dims, " to ", dims - 1,
              " (rank ", rank, ")");
  return dim < 0 ? dim + dims : dim;
}

Tensor at_least_1d(const Tensor& x) { return x.rank() == 0 ? x.expand({1}) : x; }

void check_index_dtype(const Tensor& index, std::string_view name) {
  QUIRE_CHECK(index.dtype() == DType::kI64 || index.dtype() == DType::kI32, name, " is ",
              to_string(index.dtype()), ", expected i64 or i32");
}

void check_floating(const Tensor& x, std::string_view name) {
  QUIRE_CHECK(is_floating(x.dtype()), name, " is ", to_string(x.dtype()),
              ", only floating dtypes have gradients: f64, f32, bf16, f16");
}

void check_same_dtype(const Tensor& x, std::string_view name, const Tensor& self) {
  QUIRE_CHECK(x.dtype() == self.dtype(), name, " is ", to_string(x.dtype()), ", but self is ",
              to_string(self.dtype()));
}

void check_same_shape(const Tensor& x, std::string_view name, const Shape& shape) {
  QUIRE_CHECK(x.rank() == static_cast<int>(shape.size()), name, ": rank is ", x.rank(),
              ", expected ", static_cast<int>(shape.size()), " (", to_string(shape), ")");
  for (int d = 0; d < x.rank(); ++d) {
    const std::int64_t expected = shape[static_cast<std::size_t>(d)];
    QUIRE_CHECK(x.size(d) == expected, name, ": size is ", x.size(d), " at dim ", d, ", expected ",
                expected, " (", to_string(shape), ")");
  }
}

void check_fits(const Tensor& index, const Tensor& other, std::string_view other_name, int except) {
  QUIRE_CHECK(index.rank() == other.rank(), "index: rank is ", index.rank(), ", but ", other_name,
              " has rank ", other.rank());
  for (int d = 0; d < index.rank(); ++d) {
    QUIRE_CHECK(d == except || index.size(d) <= other.size(d), "index: size is ", index.size(d),
                " at dim ", d, ", but ", other_name, " has only ", other.size(d), " there");
  }
}

void check_slices(const Tensor& self, int dim, const Tensor& index_N, const Tensor& source) {
  QUIRE_CHECK(index_N.rank() <= 1, "index: rank is ", index_N.rank(), ", expected 1");
  QUIRE_CHECK(source.rank() == self.rank(), "source: rank is ", source.rank(),
              ", but self has rank ", self.rank());
  check_index_dtype(index_N);
  for (int d = 0; d < self.rank(); ++d) {
    const bool named = d == dim;
    const std::int64_t expected = named ? index_N.elements() : self.size(d);
    QUIRE_CHECK(source.size(d) == expected, "source: size is ", source.size(d), " at dim ", d,
                ", but ", named ? "index" : "self", " has ", expected, " there");
  }
  QUIRE_CHECK(self.rank() > 0 || index_N.elements() == 1, "index: size is ", index_N.elements(),
              ", but source has rank 0: expected 1");
}

Tensor count_up(std::int64_t count) {
  Tensor out = Tensor::empty({count}, DType::kI64);
  std::int64_t* values = count == 0 ? nullptr : out.mutable_data<std::int64_t>();
  for (std::int64_t i = 0; i < count; ++i) values[i] = i;
  return out;
}

Tensor widen_index(const Tensor& index) {
  if (index.dtype() == DType::kI64) return index;
  return without_repeats(index).to(DType::kI64).expand(index.shape());
}

Tensor with_rows_expanded(const Tensor& index, int dim) {
  constexpr std::int64_t kShortest = 8;
  std::int64_t width = 1;
  for (int d = dim + 1; d < index.rank(); ++d) width *= index.size(d);
  const bool is_long = width >= kShortest && index.elements() >= kernel::kWorthThreads;
  if (!is_long || !index.contiguous()) return index;
  if (!rows_repeat(index.data<std::int64_t>(), index.elements() / width, width)) return index;
  Tensor out = index;
  for (int d = dim + 1; d < index.rank(); ++d) out = out.slice(d, 0, 1);
  return out.expand(index.shape());
}

void check_index_values(const Tensor& index, std::int64_t size, int dim) {
  if (index.elements() == 0) return;
  const Tensor core = without_repeats(index);
  if (core.contiguous()) {
    const std::int64_t* values = core.data<std::int64_t>();
    std::atomic<bool> good = true;
    kernel::for_pieces(core.elements(), 1, [&](std::int64_t begin, std::int64_t end) {
      if (!in_range(values, begin, end, static_cast<std::uint64_t>(size))) good = false;
    });
    if (good) return;
  }
  find_bad(core, 0, size, dim);
}

Tensor count_from_end(const Tensor& index, std::int64_t size, int dim) {
  const Tensor wide = widen_index(index);
  find_bad(wide, -size, size, dim);
  Tensor out = without_repeats(wide).to(DType::kI64);
  std::int64_t* values = out.elements() == 0 ? nullptr : out.mutable_data<std::int64_t>();
  for (std::int64_t i = 0; i < out.elements(); ++i) {
    if (values[i] < 0) values[i] += size;
  }
  return out.expand(index.shape());
}

void check_no_overlap(const Tensor& x, std::string_view name) {
  for (int d = 0; d < x.rank(); ++d) {
    QUIRE_CHECK(x.strides()[static_cast<std::size_t>(d)] != 0 || x.size(d) <= 1, name,
                " is expanded at dim ", d, " (size ", x.size(d),
                "): several elements share one place, so it cannot be written");
  }
}

void separate(const Tensor& x, std::string_view name, Tensor& other, std::string_view other_name) {
  if (x.elements() == 0 || other.elements() == 0) return;
  const Tensor core = without_repeats(other);
  const Range a = range_of(x), b = range_of(core);
  if (a.end <= b.begin || b.end <= a.begin) return;
  const bool same =
      a.begin == b.begin && x.shape() == core.shape() && x.strides() == core.strides();
  QUIRE_CHECK(!same && !(dense(x) && dense(core)), other_name, " shares memory with ", name,
              ", which is written");
  other = core.to(core.dtype()).expand(other.shape());
}

kernel::Walk make_walk(const Tensor& index, int dim, const Tensor& place, const Tensor& plain) {
  const auto at = static_cast<std::size_t>(dim);
  kernel::Walk walk;
  walk.index = index.data<std::int64_t>();
  walk.N = index.shape()[at];
  walk.M = place.shape()[at];
  walk.place_step = place.strides()[at];
  walk.plain_step = plain.strides()[at];
  walk.index_step = index.strides()[at];
  for (std::size_t d = 0; d < index.shape().size(); ++d) {
    if (d == at || index.shape()[d] == 1) continue;
    walk.lanes.push_back({.size = index.shape()[d],
                          .place = place.strides()[d],
                          .plain = plain.strides()[d],
                          .index = index.strides()[d]});
  }
  sort_and_merge(walk.lanes);
  // An index expanded over the innermost elements names whole rows.
  if (!walk.lanes.empty()) {
    const kernel::LaneDim& last = walk.lanes.back();
    if (last.index == 0 && last.place == 1 && last.plain == 1) {
      walk.D = last.size;
      walk.lanes.pop_back();
    }
  }
  return walk;
}

}  // namespace quire::detail

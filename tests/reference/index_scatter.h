#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// gather and scatter_reduce as their definitions say, one element after the other, on row-major
// arrays of any rank.

namespace ref {

using Sizes = std::vector<std::int64_t>;

/// Calls body(coordinates) for every element of `shape`, row-major.
template <class Body>
void for_each_coordinate(const Sizes& shape, Body&& body) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  Sizes at(shape.size(), 0);
  for (; count > 0; --count) {
    body(at);
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (++at[d] < shape[d]) break;
      at[d] = 0;
    }
  }
}

inline std::size_t offset(const Sizes& at, const Sizes& shape) {
  std::int64_t out = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) out = out * shape[d] + at[d];
  return static_cast<std::size_t>(out);
}

template <class T>
std::vector<T> gather(const std::vector<T>& self, const Sizes& self_shape, std::size_t dim,
                      const std::vector<std::int64_t>& index, const Sizes& index_shape) {
  std::vector<T> out(index.size());
  for_each_coordinate(index_shape, [&](const Sizes& at) {
    Sizes from = at;
    from[dim] = index[offset(at, index_shape)];
    out[offset(at, index_shape)] = self[offset(from, self_shape)];
  });
  return out;
}

enum class Op { kSum, kProd, kMean, kAmax, kAmin };

template <class T>
T combined(Op op, T acc, T x) {
  switch (op) {
    case Op::kSum:
    case Op::kMean:
      return acc + x;
    case Op::kProd:
      return acc * x;
    case Op::kAmax:
      return acc != acc ? acc : (x != x || x > acc ? x : acc);
    case Op::kAmin:
      break;
  }
  return acc != acc ? acc : (x != x || x < acc ? x : acc);
}

template <class T>
struct Scattered {
  std::vector<T> out;
  std::vector<std::int64_t> count;  // of src elements at each place
};

/// What starts a place that is not included; only sums, products and means have one that is used.
template <class T>
Scattered<T> scatter_reduce(const std::vector<T>& self, const Sizes& self_shape, std::size_t dim,
                            const std::vector<std::int64_t>& index, const Sizes& index_shape,
                            const std::vector<T>& src, const Sizes& src_shape, Op op,
                            bool include) {
  Scattered<T> result{self, std::vector<std::int64_t>(self.size(), 0)};
  for_each_coordinate(index_shape, [&](const Sizes& at) {
    Sizes to = at;
    to[dim] = index[offset(at, index_shape)];
    const std::size_t place = offset(to, self_shape);
    const T x = src[offset(at, src_shape)];
    T& out = result.out[place];
    if (result.count[place]++ > 0 || include) {
      out = combined(op, out, x);
    } else {
      out = op == Op::kSum || op == Op::kMean ? T(0) + x : op == Op::kProd ? T(1) * x : x;
    }
  });
  if (op == Op::kMean) {
    for (std::size_t i = 0; i < self.size(); ++i) {
      if (result.count[i] > 0) result.out[i] /= static_cast<T>(result.count[i] + (include ? 1 : 0));
    }
  }
  return result;
}

/// The gradient as the definition says: the others' product, equal shares of a mean and of a tie.
template <class T>
struct Gradients {
  std::vector<T> dself, dsrc;
};

template <class T>
Gradients<T> scatter_reduce_backward(const std::vector<T>& dout, const std::vector<T>& self,
                                     const Sizes& self_shape, std::size_t dim,
                                     const std::vector<std::int64_t>& index,
                                     const Sizes& index_shape, const std::vector<T>& src,
                                     const Sizes& src_shape, Op op, bool include,
                                     bool count_excluded) {
  const Scattered<T> forward =
      scatter_reduce(self, self_shape, dim, index, index_shape, src, src_shape, op, include);
  std::vector<std::vector<std::size_t>> members(self.size());
  for_each_coordinate(index_shape, [&](const Sizes& at) {
    Sizes to = at;
    to[dim] = index[offset(at, index_shape)];
    members[offset(to, self_shape)].push_back(offset(at, src_shape));
  });
  Gradients<T> out{dout, std::vector<T>(src.size(), T(0))};
  for (std::size_t place = 0; place < self.size(); ++place) {
    const auto& group = members[place];
    if (group.empty()) continue;
    const auto derivative = [&](T value, bool is_self, std::size_t which) -> T {
      if (op == Op::kSum) return T(1);
      const T count = static_cast<T>(group.size() + (include ? 1 : 0));
      if (op == Op::kMean) return T(1) / count;
      if (op == Op::kProd) {
        T others = include && !is_self ? self[place] : T(1);
        for (const std::size_t other : group) {
          if (is_self || other != which) others *= src[other];
        }
        return others;
      }
      const T result = forward.out[place];
      if (result != result) return result;
      T ties = (include || count_excluded) && self[place] == result ? T(1) : T(0);
      for (const std::size_t other : group) ties += src[other] == result ? T(1) : T(0);
      return value == result ? T(1) / ties : T(0);
    };
    out.dself[place] = include ? dout[place] * derivative(self[place], true, 0) : T(0);
    for (const std::size_t k : group) out.dsrc[k] = dout[place] * derivative(src[k], false, k);
  }
  return out;
}

}  // namespace ref

#include "quire/ops/matmul/dense.h"

#include "quire/ops/math/broadcast.h"
#include "quire/ops/matmul/dense_kernel.h"

namespace quire {
namespace {

// Matrices in a row-major tensor [..., rows, columns].
Shape batch_of(const Tensor& x) { return {x.shape().begin(), x.shape().end() - 2}; }

std::int64_t count_of(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

// The number of the matrix that stands at place `number` of the batch `full` when `shape` is
// broadcast to it.
std::int64_t matrix_at(std::int64_t number, const Shape& full, const Shape& shape) {
  std::int64_t out = 0, step = 1;
  for (std::size_t back = 1; back <= shape.size(); ++back) {
    const std::int64_t size = shape[shape.size() - back], whole = full[full.size() - back];
    out += size == 1 ? 0 : number % whole * step;
    number /= whole;
    step *= size;
  }
  return out;
}

// Σ a·b into matrices of the batch `out_batch`: over the places of the whole batch that meet there,
// in order.
Tensor product(const Tensor& a, const Tensor& b, const Shape& full, const Shape& out_batch) {
  const std::int64_t N = a.size(-2), K = a.size(-1), M = b.size(-1);
  const std::int64_t outputs = count_of(out_batch), places = count_of(full);
  Shape shape = out_batch;
  shape.insert(shape.end(), {N, M});
  if (places == 0 || K == 0) return Tensor::zeros(std::move(shape), a.dtype(), a.device());
  Tensor out = Tensor::empty(std::move(shape), a.dtype(), a.device());
  if (out.elements() == 0) return out;
  const std::int64_t terms = places / outputs;
  std::vector<std::int64_t> a_at(static_cast<std::size_t>(places)), b_at(a_at),
      filled(static_cast<std::size_t>(outputs));
  const Shape a_batch = batch_of(a), b_batch = batch_of(b);
  for (std::int64_t place = 0; place < places; ++place) {
    const std::int64_t output = matrix_at(place, full, out_batch);
    const auto at =
        static_cast<std::size_t>(output * terms + filled[static_cast<std::size_t>(output)]++);
    a_at[at] = matrix_at(place, full, a_batch);
    b_at[at] = matrix_at(place, full, b_batch);
  }
  const Tensor a_rows = a.contiguous_copy(), b_rows = b.contiguous_copy();
  kernel::gemm_cpu({.dtype = a.dtype(),
                    .out = out.mutable_data<void>(),
                    .a = a_rows.data<void>(),
                    .b = b_rows.data<void>(),
                    .outputs = outputs,
                    .terms = terms,
                    .a_at = a_at.data(),
                    .b_at = b_at.data(),
                    .N = N,
                    .M = M,
                    .K = K});
  return out;
}

void check_arguments(const Tensor& a, const Tensor& b) {
  check_floating("matmul", "a", a);
  check_same_dtype("matmul", "a", a, "b", b);
  QUIRE_CHECK(a.rank() > 0, "matmul: a has rank 0, expected at least 1");
  QUIRE_CHECK(b.rank() > 0, "matmul: b has rank 0, expected at least 1");
  const int b_dim = b.rank() == 1 ? 0 : b.rank() - 2;
  QUIRE_CHECK(a.size(-1) == b.size(b_dim), "matmul: dimension ", a.rank() - 1, " of a is ",
              a.size(-1), ", but dimension ", b_dim, " of b is ", b.size(b_dim));
}

// bf16 and f16 are multiplied as f32.
Tensor computed(const Tensor& x) {
  return x.dtype() == DType::kF64 || x.dtype() == DType::kF32 ? x : x.to(DType::kF32);
}
Tensor stored(Tensor x, DType dtype) { return x.dtype() == dtype ? x : x.to(dtype); }

// A vector as the one row or column that it stands for.
Tensor as_matrix(const Tensor& x, bool is_row) {
  if (x.rank() > 1) return x;
  const Tensor plain = x.contiguous_copy();
  return is_row ? plain.view({1, x.size(0)}) : plain.view({x.size(0), 1});
}

// One matrix b for all of a's batch: the batch is more rows.
Tensor folded(const Tensor& x) {
  return x.contiguous_copy().view({count_of(batch_of(x)) * x.size(-2), x.size(-1)});
}

Tensor multiply(const Tensor& a, const Tensor& b) {
  const Shape full = broadcast_shape("matmul", batch_of(a), batch_of(b));
  if (b.rank() > 2 || a.rank() == 2) return product(a, b, full, full);
  Shape shape = a.shape();
  shape.back() = b.size(-1);
  return product(folded(a), b, {}, {}).view(std::move(shape));
}

Shape out_shape(const Tensor& a, const Tensor& b) {
  const Tensor left = as_matrix(a, true), right = as_matrix(b, false);
  Shape shape = broadcast_shape("matmul", batch_of(left), batch_of(right));
  if (a.rank() > 1) shape.push_back(left.size(-2));
  if (b.rank() > 1) shape.push_back(right.size(-1));
  return shape;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_arguments(a, b);
  const Tensor out = multiply(as_matrix(computed(a), true), as_matrix(computed(b), false));
  return stored(out, a.dtype()).view(out_shape(a, b));
}

MatmulGradients matmul_backward(const Tensor& dout, const Tensor& a, const Tensor& b, Want want_da,
                                Want want_db) {
  check_arguments(a, b);
  check_same_dtype("matmul_backward", "dout", dout, "a", a);
  const Shape expected = out_shape(a, b);
  QUIRE_CHECK(dout.shape() == expected, "matmul_backward: dout has shape ", to_string(dout.shape()),
              ", but a·b has shape ", to_string(expected));
  const Tensor left = as_matrix(a, true), right = as_matrix(b, false);
  const Shape full = broadcast_shape("matmul", batch_of(left), batch_of(right));
  Shape shape = full;
  shape.insert(shape.end(), {left.size(-2), right.size(-1)});
  Tensor upper = computed(dout).contiguous_copy().view(std::move(shape));
  const bool folds = left.rank() > 2 && right.rank() == 2;
  if (folds) upper = folded(upper);
  const Shape places = batch_of(upper);
  MatmulGradients out;
  if (want_da == Want::kYes) {
    const Tensor da =
        product(upper, computed(right).transpose(-2, -1), places, folds ? Shape() : batch_of(left));
    out.da = stored(da, a.dtype()).view(a.shape());
  }
  if (want_db == Want::kYes) {
    const Tensor rows = folds ? folded(computed(left)) : computed(left);
    const Tensor db = product(rows.transpose(-2, -1), upper, places, batch_of(right));
    out.db = stored(db, b.dtype()).view(b.shape());
  }
  return out;
}

}  // namespace quire

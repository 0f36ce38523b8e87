#include "quire/ops/matmul/grouped_matmul.h"

#include "quire/ops/math/broadcast.h"
#include "quire/ops/matmul/dense.h"
#include "quire/ops/matmul/grouped_kernel.h"

namespace quire {
namespace {

DType computed_in(DType dtype) { return dtype == DType::kF64 ? dtype : DType::kF32; }

Tensor rows_of(const Tensor& x) {
  return (x.dtype() == computed_in(x.dtype()) ? x : x.to(DType::kF32)).contiguous_copy();
}

// The ends with a 0 in front, checked.
Tensor starts_of(const Tensor& ends_E, std::int64_t size) {
  QUIRE_CHECK(ends_E.rank() == 1, "ends_E: rank is ", ends_E.rank(), ", expected 1");
  QUIRE_CHECK(ends_E.dtype() == DType::kI64 || ends_E.dtype() == DType::kI32, "ends_E is ",
              to_string(ends_E.dtype()), ", expected i64 or i32");
  const Tensor ends = ends_E.to(DType::kI64);
  Tensor start_J = Tensor::zeros({ends.size(0) + 1}, DType::kI64);
  auto* start = start_J.mutable_data<std::int64_t>();
  for (std::int64_t e = 0; e < ends.size(0); ++e) {
    start[e + 1] = ends.data<std::int64_t>()[e];
    QUIRE_CHECK(start[e + 1] >= start[e] && start[e + 1] <= size, "ends_E[", e, "] is ",
                start[e + 1], ", expected ", start[e], " to ", size);
  }
  return start_J;
}

Tensor groups_of_rows(const Tensor& a_NK, const Tensor& b_EKM, const Tensor& start_J) {
  const Tensor x = rows_of(a_NK);
  const bool readable = (b_EKM.strides()[1] == 1 || b_EKM.strides()[2] == 1);
  const Tensor b = readable ? b_EKM : b_EKM.contiguous_copy();
  Tensor out = Tensor::empty({a_NK.size(0), b.size(2)}, a_NK.dtype(), a_NK.device());
  const std::int64_t E = b.size(0);
  // Rows of no group are the last group's multiples of nothing.
  const std::int64_t last = start_J.data<std::int64_t>()[E];
  if (last < out.size(0)) out = Tensor::zeros(out.shape(), out.dtype(), out.device());
  kernel::GroupedProduct args{};
  args.start_J = start_J.data<std::int64_t>();
  args.E = E;
  args.K = b.size(1);
  args.M = b.size(2);
  args.dtype = x.dtype();
  args.x = x.data<void>();
  args.weight = {.dtype = b.dtype(),
                 .data = b.data<void>(),
                 .e_step = b.strides()[0],
                 .k_step = b.strides()[1],
                 .m_step = b.strides()[2]};
  args.out_dtype = out.dtype();
  args.out = out.mutable_data<void>();
  kernel::grouped_product_cpu(args);
  return out;
}

Tensor groups_of_inner(const Tensor& a_NK, const Tensor& b_KM, const Tensor& start_J) {
  const Tensor x = rows_of(a_NK.transpose(0, 1)), y = rows_of(b_KM);
  Tensor out =
      Tensor::empty({start_J.size(0) - 1, a_NK.size(0), b_KM.size(1)}, a_NK.dtype(), a_NK.device());
  kernel::GroupedOuter args{};
  args.start_J = start_J.data<std::int64_t>();
  args.E = out.size(0);
  args.K = out.size(1);
  args.M = out.size(2);
  args.dtype = x.dtype();
  args.x = x.data<void>();
  args.y = y.data<void>();
  args.out_dtype = out.dtype();
  args.out = out.mutable_data<void>();
  kernel::grouped_outer_cpu(args);
  return out;
}

void check_matrices(const Tensor& a, const Tensor& b) {
  check_floating("grouped_matmul", "a", a);
  check_same_dtype("grouped_matmul", "a", a, "b", b);
  const auto check_rank = [](const char* name, const Tensor& x) {
    QUIRE_CHECK(x.rank() == 2 || x.rank() == 3, "grouped_matmul: ", name, " has rank ", x.rank(),
                ", expected 2 or 3");
  };
  check_rank("a", a);
  check_rank("b", b);
  QUIRE_CHECK(a.size(-1) == b.size(-2), "grouped_matmul: dimension ", a.rank() - 1, " of a is ",
              a.size(-1), ", but dimension ", b.rank() - 2, " of b is ", b.size(-2));
}

void check_groups(const Tensor& x, const char* name, const Tensor& start_J) {
  QUIRE_CHECK(x.size(0) == start_J.size(0) - 1, "grouped_matmul: ", name, " has ", x.size(0),
              " matrices, but ends_E has ", start_J.size(0) - 1, " groups");
}

}  // namespace

Tensor grouped_matmul(const Tensor& a, const Tensor& b, const Tensor& ends_E) {
  check_matrices(a, b);
  QUIRE_CHECK(a.rank() == 2 || b.rank() == 2,
              "grouped_matmul: both have rank 3, which takes no ends_E");
  const bool inner = a.rank() == b.rank(), rows = b.rank() == 3;
  const Tensor start_J = starts_of(ends_E, inner ? a.size(1) : rows ? a.size(0) : b.size(1));
  if (inner) return groups_of_inner(a, b, start_J);
  if (rows) {
    check_groups(b, "b", start_J);
    return groups_of_rows(a, b, start_J);
  }
  check_groups(a, "a", start_J);
  return groups_of_rows(b.transpose(0, 1), a.transpose(1, 2), start_J)
      .transpose(0, 1)
      .contiguous_copy();
}

Tensor grouped_matmul(const Tensor& a, const Tensor& b) {
  check_matrices(a, b);
  QUIRE_CHECK(a.rank() == 3 && b.rank() == 3, "grouped_matmul: the ranks are ", a.rank(), " and ",
              b.rank(), "; without ends_E both are 3");
  QUIRE_CHECK(a.size(0) == b.size(0), "grouped_matmul: dimension 0 of a is ", a.size(0),
              ", but of b it is ", b.size(0));
  return matmul(a, b);
}

GroupedMatmulGradients grouped_matmul_backward(const Tensor& dout, const Tensor& a, const Tensor& b,
                                               const Tensor& ends_E) {
  check_matrices(a, b);
  Shape expected{a.size(-2), b.size(-1)};
  if (a.rank() == b.rank()) expected.insert(expected.begin(), ends_E.elements());
  check_same_dtype("grouped_matmul_backward", "dout", dout, "a", a);
  QUIRE_CHECK(dout.shape() == expected, "grouped_matmul_backward: dout has shape ",
              to_string(dout.shape()), ", but the product has ", to_string(expected));
  return {grouped_matmul(dout, b.transpose(-2, -1), ends_E),
          grouped_matmul(a.transpose(-2, -1), dout, ends_E)};
}

}  // namespace quire

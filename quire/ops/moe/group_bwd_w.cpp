#include "quire/ops/moe/group_bwd_w.h"

#include "quire/ops/moe/group_bwd_w_kernel.h"
#include "quire/ops/moe/rows.h"
#include "quire/tensor/dims.h"

namespace quire {

Tensor group_bwd_w(const Tensor& x_MD, const Tensor& dy_MF, const ExpertOrder& order) {
  const Dims dims = QUIRE_DIMS(x_MD, dy_MF);
  check_floating("group_bwd_w", "x_MD", x_MD);
  check_same_dtype("group_bwd_w", "x_MD", x_MD, "dy_MF", dy_MF);
  moe::check_rows("x_MD", x_MD, order.rows(), dims['D']);
  const Tensor x = moe::computed(x_MD), dy = moe::computed(dy_MF);
  Tensor out = Tensor::empty({order.experts(), dims['D'], dims['F']}, x_MD.dtype(), x_MD.device());
  kernel::GroupedOuter args{};
  args.start_J = order.start_J().data<std::int64_t>();
  args.E = order.experts();
  args.K = dims['D'];
  args.M = dims['F'];
  args.dtype = x.dtype();
  args.x = x.data<void>();
  args.y = dy.data<void>();
  args.out_dtype = out.dtype();
  args.out = out.mutable_data<void>();
  kernel::grouped_outer_cpu(args);
  return out;
}

Tensor group_bwd_bias(const Tensor& dy_MF, const ExpertOrder& order) {
  const Dims dims = QUIRE_DIMS(dy_MF);
  check_floating("group_bwd_bias", "dy_MF", dy_MF);
  moe::check_rows("dy_MF", dy_MF, order.rows(), dims['F']);
  const Tensor dy = moe::computed(dy_MF);
  Tensor out = Tensor::empty({order.experts(), dims['F']}, dy.dtype(), dy.device());
  kernel::GroupedSum args{};
  args.start_J = order.start_J().data<std::int64_t>();
  args.E = order.experts();
  args.F = dims['F'];
  args.dtype = dy.dtype();
  args.y = dy.data<void>();
  args.out = out.mutable_data<void>();
  kernel::grouped_sum_cpu(args);
  return moe::stored(out, dy_MF.dtype());
}

}  // namespace quire

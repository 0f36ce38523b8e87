#include "quire/ops/moe/expert_activation.h"

#include "quire/ops/moe/expert_activation_kernel.h"
#include "quire/ops/moe/rows.h"

namespace quire {
namespace moe {

kernel::ActivationRows activation_rows(const ExpertActivation& activation, std::int64_t M,
                                       std::int64_t width) {
  const bool pairs = takes_pairs(activation.kind);
  QUIRE_CHECK(!pairs || width % 2 == 0, "activate: pre has ", width, " columns, expected pairs");
  kernel::ActivationRows args{};
  args.kind = activation.kind;
  args.layout = activation.layout;
  args.pairs = pairs;
  args.limit = activation.limit;
  args.alpha = activation.alpha;
  args.M = M;
  args.F = pairs ? width / 2 : width;
  return args;
}

}  // namespace moe

namespace {

kernel::ActivationRows checked(const Tensor& pre, const ExpertActivation& activation) {
  check_floating("activate", "pre", pre);
  QUIRE_CHECK(pre.rank() == 2, "activate: pre has rank ", pre.rank(), ", expected 2");
  kernel::ActivationRows args = moe::activation_rows(activation, pre.size(0), pre.size(1));
  args.dtype = moe::computed_in(pre.dtype());
  return args;
}

}  // namespace

bool takes_pairs(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kRelu:
    case ActivationKind::kRelu2:
    case ActivationKind::kGelu:
    case ActivationKind::kSilu:
      return false;
    default:
      return true;
  }
}

Tensor activate(const Tensor& pre, const ExpertActivation& activation) {
  kernel::ActivationRows args = checked(pre, activation);
  const Tensor rows = moe::computed(pre);
  Tensor out = Tensor::empty({args.M, args.F}, rows.dtype(), pre.device());
  args.pre = rows.data<void>();
  args.out = out.mutable_data<void>();
  kernel::activation_cpu(args);
  return moe::stored(out, pre.dtype());
}

Tensor activate_backward(const Tensor& dout_MF, const Tensor& pre,
                         const ExpertActivation& activation) {
  kernel::ActivationRows args = checked(pre, activation);
  check_same_dtype("activate_backward", "dout_MF", dout_MF, "pre", pre);
  moe::check_rows("dout_MF", dout_MF, args.M, args.F);
  const Tensor rows = moe::computed(pre), dout = moe::computed(dout_MF);
  Tensor out = Tensor::empty(rows.shape(), rows.dtype(), pre.device());
  args.pre = rows.data<void>();
  args.dout = dout.data<void>();
  args.out = out.mutable_data<void>();
  if (out.elements() > 0) kernel::activation_cpu(args);
  return moe::stored(out, pre.dtype());
}

}  // namespace quire

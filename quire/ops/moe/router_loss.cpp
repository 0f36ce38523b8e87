#include "quire/ops/moe/router_loss.h"

#include "quire/ops/math/arithmetic.h"
#include "quire/ops/moe/expert_order_kernel.h"
#include "quire/ops/moe/router_loss_kernel.h"
#include "quire/ops/moe/rows.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

Tensor checked_experts(const Tensor& logits_NE, const Tensor& experts_NC) {
  const Dims dims = QUIRE_DIMS(logits_NE, experts_NC);
  check_floating("balance_loss", "logits_NE", logits_NE);
  QUIRE_CHECK(experts_NC.dtype() == DType::kI64, "experts_NC is ", to_string(experts_NC.dtype()),
              ", expected i64");
  const Tensor experts = experts_NC.contiguous_copy();
  const auto* numbers = experts.data<std::int64_t>();
  const std::int64_t bad = kernel::first_outside_cpu(numbers, experts.elements(), -1, dims['E']);
  QUIRE_CHECK(bad < 0, "experts_NC[", bad, "] is ", numbers[bad], ", expected -1 to ",
              dims['E'] - 1);
  return experts;
}

double number(const Tensor& dout, const Tensor& logits) {
  check_same_dtype("router loss", "dout", dout, "logits_NE", logits);
  QUIRE_CHECK(dout.elements() == 1, "dout has shape ", to_string(dout.shape()),
              ", expected one number");
  return *dout.to(DType::kF64).data<double>();
}

kernel::RouterLoss loss_of(const Tensor& logits) {
  kernel::RouterLoss args{};
  args.dtype = logits.dtype();
  args.N = logits.size(0);
  args.E = logits.size(1);
  args.logits = logits.data<void>();
  return args;
}

}  // namespace

Tensor balance_loss(const Tensor& logits_NE, const Tensor& experts_NC) {
  const Tensor experts = checked_experts(logits_NE, experts_NC);
  const Tensor logits = moe::computed(logits_NE);
  kernel::RouterLoss args = loss_of(logits);
  args.experts = experts.data<std::int64_t>();
  args.choices = experts.elements();
  const bool nothing = logits.elements() == 0 || args.choices == 0;
  return full({}, nothing ? 0.0 : kernel::balance_loss_cpu(args), logits_NE.dtype());
}

Tensor balance_loss_backward(const Tensor& dout, const Tensor& logits_NE,
                             const Tensor& experts_NC) {
  const Tensor experts = checked_experts(logits_NE, experts_NC);
  const Tensor logits = moe::computed(logits_NE);
  kernel::RouterLoss args = loss_of(logits);
  args.experts = experts.data<std::int64_t>();
  args.choices = experts.elements();
  args.dout = number(dout, logits_NE);
  Tensor out = Tensor::zeros(logits.shape(), logits.dtype());
  args.dlogits = out.mutable_data<void>();
  if (out.elements() > 0 && args.choices > 0) kernel::balance_loss_cpu(args);
  return moe::stored(out, logits_NE.dtype());
}

Tensor z_loss(const Tensor& logits_NE) {
  (void)QUIRE_DIMS(logits_NE);
  check_floating("z_loss", "logits_NE", logits_NE);
  const Tensor logits = moe::computed(logits_NE);
  const double loss = logits.elements() == 0 ? 0.0 : kernel::z_loss_cpu(loss_of(logits));
  return full({}, loss, logits_NE.dtype());
}

Tensor z_loss_backward(const Tensor& dout, const Tensor& logits_NE) {
  (void)QUIRE_DIMS(logits_NE);
  check_floating("z_loss", "logits_NE", logits_NE);
  const Tensor logits = moe::computed(logits_NE);
  kernel::RouterLoss args = loss_of(logits);
  args.dout = number(dout, logits_NE);
  Tensor out = Tensor::empty(logits.shape(), logits.dtype());
  args.dlogits = out.mutable_data<void>();
  if (out.elements() > 0) kernel::z_loss_cpu(args);
  return moe::stored(out, logits_NE.dtype());
}

}  // namespace quire

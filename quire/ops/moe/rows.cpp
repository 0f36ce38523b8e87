#include "quire/ops/moe/rows.h"

namespace quire::moe {

void check_rows(const char* name, const Tensor& x, std::int64_t rows, std::int64_t columns) {
  QUIRE_CHECK(x.rank() == 2, name, ": rank is ", x.rank(), ", expected 2");
  QUIRE_CHECK(x.size(0) == rows && x.size(1) == columns, name, " has shape ", to_string(x.shape()),
              ", expected [", rows, ", ", columns, "]");
}

void check_fan(const ExpertOrder& order, RowOrder rows, std::int64_t fan) {
  QUIRE_CHECK(fan >= 1, "fan is ", fan, ", expected at least 1");
  QUIRE_CHECK(rows == RowOrder::kScattered || fan == 1, "fan is ", fan,
              ", but grouped rows stand for one slot each");
  QUIRE_CHECK(order.slots() % fan == 0, "fan is ", fan, ", which does not divide the ",
              order.slots(), " slots");
}

kernel::GroupedWeight plain(const ExpertWeights& weights, std::vector<const std::byte*>& panels) {
  kernel::GroupedWeight out{};
  if (weights.is_packed()) {
    out.type = static_cast<int>(weights.packed()[0].type());
    for (const Weight& weight : weights.packed()) panels.push_back(weight.panels());
    out.panels = panels.data();
    out.turned = weights.is_turned();
    return out;
  }
  const Tensor& dense = weights.dense_EDF();
  out.dtype = dense.dtype();
  out.data = dense.data<void>();
  out.e_step = dense.strides()[0];
  out.k_step = dense.strides()[1];
  out.m_step = dense.strides()[2];
  return out;
}

kernel::GroupedProduct plain(const Product& args, std::vector<const std::byte*>& panels,
                             Tensor& bias) {
  kernel::GroupedProduct out{};
  out.start_J = args.order.start_J().data<std::int64_t>();
  out.E = args.order.experts();
  out.K = args.weight.inputs();
  out.M = args.weight.outputs();
  out.dtype = args.x.dtype();
  out.x = args.x.data<void>();
  out.x_row = row_map(args.order, args.in, args.fan);
  out.weight = plain(args.weight, panels);
  if (args.bias != nullptr) bias = computed(*args.bias);
  out.bias = args.bias == nullptr ? nullptr : bias.data<void>();
  out.out_row = row_map(args.order, args.out);
  return out;
}

Tensor product(const Product& args, DType out_dtype) {
  const std::int64_t rows = row_count(args.order, args.out);
  const Shape shape{rows, args.weight.outputs()};
  // Slots of no expert are rows that no group writes.
  Tensor out = rows > args.order.rows() ? Tensor::zeros(shape, out_dtype, args.x.device())
                                        : Tensor::empty(shape, out_dtype, args.x.device());
  if (out.elements() == 0) return out;
  std::vector<const std::byte*> panels;
  Tensor bias;
  kernel::GroupedProduct all = plain(args, panels, bias);
  all.out_dtype = out_dtype;
  all.out = out.mutable_data<void>();
  kernel::grouped_product_cpu(all);
  return out;
}

}  // namespace quire::moe

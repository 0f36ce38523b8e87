#pragma once

// A random layer of experts, as tensors and as the reference's vectors.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "quire/ops/moe/scattered_experts.h"
#include "tests/reference/moe.h"
#include "tests/support/gradient_check.h"

namespace quire::test {

/// The four modes by name.
inline std::string mode_name(const ScatterSpec& spec) {
  const auto name = [](RowOrder o) { return o == RowOrder::kGrouped ? "grouped" : "scattered"; };
  return std::string(name(spec.in)) + " to " + name(spec.out) + ", fan " + std::to_string(spec.fan);
}

/// Experts drawn at random; with `holes` one slot in eight has none. One token in eight chooses an
/// expert twice.
inline Tensor random_experts(std::int64_t N, std::int64_t C, std::int64_t E, std::uint64_t seed,
                             bool holes = false) {
  Rng rng(seed);
  Tensor out = Tensor::empty({N, C}, DType::kI64);
  auto* to = out.mutable_data<std::int64_t>();
  for (std::int64_t i = 0; i < N * C; ++i) {
    to[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(E)));
    if (i % C > 0 && rng.below(8) == 0) to[i] = to[i - 1];
    if (holes && rng.below(8) == 0) to[i] = -1;
  }
  return out;
}

inline std::vector<std::int64_t> integers(const Tensor& x) {
  const Tensor plain = x.to(DType::kI64);
  return {plain.data<std::int64_t>(), plain.data<std::int64_t>() + plain.elements()};
}

/// The rows of a tensor [slots, …] that stand at the slots of the order, and back (zeros
/// elsewhere).
inline Tensor grouped_rows(const Tensor& x, const ExpertOrder& order) {
  const std::vector<double> from = values(x);
  const auto width = static_cast<std::size_t>(x.size(1));
  std::vector<double> out;
  for (const std::int64_t slot : integers(order.slot_M())) {
    const auto at = from.begin() + static_cast<std::ptrdiff_t>(slot) * x.size(1);
    out.insert(out.end(), at, at + x.size(1));
  }
  return tensor_of(out, {order.rows(), static_cast<std::int64_t>(width)}, x.dtype());
}
inline Tensor scattered_rows(const Tensor& x, const ExpertOrder& order) {
  const std::vector<double> from = values(x);
  const auto width = static_cast<std::size_t>(x.size(1));
  std::vector<double> out(static_cast<std::size_t>(order.slots()) * width);
  std::size_t m = 0;
  for (const std::int64_t slot : integers(order.slot_M())) {
    for (std::size_t d = 0; d < width; ++d)
      out[static_cast<std::size_t>(slot) * width + d] = from[m * width + d];
    ++m;
  }
  return tensor_of(out, {order.slots(), x.size(1)}, x.dtype());
}

struct MoeSizes {
  std::int64_t N = 7, C = 2, E = 3, D = 5, F = 4;
  bool bias = false, gates = false, holes = false;
};

/// Inputs in the layout that `spec` asks for.
struct MoeCase {
  MoeSizes sizes;
  ScatterSpec spec;
  Tensor experts_NC;
  ExpertOrder order;
  Tensor x, dout;
  ExpertLayer layer;
  std::optional<Tensor> gates;

  MoeCase(const MoeSizes& s, const ScatterSpec& mode, DType dtype, std::uint64_t seed)
      : sizes(s),
        spec(mode),
        experts_NC(random_experts(s.N, s.C, s.E, seed, s.holes)),
        order(expert_order(experts_NC, s.E)),
        layer{scaled({s.E, s.D, s.F}, seed + 1, dtype, s.D), std::nullopt} {
    const std::int64_t in = mode.in == RowOrder::kGrouped ? order.rows() : order.slots() / mode.fan;
    const std::int64_t out = s.gates                          ? s.N
                             : mode.out == RowOrder::kGrouped ? order.rows()
                                                              : order.slots();
    x = random_tensor({in, s.D}, seed + 2, dtype);
    dout = random_tensor({out, s.F}, seed + 3, dtype);
    if (s.bias) layer.bias_EF = random_tensor({s.E, s.F}, seed + 4, dtype);
    if (s.gates) gates = random_tensor({s.N, s.C}, seed + 5, dtype);
  }

  static Tensor scaled(Shape shape, std::uint64_t seed, DType dtype, std::int64_t D) {
    std::vector<double> all = values(random_tensor(shape, seed));
    for (double& value : all) value /= std::sqrt(static_cast<double>(D));
    return tensor_of(all, std::move(shape), dtype);
  }

  Tensor out() const { return scattered_experts(x, layer, order, spec, gates); }
  ScatteredExpertsGradients gradients() const {
    return scattered_experts_backward(dout, x, layer, order, spec, gates);
  }

  /// The same as slots: grouped rows are put at their slots.
  template <class T>
  ref::Experts<T> reference() const {
    const auto as = [](const Tensor& t) {
      const std::vector<double> all = values(t);
      return std::vector<T>(all.begin(), all.end());
    };
    ref::Experts<T> out{};
    out.D = static_cast<std::size_t>(sizes.D);
    out.F = static_cast<std::size_t>(sizes.F);
    out.fan = static_cast<std::size_t>(spec.fan);
    out.choices = static_cast<std::size_t>(sizes.C);
    out.expert = integers(experts_NC);
    out.x = as(spec.in == RowOrder::kGrouped ? scattered_rows(x, order) : x);
    out.w = as(layer.weight_EDF.dense_EDF());
    if (layer.bias_EF) out.bias = as(*layer.bias_EF);
    if (gates) out.gates = as(*gates);
    return out;
  }
  std::vector<double> as_slots(const Tensor& out_rows) const {
    return values(!gates && spec.out == RowOrder::kGrouped ? scattered_rows(out_rows, order)
                                                           : out_rows);
  }
};

inline constexpr RowOrder kScattered = RowOrder::kScattered, kGrouped = RowOrder::kGrouped;

}  // namespace quire::test

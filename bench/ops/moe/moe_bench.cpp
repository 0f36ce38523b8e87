// Times of the products of experts, one run at a time, so that a peer can be timed in between
// (torch_moe.py does): reads lines "CASE TOKENS DTYPE" and answers each with seconds.
//
//   product   rows scattered to grouped, x[token] · weight[expert]
//   grouped   the same from grouped rows
//   backward  of grouped: the gradients of rows and weights
//   dense     one matrix, the same number of multiplications
//   loop      our own dense product, expert after expert, from grouped rows
//
//   moe_bench [experts=128] [choices=8] [D=512] [F=256]

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

#include "quire/ops/matmul/dense.h"
#include "quire/ops/moe/group.h"
#include "quire/ops/moe/scattered_experts.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace {

using quire::DType;
using quire::RowOrder;
using quire::Tensor;

Tensor numbers(quire::Shape shape, DType dtype, double scale) {
  quire::Rng rng(3);
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    to[i] = static_cast<float>(scale * (rng.uniform() - 0.5));
  return out.to(dtype);
}

struct Sizes {
  std::int64_t E, C, D, F;
};

/// Everything that a run needs, made once for a number of tokens and a dtype.
struct Setup {
  quire::ExpertOrder order;
  quire::ExpertLayer layer;
  Tensor x, rows, dout, matrix;

  Setup(const Sizes& s, std::int64_t N, DType dtype)
      : order(quire::expert_order(experts(s, N), s.E)),
        layer{numbers({s.E, s.D, s.F}, dtype, 0.1), std::nullopt},
        x(numbers({N, s.D}, dtype, 2)),
        rows(quire::group(x, order, s.C)),
        dout(numbers({N * s.C, s.F}, dtype, 2)),
        matrix(numbers({s.D, s.F}, dtype, 0.1)) {}

  static Tensor experts(const Sizes& s, std::int64_t N) {
    quire::Rng rng(7);
    Tensor out = Tensor::empty({N, s.C}, DType::kI64);
    for (std::int64_t i = 0; i < N * s.C; ++i)
      out.mutable_data<std::int64_t>()[i] =
          static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(s.E)));
    return out;
  }
};

void run(const std::string& name, const Setup& s, const Sizes& sizes) {
  constexpr RowOrder kScattered = RowOrder::kScattered, kGrouped = RowOrder::kGrouped;
  if (name == "product") scattered_experts(s.x, s.layer, s.order, {kScattered, kGrouped, sizes.C});
  if (name == "grouped") scattered_experts(s.rows, s.layer, s.order, {kGrouped, kGrouped, 1});
  if (name == "backward")
    scattered_experts_backward(s.dout, s.rows, s.layer, s.order, {kGrouped, kGrouped, 1});
  if (name == "dense") quire::matmul(s.rows, s.matrix);
  if (name == "loop") {
    const auto* start = s.order.start_J().data<std::int64_t>();
    for (std::int64_t e = 0; e < sizes.E; ++e) {
      quire::matmul(s.rows.slice(0, start[e], start[e + 1]),
                    s.layer.weight_EDF.dense_EDF().slice(0, e, e + 1).view({sizes.D, sizes.F}));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i, std::int64_t other) {
    return argc > i ? std::atoll(argv[i]) : other;
  };
  const Sizes sizes{number(1, 128), number(2, 8), number(3, 512), number(4, 256)};
  std::map<std::pair<std::int64_t, std::string>, Setup> setups;
  std::string name, dtype;
  std::int64_t N = 0;
  while (std::cin >> name >> N >> dtype) {
    const DType type = dtype == "bf16" ? DType::kBF16 : DType::kF32;
    const Setup& setup = setups.try_emplace({N, dtype}, sizes, N, type).first->second;
    const auto start = std::chrono::steady_clock::now();
    run(name, setup, sizes);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%.9f\n", seconds.count());
    std::fflush(stdout);
  }
}

// Times one backward of causal attention for each line on standard input, and prints the seconds it
// took and the most bytes it held beside its inputs and its results:
//
//   HOW DTYPE Z B H G K S
//
// HOW owners: attention_backward(). HOW gathered: what boostr does, with our own ops: keys and
// values gathered dense, the whole softmax, five products, and scatter_reduce back into the pool.
// DTYPE f32|bf16; Z slots of a page, 0 for one page per sequence; S queries and keys of each of B
// sequences. A line equal to the one before uses its tensors again; "ceilings" prints what this
// machine can do. compare_backward.py feeds it, and PyTorch in turn.

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/repeat_interleave.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/ops/math/arithmetic.h"
#include "quire/ops/math/reduce.h"
#include "quire/ops/math/softmax.h"
#include "quire/ops/matmul/dense.h"
#include "quire/ops/tile/ceilings.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"
#include "tests/support/allocation_counter.h"

namespace {

using quire::DType;
using quire::Tensor;

Tensor normal(quire::Shape shape, std::uint64_t seed) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  quire::Rng rng(seed);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    x[i] = static_cast<float>(rng.uniform() + rng.uniform() + rng.uniform() - 1.5) * 2.0f;
  return out;
}

struct Case {
  explicit Case(const std::string& line) {
    std::istringstream words(line);
    std::string dtype;
    words >> how >> dtype >> Z >> B >> H >> G >> K >> S;
    const std::int64_t slots = Z == 0 ? S : Z, W = (S + slots - 1) / slots;
    kv.dtype = dtype == "bf16" ? DType::kBF16 : DType::kF32;
    q = normal({B * S, H, K}, 1).to(kv.dtype);
    dout = normal({B * S, H, K}, 4).to(kv.dtype);
    k = normal({B * W * slots, G, K}, 2).to(kv.dtype);
    v = normal({B * W * slots, G, K}, 3).to(kv.dtype);
    dk = Tensor::zeros(k.shape(), DType::kF32);
    dv = Tensor::zeros(v.shape(), DType::kF32);
    kv.k_pages = k.data<void>();
    kv.v_pages = v.data<void>();
    kv.k_strides = kv.v_strides = {slots * G * K, G * K, K};
    kv.P = B * W;
    kv.Z = slots;
    kv.G = G;
    kv.K = kv.U = K;
    kv.W = W;
    table.resize(static_cast<std::size_t>(B * W));
    std::iota(table.begin(), table.end(), 0);
    // Pages lie in no order, as those of a pool that has been used for a while.
    quire::Rng rng(5);
    for (std::size_t i = table.size(); Z != 0 && i > 1; --i)
      std::swap(table[i - 1], table[rng.below(i)]);
    kv.table = table.data();
    lengths.assign(static_cast<std::size_t>(B), S);
    kv.length_BG = lengths.data();
    std::vector<std::int32_t> start;
    for (std::int64_t b = 0; b <= B; ++b) start.push_back(static_cast<std::int32_t>(b * S));
    start_J = Tensor::of(std::span<const std::int32_t>(start), {B + 1});
    spec.alignment = quire::Alignment::kBottomRight;
    result = quire::attention(q, start_J, kv, spec);
  }

  Tensor owners() {
    quire::AttentionGradients gradients;
    gradients.dk_pages = dk.mutable_data<float>();
    gradients.dv_pages = dv.mutable_data<float>();
    quire::attention_backward(gradients, dout, Tensor(), q, start_J, kv, spec, result);
    return gradients.dq_NHK;
  }

  /// [B·S, heads, K] to [B, heads, S, K].
  Tensor heads_first(const Tensor& x, std::int64_t heads) const {
    return x.view({B, S, heads, K}).transpose(1, 2).contiguous_copy();
  }

  Tensor causal_mask() const {
    Tensor mask = Tensor::zeros({S, S}, DType::kF32);
    for (std::int64_t t = 0; t < S; ++t)
      for (std::int64_t s = t + 1; s < S; ++s)
        mask.mutable_data<float>()[t * S + s] = -std::numeric_limits<float>::infinity();
    return mask;
  }

  Tensor gathered() {
    Tensor rows = Tensor::empty({B * G * S}, DType::kI64);
    std::int64_t* row = rows.mutable_data<std::int64_t>();
    for (std::int64_t i = 0; i < B * G * S; ++i) {
      const std::int64_t b = i / (G * S), g = i / S % G, s = i % S;
      const std::int64_t page = table[static_cast<std::size_t>(b * kv.W + s / kv.Z)];
      row[i] = (page * kv.Z + s % kv.Z) * G + g;
    }
    const std::int64_t pool = kv.P * kv.Z * G;
    const auto dense = [&](const Tensor& pages) {
      const Tensor small = quire::index_select(pages.view({pool, K}), 0, rows).view({B, G, S, K});
      return H == G ? small : quire::repeat_interleave(small, H / G, 1);
    };
    const double scale = 1 / std::sqrt(static_cast<double>(K));
    const Tensor qh = heads_first(q, H), doh = heads_first(dout, H),
                 oh = heads_first(result.out_NHU, H);
    const Tensor kh = dense(k), vh = dense(v);
    // One statement each: three matrices of S · S for each head are held at once, not five.
    Tensor weights = quire::matmul(qh, kh.transpose(-2, -1));
    weights = quire::mul(weights, scale);
    weights = quire::add(weights, causal_mask());
    weights = quire::softmax(weights, -1);
    const Tensor delta = quire::sum(quire::mul(doh, oh), {-1}, quire::Axis::kKeep);
    const Tensor dvh = quire::matmul(weights.transpose(-2, -1), doh);
    Tensor dscore = quire::matmul(doh, vh.transpose(-2, -1));
    dscore = quire::sub(dscore, delta);
    dscore = quire::mul(weights, dscore);
    weights = Tensor();
    dscore = quire::mul(dscore, scale);
    const Tensor dq = quire::matmul(dscore, kh);
    const Tensor dkh = quire::matmul(dscore.transpose(-2, -1), qh);
    const auto scatter = [&](const Tensor& dense_gradient) {
      const Tensor by_group = quire::sum(dense_gradient.view({B, G, H / G, S, K}), {2});
      const Tensor index = rows.view({B * G * S, 1}).expand({B * G * S, K});
      return quire::scatter_reduce(Tensor::zeros({pool, K}, DType::kF32), 0, index,
                                   by_group.view({B * G * S, K}), quire::Reduce::kSum);
    };
    dk = scatter(dkh);
    dv = scatter(dvh);
    return dq;
  }

  std::string how;
  std::int64_t Z = 0, B = 0, H = 0, G = 0, K = 0, S = 0;
  Tensor q, k, v, dout, dk, dv, start_J;
  std::vector<std::int32_t> table;
  std::vector<std::int64_t> lengths;
  quire::KvView kv;
  quire::AttentionSpec spec;
  quire::AttentionResult result;
};

}  // namespace

int main(int argc, char** argv) {
  quire::set_threads(argc > 1 ? std::stoi(argv[1]) : 2);
  std::string line, last;
  std::unique_ptr<Case> at;
  while (std::getline(std::cin, line)) {
    if (line == "ceilings") {
      const quire::Ceilings ceilings = quire::measure_ceilings(quire::Effort::kFull);
      std::printf("%.0f GFLOP/s, %.1f GB/s read\n", ceilings.fma_gflop_s, ceilings.stream_gb_s);
      std::fflush(stdout);
      continue;
    }
    if (line != last) at = nullptr, at = std::make_unique<Case>(line);
    last = line;
    quire::reset_peak_allocated_bytes();
    const std::int64_t before = quire::allocated_bytes();
    double seconds = 0;
    const std::int64_t held = quire::test::peak_bytes([&] {
      const auto start = std::chrono::steady_clock::now();
      const Tensor dq = at->how == "owners" ? at->owners() : at->gathered();
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
    // dq is a result; of the pool's gradients "gathered" makes new ones.
    const std::int64_t results =
        at->q.elements() * 4 + (at->how == "owners" ? 0 : at->dk.bytes() + at->dv.bytes());
    std::printf("%.9f %lld\n", seconds,
                static_cast<long long>(quire::peak_allocated_bytes() - before + held - results));
    std::fflush(stdout);
  }
}

// What sharing a prompt saves in training: one attention layer, forward and backward, of R rollouts
// that continue one prompt. Every row has a gradient, as inside a model whose loss is on the
// rollouts; the prompt's is the sum over them. Three ways to the same gradients:
//
//   shared    one call over pages: the prompt's pages stand in every table, its queries come once
//   two calls the prompt once; then each rollout over a dense copy of prompt and rollout, whose
//             gradients are added up
//   repeated  each rollout with a copy of the prompt, queries included
//
// Prints for each case seconds (the median), bytes at the peak (inputs, results and gradients
// included), the ratios, the ratio that counting products gives, the length of the difference of
// the gradients from those of `repeated` relative to their own, and whether `shared` gave the same
// bits in every run.
//
//   bench_shared_prefix [prompt suffix rollouts [slots of a page = 16 [rounds = 5]]]
//
// Without arguments: twelve cases.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quire/ops/attention/attention_backward.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"
#include "tests/support/allocation_counter.h"

namespace {

using quire::DType;
using quire::Tensor;
constexpr std::int64_t H = 8, G = 2, K = 64;
std::int64_t Z = 16;  // slots of a page
long rounds = 5;

struct Case {
  std::int64_t S, U, R;  // tokens of the prompt, of a rollout; rollouts
};

Tensor normal(std::int64_t rows, std::int64_t heads, std::uint64_t seed) {
  Tensor out = Tensor::empty({rows, heads, K}, DType::kF32);
  quire::Rng rng(seed);
  std::generate_n(out.mutable_data<float>(), out.elements(), [&] { return rng.normal(); });
  return out;
}

Tensor zeros_like(const Tensor& x) { return Tensor::zeros(x.shape(), DType::kF32); }

void copy_rows(Tensor& to, std::int64_t at, const Tensor& from, std::int64_t first,
               std::int64_t rows) {
  const std::int64_t width = from.elements() / from.size(0);
  std::copy_n(from.data<float>() + first * width, rows * width,
              to.mutable_data<float>() + at * width);
}

void add_rows(Tensor& to, std::int64_t at, const Tensor& from, std::int64_t first,
              std::int64_t rows) {
  const std::int64_t width = from.elements() / from.size(0);
  const float* x = from.data<float>() + first * width;
  float* y = to.mutable_data<float>() + at * width;
  for (std::int64_t i = 0; i < rows * width; ++i) y[i] += x[i];
}

// The prompt's rows first, then those of each rollout: what a model computes once.
struct Rows {
  Tensor q, k, v, dout;
};
struct Gradients {
  Tensor dq, dk, dv;
};

// Ragged queries over sequences of pages of `slots` keys.
struct Call {
  std::vector<std::int32_t> start = {0}, table, table_start = {0};
  std::vector<std::int64_t> length;

  void sequence(std::int64_t queries, std::int64_t keys) {
    start.push_back(start.back() + static_cast<std::int32_t>(queries));
    length.push_back(keys);
  }
  void pages(std::int64_t first, std::int64_t count) {
    for (std::int64_t p = 0; p < count; ++p) table.push_back(static_cast<std::int32_t>(first + p));
  }
  void end_row() { table_start.push_back(static_cast<std::int32_t>(table.size())); }

  Gradients run(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                std::int64_t slots) const {
    quire::KvView kv;
    kv.k_pages = k.data<float>();
    kv.v_pages = v.data<float>();
    kv.k_strides = kv.v_strides = {slots * G * K, G * K, K};
    kv.P = k.size(0) / slots;
    kv.Z = slots;
    kv.G = G;
    kv.K = kv.U = K;
    if (!table.empty()) {
      kv.table = table.data();
      kv.table_start_J = table_start.data();
    }
    kv.length_BG = length.data();
    quire::AttentionSpec spec;
    spec.alignment = quire::Alignment::kBottomRight;
    const Tensor start_J =
        Tensor::of(std::span<const std::int32_t>(start), {static_cast<std::int64_t>(start.size())});
    const quire::AttentionResult result = attention(q, start_J, kv, spec);
    Gradients out{{}, zeros_like(k), zeros_like(v)};
    quire::AttentionGradients gradients;
    gradients.dk_pages = out.dk.mutable_data<float>();
    gradients.dv_pages = out.dv.mutable_data<float>();
    attention_backward(gradients, dout, Tensor(), q, start_J, kv, spec, result);
    out.dq = gradients.dq_NHK;
    return out;
  }
};

Gradients shared(const Case& c, const Rows& rows) {
  Call call;
  call.sequence(c.S, c.S);
  call.pages(0, c.S / Z);
  call.end_row();
  for (std::int64_t r = 0; r < c.R; ++r) {
    call.sequence(c.U, c.S + c.U);
    call.pages(0, c.S / Z);
    call.pages((c.S + r * c.U) / Z, c.U / Z);
    call.end_row();
  }
  return call.run(rows.q, rows.k, rows.v, rows.dout, Z);
}

// Row by row, the prompt before each rollout.
Tensor with_prompts(const Case& c, const Tensor& rows) {
  Tensor out = Tensor::empty({c.R * (c.S + c.U), rows.size(1), K}, DType::kF32);
  for (std::int64_t r = 0; r < c.R; ++r) {
    copy_rows(out, r * (c.S + c.U), rows, 0, c.S);
    copy_rows(out, r * (c.S + c.U) + c.S, rows, c.S + r * c.U, c.U);
  }
  return out;
}

// Gradients of with_prompts(): the prompt's copies are added up.
void add_prompts(const Case& c, Tensor& to, const Tensor& from) {
  for (std::int64_t r = 0; r < c.R; ++r) {
    add_rows(to, 0, from, r * (c.S + c.U), c.S);
    add_rows(to, c.S + r * c.U, from, r * (c.S + c.U) + c.S, c.U);
  }
}

Gradients two_calls(const Case& c, const Rows& rows) {
  Call prompt, rollouts;
  prompt.sequence(c.S, c.S);
  Gradients first = prompt.run(rows.q.slice(0, 0, c.S), rows.k.slice(0, 0, c.S),
                               rows.v.slice(0, 0, c.S), rows.dout.slice(0, 0, c.S), c.S);
  for (std::int64_t r = 0; r < c.R; ++r) rollouts.sequence(c.U, c.S + c.U);
  const std::int64_t N = c.S + c.R * c.U;
  const Gradients rest =
      rollouts.run(rows.q.slice(0, c.S, N), with_prompts(c, rows.k), with_prompts(c, rows.v),
                   rows.dout.slice(0, c.S, N), c.S + c.U);
  Gradients out{Tensor::empty(rows.q.shape(), DType::kF32), zeros_like(rows.k), zeros_like(rows.v)};
  copy_rows(out.dq, 0, first.dq, 0, c.S);
  copy_rows(out.dq, c.S, rest.dq, 0, N - c.S);
  copy_rows(out.dk, 0, first.dk, 0, c.S);
  copy_rows(out.dv, 0, first.dv, 0, c.S);
  add_prompts(c, out.dk, rest.dk);
  add_prompts(c, out.dv, rest.dv);
  return out;
}

Gradients repeated(const Case& c, const Rows& rows) {
  Call call;
  for (std::int64_t r = 0; r < c.R; ++r) call.sequence(c.S + c.U, c.S + c.U);
  Tensor dout = with_prompts(c, rows.dout);
  // Each copy of the prompt has its share of the gradient.
  for (std::int64_t r = 0; r < c.R; ++r) {
    float* at = dout.mutable_data<float>() + r * (c.S + c.U) * H * K;
    for (std::int64_t i = 0; i < c.S * H * K; ++i) at[i] /= static_cast<float>(c.R);
  }
  const Gradients copies = call.run(with_prompts(c, rows.q), with_prompts(c, rows.k),
                                    with_prompts(c, rows.v), dout, c.S + c.U);
  Gradients out{zeros_like(rows.q), zeros_like(rows.k), zeros_like(rows.v)};
  add_prompts(c, out.dq, copies.dq);
  add_prompts(c, out.dk, copies.dk);
  add_prompts(c, out.dv, copies.dv);
  return out;
}

struct Measured {
  std::vector<double> times;
  std::int64_t bytes = 0;
  Gradients gradients;
  bool same_bits = true;

  double seconds() const {
    std::vector<double> sorted = times;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

bool equal(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data<float>(), b.data<float>(), static_cast<std::size_t>(a.bytes())) == 0;
}

template <class Run>
void measure(Measured& to, const Rows& rows, const Run& run) {
  quire::release_cached_bytes();
  const std::int64_t before = quire::allocated_bytes();
  quire::reset_peak_allocated_bytes();
  Gradients found;
  const std::int64_t vectors = quire::test::peak_bytes([&] {
    const auto start = std::chrono::steady_clock::now();
    found = run();
    to.times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  });
  // Tensors and everything else; the two need not peak together, so this is at most too much.
  const std::int64_t inputs = rows.q.bytes() + rows.k.bytes() + rows.v.bytes() + rows.dout.bytes();
  to.bytes = std::max(to.bytes, inputs + quire::peak_allocated_bytes() - before + vectors);
  if (to.times.size() > 1) {
    to.same_bits = to.same_bits && equal(found.dq, to.gradients.dq) &&
                   equal(found.dk, to.gradients.dk) && equal(found.dv, to.gradients.dv);
  }
  to.gradients = found;
}

double difference(const Tensor& a, const Tensor& b) {
  double length = 0, apart = 0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    const double x = double{a.data<float>()[i]}, y = double{b.data<float>()[i]};
    length += y * y;
    apart += (x - y) * (x - y);
  }
  return std::sqrt(apart / length);
}

double difference(const Gradients& a, const Gradients& b) {
  return std::max({difference(a.dq, b.dq), difference(a.dk, b.dk), difference(a.dv, b.dv)});
}

void run(const Case& c) {
  const std::int64_t N = c.S + c.R * c.U;
  const Rows rows{normal(N, H, 1), normal(N, G, 2), normal(N, G, 3), normal(N, H, 4)};
  const double s = static_cast<double>(c.S), u = static_cast<double>(c.U),
               r = static_cast<double>(c.R);
  // Pairs of a query and a key that it sees.
  const double counted = r * (s + u) * (s + u) / (s * s + r * (2 * s * u + u * u));
  Measured ours, two, whole;
  measure(whole, rows, [&] { return repeated(c, rows); });
  for (long round = 0; round < rounds; ++round) {
    measure(ours, rows, [&] { return shared(c, rows); });
    measure(two, rows, [&] { return two_calls(c, rows); });
  }
  const auto mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::printf(
      "%6ld %6ld %4ld  %7.3f %7.3f %8.3f  %6.2f %6.2f %5.0f%%  %6.0f %6.0f %6.0f  %.1e %.1e %s\n",
      c.S, c.U, c.R, ours.seconds(), two.seconds(), whole.seconds(),
      whole.seconds() / ours.seconds(), counted, 100 * whole.seconds() / ours.seconds() / counted,
      mib(ours.bytes), mib(two.bytes), mib(whole.bytes),
      difference(ours.gradients, whole.gradients), difference(ours.gradients, two.gradients),
      ours.same_bits ? "yes" : "NO");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("%6s %6s %4s  %7s %7s %8s  %6s %6s %6s  %6s %6s %6s  %7s %7s %s\n", "prompt",
              "suffix", "roll", "shared", "two", "repeated", "faster", "count", "share", "MiB",
              "two", "rep.", "to rep.", "to two", "same bits");
  if (argc >= 4) {
    if (argc > 4) Z = std::max(1L, std::atol(argv[4]));
    if (argc > 5) rounds = std::max(1L, std::atol(argv[5]));
    const auto tokens = [&](int at) { return std::max(1L, std::atol(argv[at]) / Z) * Z; };
    run({tokens(1), tokens(2), std::max(1L, std::atol(argv[3]))});
    return 0;
  }
  for (const std::int64_t S : {1024, 4096})
    for (const std::int64_t U : {256, 1024})
      for (const std::int64_t R : {4, 8, 16}) run({S, U, R});
}

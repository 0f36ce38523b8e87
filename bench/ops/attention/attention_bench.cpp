// Times one call of attention() for each line on standard input, and prints the seconds it took:
//
//   DTYPE LAYOUT Z B H G K U T S
//
// DTYPE f32|bf16|f16|i8; LAYOUT rows|blocks; Z slots of a page, 0 for one page per sequence; pages
// lie in no order, or, with a + behind Z, in the order of their keys; T queries and S keys of each
// of B sequences, causal, bottom-right. A line equal to the one before uses its tensors again; the
// line "ceilings" prints what this machine can do at most, and "pieces PIECE BYTES" how much longer
// it takes just to read so many bytes in pieces that lie in no order than in order.
// compare_torch.py feeds it, and PyTorch in turn.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/tile/ceilings.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace {

using quire::DType;
using quire::Tensor;

DType dtype_of(const std::string& name) {
  return name == "bf16"  ? DType::kBF16
         : name == "f16" ? DType::kF16
         : name == "i8"  ? DType::kI8
                         : DType::kF32;
}

Tensor normal(quire::Shape shape, std::uint64_t seed) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  quire::Rng rng(seed);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    x[i] = static_cast<float>(rng.uniform() + rng.uniform() + rng.uniform() - 1.5) * 2.0f;
  return out;
}

Tensor bytes(std::int64_t n) {
  Tensor out = Tensor::empty({n}, DType::kI8);
  for (std::int64_t i = 0; i < n; ++i)
    out.mutable_data<std::int8_t>()[i] = static_cast<std::int8_t>(i * 37 % 101 - 50);
  return out;
}

std::vector<std::int64_t> shuffled(std::int64_t count) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  quire::Rng rng(5);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

struct Case {
  explicit Case(const std::string& line) {
    std::istringstream words(line);
    std::string dtype, layout, pages;
    std::int64_t B = 0, H = 0, G = 0, K = 0, U = 0, T = 0, S = 0;
    words >> dtype >> layout >> pages >> B >> H >> G >> K >> U >> T >> S;
    const std::int64_t Z = std::stoll(pages);
    const std::int64_t slots = Z == 0 ? (S + 15) / 16 * 16 : Z, W = (S + slots - 1) / slots;
    kv.dtype = dtype_of(dtype);
    q = normal({B * T, H, K}, 1);
    if (kv.dtype == DType::kBF16 || kv.dtype == DType::kF16) q = q.to(kv.dtype);
    k = normal({B * W * slots * G * K}, 2);
    v = normal({B * W * slots * G * U}, 3);
    if (kv.dtype == DType::kI8) {
      k = bytes(k.elements());
      v = bytes(v.elements());
      scale = Tensor::empty({B * W * slots * G}, DType::kF32);
      std::fill_n(scale.mutable_data<float>(), scale.elements(), 0.01f);
      kv.k_scale_PZG = kv.v_scale_PZG = scale.data<float>();
    } else {
      k = k.to(kv.dtype);
      v = v.to(kv.dtype);
    }
    kv.k_pages = k.data<void>();
    kv.v_pages = v.data<void>();
    kv.k_strides = {slots * G * K, K, slots * K};
    kv.v_strides = {slots * G * U, U, slots * U};
    kv.k_layout = layout == "blocks" ? quire::KLayout::kBlocks : quire::KLayout::kRows;
    kv.P = B * W;
    kv.Z = slots;
    kv.G = G;
    kv.K = K;
    kv.U = U;
    kv.W = W;
    if (Z != 0) {
      table.resize(static_cast<std::size_t>(B * W));
      std::iota(table.begin(), table.end(), 0);
      // No order is that of a pool that has been used for a while.
      if (pages.back() != '+') {
        const std::vector<std::int64_t> order = shuffled(B * W);
        std::copy(order.begin(), order.end(), table.begin());
      }
      kv.table = table.data();
    }
    lengths.assign(static_cast<std::size_t>(B), S);
    kv.length_BG = lengths.data();
    std::vector<std::int32_t> start;
    for (std::int64_t b = 0; b <= B; ++b) start.push_back(static_cast<std::int32_t>(b * T));
    start_J = Tensor::of(std::span<const std::int32_t>(start), {B + 1});
    spec.alignment = quire::Alignment::kBottomRight;
  }

  Tensor q, k, v, scale, start_J;
  std::vector<std::int32_t> table;
  std::vector<std::int64_t> lengths;
  quire::KvView kv;
  quire::AttentionSpec spec;
};

/// Reads `memory` piece by piece in that order, and asks for pieces ahead as attention does.
double read_seconds(const Tensor& memory, std::int64_t piece,
                    const std::vector<std::int64_t>& order) {
  constexpr std::int64_t kLine = 64, kAhead = 8;
  const auto* bytes = static_cast<const char*>(memory.data<void>());
  const auto pieces = static_cast<std::int64_t>(order.size());
  const std::int64_t parts = quire::thread_pool().threads();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(parts));
  const auto at = [&](std::int64_t i) {
    return bytes + order[static_cast<std::size_t>(i)] * piece;
  };
  const auto start = std::chrono::steady_clock::now();
  quire::thread_pool().run(parts, [&](std::int64_t part) {
    std::int64_t sum[8] = {};
    const std::int64_t end = pieces * (part + 1) / parts;
    for (std::int64_t i = pieces * part / parts; i < end; ++i) {
      const char *from = at(i), *next = at(std::min(i + kAhead, end - 1));
      for (std::int64_t line = 0; line < piece; line += kLine) {
        __builtin_prefetch(next + line, 0, 2);
        std::int64_t words[8];
        std::memcpy(words, from + line, sizeof(words));
        for (int w = 0; w < 8; ++w) sum[w] += words[w];
      }
    }
    sums[static_cast<std::size_t>(part)] = std::accumulate(sum, sum + 8, std::int64_t{0});
  });
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  [[maybe_unused]] static volatile std::int64_t sink = 0;  // else nothing need be read
  sink = std::accumulate(sums.begin(), sums.end(), std::int64_t{0});
  return spent.count();
}

/// The median ratio of two readings that follow one another, of memory that no cache holds.
double random_over_ordered(std::int64_t piece, std::int64_t total) {
  const Tensor memory = bytes(total / piece * piece), other = bytes(64 << 20);
  std::vector<std::int64_t> ordered(static_cast<std::size_t>(total / piece)), evict(1 << 20);
  std::iota(ordered.begin(), ordered.end(), 0);
  std::iota(evict.begin(), evict.end(), 0);
  const std::vector<std::int64_t> random = shuffled(total / piece);
  std::vector<double> ratios;
  for (int i = 0; i < 15; ++i) {
    read_seconds(other, 64, evict);
    const double in_order = read_seconds(memory, piece, ordered);
    read_seconds(other, 64, evict);
    ratios.push_back(read_seconds(memory, piece, random) / in_order);
  }
  std::nth_element(ratios.begin(), ratios.begin() + 7, ratios.end());
  return ratios[7];
}

}  // namespace

int main(int argc, char** argv) {
  quire::set_threads(argc > 1 ? std::stoi(argv[1]) : 2);
  std::string line, last;
  std::unique_ptr<Case> attention_case;
  while (std::getline(std::cin, line)) {
    if (line == "ceilings") {
      const quire::Ceilings ceilings = quire::measure_ceilings(quire::Effort::kFull);
      std::printf("%.1f GB/s read, %.0f GFLOP/s\n", ceilings.stream_gb_s, ceilings.fma_gflop_s);
      std::fflush(stdout);
      continue;
    }
    if (std::int64_t piece = 0, total = 0;
        std::sscanf(line.c_str(), "pieces %ld %ld", &piece, &total) == 2) {
      std::printf("%.3f\n", random_over_ordered(piece, total));
      std::fflush(stdout);
      continue;
    }
    if (line != last) attention_case = std::make_unique<Case>(line);
    last = line;
    const auto start = std::chrono::steady_clock::now();
    const quire::AttentionResult result = quire::attention(
        attention_case->q, attention_case->start_J, attention_case->kv, attention_case->spec);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%.9f\n", seconds);
    std::fflush(stdout);
  }
}

// Times of grouping and merging keys, one run at a time, so that a peer can be timed in between
// (torch_merge.py does): reads lines "CASE" and answers each with seconds and the most bytes held
// above what was held before.
//
//   merge   keys into the M nearest anchors, weights by cosine, values too
//   keys    the same for keys alone, as the notebook does
//   group   the assignment alone
//   match   odd keys to their most similar even neighbour, and the mean
//
//   merge_bench [keys=32768] [anchors=1024] [heads=8] [K=128]

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/match_neighbours.h"
#include "quire/ops/merge/nearest_anchor.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"
#include "tests/support/allocation_counter.h"

namespace {

using quire::Tensor;

Tensor numbers(quire::Shape shape, std::uint64_t seed) {
  quire::Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), quire::DType::kF32);
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = static_cast<float>(rng.uniform());
  return out;
}

void run(const std::string& name, const Tensor& k, const Tensor& v, const Tensor& anchors) {
  // Keys alone: a view has values, here one number of each.
  const quire::SequenceView view(k, name == "keys" ? k.slice(2, 0, 1) : v);
  const quire::KvView kv = view.kv();
  if (name == "match") {
    const quire::Matching found = quire::match_neighbours(kv, 0, quire::MatchSpec{});
    quire::group_mean(kv, 0, found.group_GS, found.groups);
    return;
  }
  const quire::NearestAnchor found = quire::nearest_anchor(kv, 0, anchors);
  if (name == "group") return;
  quire::GroupMeanSpec spec;
  spec.weights = quire::GroupWeights::kCosine;
  quire::KeyNumbers numbers_of_keys;
  numbers_of_keys.cosine_GS = found.cosine_GS;
  quire::group_mean(kv, 0, found.group_GS, anchors.size(1), numbers_of_keys, spec);
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, std::int64_t other) {
    return argc > i ? std::strtoll(argv[i], nullptr, 10) : other;
  };
  const std::int64_t S = argument(1, 32768), M = argument(2, 1024), G = argument(3, 8),
                     K = argument(4, 128);
  const Tensor k = numbers({G, S, K}, 1), v = numbers({G, S, K}, 2),
               anchors = numbers({G, M, K}, 3);
  for (std::string name; std::getline(std::cin, name);) {
    quire::release_cached_bytes();
    const auto begin = std::chrono::steady_clock::now();
    quire::reset_peak_allocated_bytes();
    const std::int64_t before = quire::allocated_bytes();
    std::int64_t bytes = quire::test::peak_bytes([&] { run(name, k, v, anchors); });
    bytes += quire::peak_allocated_bytes() - before;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%.6f %lld\n", seconds.count(), static_cast<long long>(bytes));
    std::fflush(stdout);
  }
  return 0;
}

// Times of building and asking an index of keys.
//
//   search_bench [rounds=3]
//
// Clustering of a small model's reading (30 layers, 3 heads of 64, 7168 keys) and of one layer with
// 8 heads of 128 and 65536 keys, clustered and unclustered; then one query's estimate, rank and
// selection over the clusters of 262144 such keys.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/sequence_view.h"
#include "quire/ops/search/cluster_keys.h"
#include "quire/ops/search/cluster_mass.h"
#include "quire/ops/search/select_clusters.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace {

using quire::Tensor;

/// Keys around centres; `spread` 0 puts them anywhere.
Tensor keys(std::int64_t G, std::int64_t S, std::int64_t K, double spread) {
  quire::Rng rng(5);
  const std::int64_t topics = S / 64 + 1;
  Tensor centre = Tensor::empty({topics, K}, quire::DType::kF32),
         out = Tensor::empty({G, S, K}, quire::DType::kF32);
  for (std::int64_t i = 0; i < topics * K; ++i) centre.mutable_data<float>()[i] = rng.normal();
  float* to = out.mutable_data<float>();
  for (std::int64_t row = 0; row < G * S; ++row) {
    const auto topic = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(topics)));
    for (std::int64_t k = 0; k < K; ++k)
      to[row * K + k] = spread == 0 ? rng.normal()
                                    : centre.data<float>()[topic * K + k] +
                                          static_cast<float>(spread) * rng.normal();
  }
  return out;
}

template <class Call>
double best_of(int rounds, const Call& call) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
  }
  return best;
}

void build(const char* what, const Tensor& k, int layers, int rounds) {
  const quire::SequenceView view(k);
  const double cluster = best_of(rounds, [&] {
    for (int i = 0; i < layers; ++i) quire::cluster_keys(view.kv(), 0, 0, k.size(1));
  });
  const quire::Clusters found = quire::cluster_keys(view.kv(), 0, 0, k.size(1));
  const double means = best_of(rounds, [&] {
    for (int i = 0; i < layers; ++i) quire::group_mean(view.kv(), 0, found.group_GS, found.groups);
  });
  std::printf("%-44s clusters %.3f s, means %.3f s\n", what, cluster, means);
}

void ask(int rounds) {
  const std::int64_t G = 8, M = 16384, K = 128, H = 32;
  const Tensor c = keys(G, M, K, 0), q = keys(1, H, K, 0), bias = Tensor::zeros({G, M}, c.dtype()),
               hot = Tensor::zeros({1, H}, c.dtype());
  Tensor size = Tensor::zeros({G, M}, quire::DType::kI64);
  std::fill_n(size.mutable_data<std::int64_t>(), G * M, 16);
  const quire::SequenceView view(c);
  Tensor mass, rank;
  const double estimate =
      best_of(rounds * 5, [&] { mass = quire::cluster_mass(q, view.kv(), 0, 0); });
  const double vote = best_of(rounds * 5, [&] { rank = quire::cluster_rank(mass, bias, hot); });
  const double choice = best_of(rounds * 5, [&] {
    quire::select_clusters(rank.view({G, M}), size, 4096);
  });
  std::printf(
      "one query, %lld clusters, 32/8 heads of 128, f32 rows: estimate %.2f ms, rank %.2f "
      "ms, selection %.2f ms\n",
      static_cast<long long>(M), 1e3 * estimate, 1e3 * vote, 1e3 * choice);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 3;
  build("30 layers, 3 heads of 64, 7168 keys", keys(3, 7168, 64, 0.5), 30, rounds);
  build("1 layer, 8 heads of 128, 65536 keys", keys(8, 65536, 128, 0.5), 1, rounds);
  build("the same, unclustered keys", keys(8, 65536, 128, 0), 1, rounds);
  ask(rounds);
  return 0;
}

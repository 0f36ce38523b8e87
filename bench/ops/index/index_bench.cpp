// Times of gather, index_select and scatter_reduce beside the rate at which this machine reads
// random rows. Prints one line per case: op, floats a row, index, GB/s, share of that rate.
//
//   index_bench [rows=1048576] [places=65536] [rounds=9]

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/gather_kernel.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace {

using quire::DType;
using quire::Tensor;

double median_seconds(int rounds, const std::function<void()>& body) {
  std::vector<double> seconds;
  body();
  for (int r = 0; r < rounds; ++r) {
    const auto start = std::chrono::steady_clock::now();
    body();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Uniform, or skewed so that half of all rows go to about one place in a thousand.
Tensor index_of(std::int64_t N, std::int64_t M, bool skewed) {
  quire::Rng rng(7);
  Tensor out = Tensor::empty({N}, DType::kI64);
  std::int64_t* index = out.mutable_data<std::int64_t>();
  for (std::int64_t n = 0; n < N; ++n) {
    const double u = skewed ? std::pow(rng.uniform(), 10) : rng.uniform();
    index[n] = std::min(M - 1, static_cast<std::int64_t>(u * static_cast<double>(M)));
  }
  return out;
}

Tensor values_of(quire::Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    x[i] = 0.5f + static_cast<float>(i * 2654435761u % 1024) / 1024.0f;
  return out;
}

// GB/s of reading rows of D floats at random places, all threads, eight rows fetched ahead.
double random_row_rate(const Tensor& rows, const Tensor& index, int rounds) {
  const std::int64_t N = index.elements(), D = rows.size(1);
  const float* data = rows.data<float>();
  const std::int64_t* at = index.data<std::int64_t>();
  std::vector<float> sums(64);
  const double seconds = median_seconds(rounds, [&] {
    quire::thread_pool().run(64, [&](std::int64_t p) {
      float sum[16] = {};
      for (std::int64_t n = N * p / 64; n < N * (p + 1) / 64; ++n) {
        if (n + 8 < N) {
          for (std::int64_t d = 0; d < D; d += 16) __builtin_prefetch(data + at[n + 8] * D + d);
        }
        const float* row = data + at[n] * D;
        for (std::int64_t d = 0; d < D; ++d) sum[d % 16] += row[d];
      }
      sums[static_cast<std::size_t>(p)] = sum[0] + sum[7];
    });
  });
  return static_cast<double>(N * D * 4) / seconds / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t N = argc > 1 ? std::atoll(argv[1]) : 1 << 20;
  const std::int64_t M = argc > 2 ? std::atoll(argv[2]) : 1 << 16;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 9;
  for (const std::int64_t D : {1, 64, 128}) {
    const Tensor src = values_of({N, D}), self = values_of({M, D});
    const Tensor order = index_of(N, N, false);
    const double rate = random_row_rate(src, order, rounds);
    std::printf("random rows, D %ld: %.1f GB/s\n", static_cast<long>(D), rate);
    for (const bool skewed : {false, true}) {
      const Tensor flat = index_of(N, M, skewed);
      const Tensor index = flat.view({N, 1}).expand({N, D});
      const auto print = [&](const std::string& name, double bytes, double seconds) {
        const double gb_s = bytes / seconds / 1e9;
        std::printf("%-22s D %3ld %-7s %7.2f ms %6.1f GB/s %5.0f%%\n", name.c_str(),
                    static_cast<long>(D), skewed ? "skewed" : "uniform", seconds * 1e3, gb_s,
                    100 * gb_s / rate);
      };
      const double index_bytes = static_cast<double>(N * 8);
      const double gather_bytes = static_cast<double>(2 * N * D * 4) + index_bytes;
      const double scatter_bytes =
          static_cast<double>(N * D * 4) + index_bytes + static_cast<double>(2 * M * D * 4);
      print("gather", gather_bytes, median_seconds(rounds, [&] { quire::gather(self, 0, index); }));
      Tensor out = Tensor::empty({N, D}, DType::kF32);
      print("gather_out", gather_bytes,
            median_seconds(rounds, [&] { quire::gather_out(out, self, 0, index); }));
      print("index_select", gather_bytes,
            median_seconds(rounds, [&] { quire::index_select(self, 0, flat); }));
      const std::pair<const char*, quire::Reduce> reduces[] = {
          {"scatter_reduce sum", quire::Reduce::kSum},
          {"scatter_reduce mean", quire::Reduce::kMean},
          {"scatter_reduce amax", quire::Reduce::kAmax},
          {"scatter_reduce prod", quire::Reduce::kProd}};
      for (const auto& [name, reduce] : reduces) {
        print(name, scatter_bytes, median_seconds(rounds, [&, r = reduce] {
                quire::scatter_reduce(self, 0, index, src, r);
              }));
      }
    }
  }
}

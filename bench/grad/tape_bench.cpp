// What the tape costs: the same product of Tensors, of Vars that need no gradient, and of Vars that
// do, interleaved. One line per size: nanoseconds each, and constant Vars relative to Tensors.
//
//   bench_grad [rounds=31]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "quire/grad/math.h"

namespace {

using quire::DType;
using quire::Tensor;
using quire::grad::Needs;
using quire::grad::Var;

template <class Body>
double nanoseconds(int calls, const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) body();
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  return taken.count() / calls;
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = std::max(1, argc > 1 ? std::atoi(argv[1]) : 31);
  for (const std::int64_t size : {1, 1 << 10, 1 << 20}) {
    const Tensor a = quire::full({size}, 1.5, DType::kF32), b = quire::full({size}, 2, DType::kF32);
    const Var constant_a(a), constant_b(b), leaf(a, Needs::kGradient);
    const int calls = size > 100000 ? 5 : 2000;
    std::vector<double> plain, constant, recorded;
    for (int round = 0; round <= rounds; ++round) {
      plain.push_back(nanoseconds(calls, [&] { (void)quire::mul(a, b); }));
      constant.push_back(nanoseconds(calls, [&] { (void)mul(constant_a, constant_b); }));
      recorded.push_back(nanoseconds(calls, [&] { (void)mul(leaf, constant_b); }));
    }
    std::printf("mul of %7ld: Tensor %.0f ns, constant Var %.0f ns (%.2f), recorded Var %.0f ns\n",
                static_cast<long>(size), median(plain), median(constant),
                median(constant) / median(plain), median(recorded));
  }
}

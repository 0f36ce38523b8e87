#include "quire/ops/matmul/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "tests/ops/matmul/weight_case.h"
#include "tests/reference/matmul.h"

namespace quire::test {
namespace {

using testing::ThrowsMessage;

constexpr MatmulMode kModes[] = {MatmulMode::kExact, MatmulMode::kFast, MatmulMode::kFastTwoTerm};

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous_copy(), y = b.contiguous_copy();
  return x.shape() == y.shape() &&
         (x.bytes() == 0 ||
          std::memcmp(x.data<void>(), y.data<void>(), static_cast<std::size_t>(x.bytes())) == 0);
}

std::string describe(const WeightCase& w, MatmulMode mode, std::int64_t N) {
  return concat(to_string(w.type), " ", w.M, " × ", w.D, ", mode ", static_cast<int>(mode), ", N ",
                N);
}

double largest_difference(const float* ours, const std::vector<double>& truth) {
  double out = 0;
  for (std::size_t i = 0; i < truth.size(); ++i)
    out = std::max(out, std::abs(double{ours[i]} - truth[i]));
  return out;
}

template <class T>
double largest(const std::vector<T>& values) {
  double out = 0;
  for (const T x : values) out = std::max(out, std::abs(static_cast<double>(x)));
  return out;
}

/// At most twice the error of the naive loop in f32, plus one rounding of the largest term.
void expect_near(const Tensor& out, const std::vector<double>& truth,
                 const std::vector<float>& naive, double term, const std::string& what) {
  ASSERT_EQ(out.elements(), static_cast<std::int64_t>(truth.size())) << what;
  const double ours = largest_difference(out.data<float>(), truth);
  const double yardstick = largest_difference(naive.data(), truth);
  EXPECT_LE(ours, 2 * yardstick + 0x1p-23 * term) << what << ", naive " << yardstick;
}

TEST(Matmul, HandWorked) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  std::vector<std::byte> file(24);
  std::memcpy(file.data(), values.data(), 24);
  const Tensor out = matmul(of({1, 0, -1, 2, 1, 0}, {2, 3}), pack(WeightType::kF32, 2, 3, file),
                            MatmulMode::kExact);
  const float expected[] = {-2, -2, 4, 13};
  EXPECT_EQ(std::memcmp(out.data<float>(), expected, 16), 0);
}

TEST(Matmul, ExactModeIsNoWorseThanTwiceTheNaiveLoop) {
  for (const WeightType type : kTypes) {
    for (const std::int64_t D : {32, 64, 96, 576, 1536}) {
      for (const std::int64_t M : {1, 16, 50, 67}) {
        const WeightCase w(type, M, D);
        constexpr std::int64_t N = 9;
        const std::vector<float> x = normals(N * D, 5);
        const auto truth = ref::matmul<double>(x, w.values, N, static_cast<std::size_t>(M),
                                               static_cast<std::size_t>(D));
        const auto naive = ref::matmul<float>(x, w.values, N, static_cast<std::size_t>(M),
                                              static_cast<std::size_t>(D));
        expect_near(matmul(of(x, {N, D}), w.weight, MatmulMode::kExact), truth, naive,
                    largest(x) * largest(w.values), describe(w, MatmulMode::kExact, N));
      }
    }
  }
}

TEST(Matmul, FloatWeightsTakeAnyWidth) {
  for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
    for (const std::int64_t D : {0, 1, 7, 33}) {
      const WeightCase w(type, 18, D);
      const std::vector<float> x = normals(3 * D, 5);
      const Tensor out = matmul(of(x, {3, D}), w.weight, MatmulMode::kExact);
      expect_near(out, ref::matmul<double>(x, w.values, 3, 18, static_cast<std::size_t>(D)),
                  ref::matmul<float>(x, w.values, 3, 18, static_cast<std::size_t>(D)),
                  largest(x) * largest(w.values), describe(w, MatmulMode::kExact, 3));
      for (const MatmulMode mode : kModes)
        EXPECT_TRUE(same_bits(matmul(of(x, {3, D}), w.weight, mode), out)) << describe(w, mode, 3);
    }
  }
}

TEST(Matmul, FastModesAreWhatTheirDefinitionSays) {
  const ref::Rest rest = isa() == Isa::kPortable ? ref::Rest::kTwoSteps : ref::Rest::kFused;
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    for (const std::int64_t D : {32, 64, 96, 576, 1536}) {
      for (const std::int64_t M : {1, 16, 35}) {
        const WeightCase w(type, M, D);
        for (const std::int64_t N : {1, 11}) {
          std::vector<float> x = normals(N * D, 5);
          for (std::size_t i = 0; i < 32; ++i) x[i] = 0;  // a group of zeros
          for (const int terms : {1, 2}) {
            const MatmulMode mode = terms == 1 ? MatmulMode::kFast : MatmulMode::kFastTwoTerm;
            const auto n = static_cast<std::size_t>(N), m = static_cast<std::size_t>(M),
                       d = static_cast<std::size_t>(D);
            expect_near(matmul(of(x, {N, D}), w.weight, mode),
                        ref::rounded_matmul<double>(x, w.integers, n, m, d, terms, rest),
                        ref::rounded_matmul<float>(x, w.integers, n, m, d, terms, rest),
                        32 * largest(x) * largest(w.values), describe(w, mode, N));
          }
        }
      }
    }
  }
}

TEST(Matmul, TwoTermsAreMuchCloserThanOne) {
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    const WeightCase w(type, 64, 576);
    const std::vector<float> x = normals(8 * 576, 6);
    const auto truth = ref::matmul<double>(x, w.values, 8, 64, 576);
    const auto error = [&](MatmulMode mode) {
      const Tensor out = matmul(of(x, {8, 576}), w.weight, mode);
      double sum = 0;
      for (std::size_t i = 0; i < truth.size(); ++i)
        sum += std::pow(double{out.data<float>()[i]} - truth[i], 2);
      return std::sqrt(sum / static_cast<double>(truth.size()));
    };
    const double one = error(MatmulMode::kFast), two = error(MatmulMode::kFastTwoTerm);
    EXPECT_GT(one, 0);
    EXPECT_LE(two, one / 50) << to_string(type);
    EXPECT_GT(two, error(MatmulMode::kExact)) << "the modes must not be the same";
  }
}

TEST(Matmul, ARowsBitsDoNotDependOnTheOthers) {
  for (const WeightType type : kTypes) {
    const WeightCase w(type, 83, 192);
    const Tensor x = of(normals(256 * 192, 7), {256, 192});
    for (const MatmulMode mode : kModes) {
      std::vector<Tensor> alone;
      for (std::int64_t n = 0; n < 256; ++n)
        alone.push_back(matmul(x.slice(0, n, n + 1), w.weight, mode));
      for (const std::int64_t N : {2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 256}) {
        const Tensor together = matmul(x.slice(0, 256 - N, 256), w.weight, mode);
        for (std::int64_t n = 0; n < N; ++n)
          ASSERT_TRUE(
              same_bits(together.slice(0, n, n + 1), alone[static_cast<std::size_t>(256 - N + n)]))
              << describe(w, mode, N) << ", row " << n;
      }
    }
  }
}

TEST(Matmul, ThreadsChangeNothing) {
  for (const WeightType type : kTypes) {
    const WeightCase w(type, 500, 576), other(type, 21, 576);
    const Weight* both[] = {&w.weight, &other.weight};
    for (const std::int64_t N : {1, 5, 40}) {
      const Tensor x = of(normals(N * 576, 8), {N, 576});
      for (const MatmulMode mode : kModes) {
        set_threads(1);
        const std::vector<Tensor> one = matmul_each(x, both, mode);
        for (const int threads : {2, 7}) {
          set_threads(threads);
          const std::vector<Tensor> many = matmul_each(x, both, mode);
          EXPECT_TRUE(same_bits(many[0], one[0])) << describe(w, mode, N);
          EXPECT_TRUE(same_bits(many[1], one[1])) << describe(w, mode, N);
        }
      }
    }
  }
  set_threads(2);
}

TEST(Matmul, EachIsTheSameAsOneByOne) {
  const WeightCase a(WeightType::kQ4_1, 50, 96, 1), b(WeightType::kQ8_0, 16, 96, 2),
      c(WeightType::kF16, 7, 96, 3), none(WeightType::kQ4_1, 0, 96), d(WeightType::kF32, 65, 96, 4);
  const Weight* all[] = {&a.weight, &b.weight, &none.weight, &c.weight, &d.weight, &a.weight};
  for (const std::int64_t N : {0, 1, 4, 20}) {
    const Tensor x = of(normals(N * 96, 9), {N, 96});
    for (const MatmulMode mode : kModes) {
      const std::vector<Tensor> out = matmul_each(x, all, mode);
      ASSERT_EQ(out.size(), 6u);
      for (std::size_t i = 0; i < 6; ++i) {
        EXPECT_EQ(out[i].shape(), (Shape{N, all[i]->rows()}));
        EXPECT_TRUE(same_bits(out[i], matmul(x, *all[i], mode))) << i << ", N " << N;
      }
    }
  }
  EXPECT_TRUE(matmul_each(Tensor::zeros({2, 96}, DType::kF32), {}, MatmulMode::kFast).empty());
}

TEST(Matmul, TakesAnyStrides) {
  const WeightCase w(WeightType::kQ4_1, 20, 64);
  const Tensor x_DN = of(normals(64 * 10, 10), {64, 10});
  const Tensor turned = x_DN.transpose(0, 1);
  const Tensor row = of(normals(64, 11), {1, 64});
  for (const MatmulMode mode : kModes) {
    EXPECT_TRUE(same_bits(matmul(turned, w.weight, mode),
                          matmul(turned.contiguous_copy(), w.weight, mode)));
    const Tensor expanded = row.expand({5, 64});
    EXPECT_TRUE(same_bits(matmul(expanded, w.weight, mode),
                          matmul(expanded.contiguous_copy(), w.weight, mode)));
  }
}

TEST(Matmul, WhatIsNotFiniteReachesExactlyItsRow) {
  for (const WeightType type : kTypes) {
    const WeightCase w(type, 35, 64);
    for (const MatmulMode mode : kModes) {
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        for (const std::int64_t N : {1, 9, 20}) {
          const std::vector<float> good = normals(N * 64, 12);
          std::vector<float> x = good;
          const std::int64_t row = N / 2;
          x[static_cast<std::size_t>(row * 64 + 37)] = bad;
          const Tensor clean = matmul(of(good, {N, 64}), w.weight, mode);
          const Tensor out = matmul(of(x, {N, 64}), w.weight, mode);
          for (std::int64_t n = 0; n < N; ++n) {
            if (n != row) {
              EXPECT_TRUE(same_bits(out.slice(0, n, n + 1), clean.slice(0, n, n + 1)))
                  << describe(w, mode, N);
              continue;
            }
            for (std::int64_t m = 0; m < 35; ++m)
              EXPECT_FALSE(std::isfinite(out.data<float>()[n * 35 + m]))
                  << describe(w, mode, N) << ", " << bad;
          }
        }
      }
    }
  }
}

TEST(Matmul, TinyInputsNeitherOverflowNorDisturbTheirRow) {
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    const WeightCase w(type, 20, 64);
    for (const float tiny : {1e-30f, 3e-37f, 1e-37f, 1e-38f, 1e-41f, 1e-45f}) {
      for (const MatmulMode mode : {MatmulMode::kFast, MatmulMode::kFastTwoTerm}) {
        std::vector<float> x = normals(64, 13);
        for (std::size_t i = 0; i < 32; ++i) x[i] = i % 3 == 0 ? 0.0f : i % 3 == 1 ? tiny : -tiny;
        std::vector<float> without = x;
        for (std::size_t i = 0; i < 32; ++i) without[i] = 0;
        // Beside numbers of ordinary size they cannot be seen at all.
        EXPECT_TRUE(same_bits(matmul(of(x, {1, 64}), w.weight, mode),
                              matmul(of(without, {1, 64}), w.weight, mode)))
            << tiny << ", " << describe(w, mode, 1);
        for (std::size_t i = 32; i < 64; ++i) x[i] = 0;
        const Tensor out = matmul(of(x, {1, 64}), w.weight, mode);
        const auto truth = ref::matmul<double>(x, w.values, 1, 20, 64);
        for (std::size_t m = 0; m < 20; ++m)
          EXPECT_NEAR(out.data<float>()[m], truth[m],
                      tiny < 1e-36f ? 32 * double{tiny} * largest(w.values) : 1e-6 * double{tiny})
              << tiny << ", " << describe(w, mode, 1);
      }
    }
  }
}

TEST(Matmul, TheLargestIntegersAreExact) {
  // All weights −128 (or 15) and all inputs ± the largest: the integer sums at their extremes.
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    std::vector<std::byte> file;
    const std::int64_t bytes = info(type).block_bytes;
    const Half one = to_half(1.0f);
    for (std::int64_t m = 0; m < 16; ++m) {
      std::vector<std::byte> block(static_cast<std::size_t>(bytes),
                                   type == WeightType::kQ4_1 ? std::byte{0xff} : std::byte{0x80});
      std::memcpy(block.data(), &one, 2);
      if (type == WeightType::kQ4_1) std::memset(block.data() + 2, 0, 2);
      file.insert(file.end(), block.begin(), block.end());
    }
    const Weight weight = pack(type, 16, 32, file);
    const float value = type == WeightType::kQ4_1 ? 15 : -128;
    for (const float x : {127.0f, -127.0f}) {
      for (const MatmulMode mode : kModes) {
        const Tensor out = matmul(of(std::vector<float>(32, x), {1, 32}), weight, mode);
        for (int m = 0; m < 16; ++m) EXPECT_EQ(out.data<float>()[m], 32 * x * value);
      }
    }
  }
}

TEST(Matmul, Empty) {
  const WeightCase w(WeightType::kQ4_1, 20, 64), flat(WeightType::kQ8_0, 3, 0);
  for (const MatmulMode mode : kModes) {
    EXPECT_EQ(matmul(Tensor::empty({0, 64}, DType::kF32), w.weight, mode).shape(), (Shape{0, 20}));
    const Tensor zeros = matmul(Tensor::empty({2, 0}, DType::kF32), flat.weight, mode);
    ASSERT_EQ(zeros.shape(), (Shape{2, 3}));
    for (int i = 0; i < 6; ++i) EXPECT_EQ(zeros.data<float>()[i], 0.0f);
  }
}

TEST(Matmul, Errors) {
  const WeightCase w(WeightType::kF32, 2, 3), other(WeightType::kF32, 2, 4);
  EXPECT_THAT(
      [&] {
        (void)matmul(Tensor::zeros({1, 4}, DType::kF32), w.weight, MatmulMode::kExact);
      },
      ThrowsMessage<ArgumentError>("x_ND: D is 4, but the weight has D = 3"));
  EXPECT_THAT([&] { (void)matmul(Tensor::zeros({3}, DType::kF32), w.weight, MatmulMode::kExact); },
              ThrowsMessage<ArgumentError>("x_ND: rank is 1, expected 2"));
  EXPECT_THAT(
      [&] {
        (void)matmul(Tensor::zeros({1, 3}, DType::kF16), w.weight, MatmulMode::kExact);
      },
      ThrowsMessage<ArgumentError>("x_ND is f16; matmul takes f32"));
  const Weight* both[] = {&w.weight, &other.weight};
  EXPECT_THAT(
      [&] {
        (void)matmul_each(Tensor::zeros({0, 3}, DType::kF32), both, MatmulMode::kExact);
      },
      ThrowsMessage<ArgumentError>("x_ND: D is 3, but the weight has D = 4"));
}

}  // namespace
}  // namespace quire::test

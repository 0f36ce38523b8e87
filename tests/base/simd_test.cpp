#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "quire/base/half.h"
#include "tests/base/simd_probe.h"

// Every test runs on the instruction set of this run: the best by default, and once more with
// QUIRE_ISA=portable. (quire/base/simd.h itself is included by simd_probe_simd.cpp, which is
// compiled for each.)

namespace quire::kernel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Lanes {
  float v[16];
};

Lanes run(Probe operation, const Lanes& a, const Lanes& b = {}, const Lanes& c = {}) {
  Lanes out;
  QUIRE_FOR_ISA(probe)(operation, a.v, b.v, c.v, out.v);
  return out;
}

Lanes all(float x) {
  Lanes out;
  std::fill_n(out.v, 16, x);
  return out;
}

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

const std::vector<float> kSpecial = {0.0f,  -0.0f,  1.0f,      -1.0f,   1.5f,      -2.5f,
                                     3e38f, -3e38f, 1e-45f,    -1e-40f, kInfinity, -kInfinity,
                                     kNan,  0.1f,   -7.25e-6f, 65536.5f};

TEST(Simd, TransposeTurnsASquare) {
  float square[256];
  for (int i = 0; i < 256; ++i) square[i] = static_cast<float>(i);
  QUIRE_FOR_ISA(probe_transpose)(square);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) ASSERT_EQ(square[16 * i + j], static_cast<float>(16 * j + i));
}

TEST(Simd, LanewiseArithmeticIsThatOfFloats) {
  Lanes a, b, c;
  for (std::size_t shift = 0; shift < 16; ++shift) {
    for (std::size_t i = 0; i < 16; ++i) {
      a.v[i] = kSpecial[i];
      b.v[i] = kSpecial[(i + shift) % 16];
      c.v[i] = kSpecial[(i * 5 + shift) % 16];
    }
    const auto check = [&](Probe operation, auto f) {
      const Lanes out = run(operation, a, b, c);
      for (int i = 0; i < 16; ++i) {
        const float expected = f(a.v[i], b.v[i], c.v[i]);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(out.v[i])) << static_cast<int>(operation) << " lane " << i;
        } else {
          ASSERT_EQ(bits(out.v[i]), bits(expected)) << static_cast<int>(operation) << " of "
                                                    << a.v[i] << ", " << b.v[i] << ", " << c.v[i];
        }
      }
    };
    check(Probe::kLoadStore, [](float x, float, float) { return x; });
    check(Probe::kAdd, [](float x, float y, float) { return x + y; });
    check(Probe::kSub, [](float x, float y, float) { return x - y; });
    check(Probe::kMul, [](float x, float y, float) { return x * y; });
    check(Probe::kDiv, [](float x, float y, float) { return x / y; });
    check(Probe::kAbs, [](float x, float, float) { return std::abs(x); });
    check(Probe::kSqrt, [](float x, float, float) { return std::sqrt(x); });
    check(Probe::kMax, [](float x, float y, float) { return x > y ? x : y; });
    check(Probe::kMin, [](float x, float y, float) { return x < y ? x : y; });
    check(Probe::kSelectLess, [](float x, float y, float z) { return x < y ? z : x; });
    check(Probe::kNotLess, [](float x, float y, float) { return x < y ? 0.0f : 1.0f; });
    check(Probe::kZero, [](float, float, float) { return 0.0f; });
    check(Probe::kSet1, [&](float, float, float) { return a.v[0]; });
    if (isa() == Isa::kPortable) {
      check(Probe::kFma, [](float x, float y, float z) { return x * y + z; });
      check(Probe::kFmaOne, [](float x, float y, float z) { return x * y + z; });
    } else {
      check(Probe::kFma, [](float x, float y, float z) { return std::fma(x, y, z); });
      check(Probe::kFmaOne, [](float x, float y, float z) { return std::fma(x, y, z); });
    }
  }
}

TEST(Simd, RoundsToNearestWithTiesToEven) {
  for (const float x : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 0.49999997f, 126.5f, 127.49999f,
                        4194303.5f, -4194303.5f, 3.0f, 0.0f})
    EXPECT_EQ(run(Probe::kRound, all(x)).v[3], std::nearbyint(x)) << x;
  EXPECT_TRUE(std::isnan(run(Probe::kRound, all(kNan)).v[0]));
}

TEST(Simd, ScalesByPowers) {
  for (const float n : {-126.0f, -1.0f, 0.0f, 1.0f, 64.0f, 127.0f, 128.0f})
    EXPECT_EQ(run(Probe::kScaleByPower, all(0.875f), all(n)).v[15],
              std::ldexp(0.875f, static_cast<int>(n)))
        << n;
}

TEST(Simd, ExpIsAtMostTwoUlpOff) {
  double worst = 0;
  Lanes x;
  int filled = 0;
  const auto flush = [&] {
    const Lanes y = run(Probe::kExp, x);
    for (int i = 0; i < filled; ++i) {
      const double truth = std::exp(double{x.v[i]});
      const auto below = static_cast<float>(truth);
      const double ulp = std::ldexp(1.0, std::max(std::ilogb(below), -126) - 23);
      worst = std::max(worst, std::abs(double{y.v[i]} - truth) / ulp);
    }
    filled = 0;
  };
  // Every 499th float of both signs up to the ends of the range.
  for (const float end : {88.72283f, -87.33654f}) {
    const std::uint32_t sign = bits(end) & 0x80000000u, last = bits(end) & 0x7fffffffu;
    for (std::uint32_t magnitude = 0; magnitude <= last; magnitude += 499) {
      x.v[filled++] = std::bit_cast<float>(sign | magnitude);
      if (filled == 16) flush();
    }
    x.v[filled++] = end;
    flush();
  }
  EXPECT_LE(worst, 2.0);
}

TEST(Simd, ExpAtTheEdges) {
  const auto exp = [](float x) { return run(Probe::kExp, all(x)).v[7]; };
  EXPECT_EQ(bits(exp(0.0f)), bits(1.0f));
  EXPECT_EQ(bits(exp(-0.0f)), bits(1.0f));
  EXPECT_EQ(bits(exp(-kInfinity)), bits(0.0f));
  EXPECT_EQ(bits(exp(-87.4f)), bits(0.0f));
  EXPECT_EQ(bits(exp(-3e38f)), bits(0.0f));
  EXPECT_TRUE(std::isnan(exp(kNan)));
  EXPECT_TRUE(std::isnan(exp(-kNan)));
  EXPECT_EQ(exp(kInfinity), exp(88.72283f));
  EXPECT_EQ(exp(1000.0f), exp(88.72283f));
  EXPECT_GT(exp(1000.0f), 3.402e38f);
  EXPECT_TRUE(std::isfinite(exp(1000.0f)));
}

TEST(Simd, WidensEveryStoredNumber) {
  Lanes out;
  for (std::uint32_t first = 0; first < 65536; first += 16) {
    std::uint16_t in[16];
    for (std::uint32_t i = 0; i < 16; ++i) in[i] = static_cast<std::uint16_t>(first + i);
    QUIRE_FOR_ISA(probe_widen)(Widen::kF16, in, out.v);
    for (int i = 0; i < 16; ++i) {
      const float expected = to_float(Half{in[i]});
      ASSERT_TRUE(std::isnan(expected) ? std::isnan(out.v[i]) : bits(out.v[i]) == bits(expected))
          << in[i];
    }
    QUIRE_FOR_ISA(probe_widen)(Widen::kBF16, in, out.v);
    for (int i = 0; i < 16; ++i) ASSERT_EQ(bits(out.v[i]), bits(to_float(BFloat16{in[i]})));
  }
  for (int first = 0; first < 256; first += 16) {
    std::uint8_t in[16];
    for (int i = 0; i < 16; ++i) in[i] = static_cast<std::uint8_t>(first + i);
    QUIRE_FOR_ISA(probe_widen)(Widen::kU8, in, out.v);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out.v[i], static_cast<float>(in[i]));
    QUIRE_FOR_ISA(probe_widen)(Widen::kI8, in, out.v);
    for (int i = 0; i < 16; ++i)
      EXPECT_EQ(out.v[i], static_cast<float>(static_cast<std::int8_t>(in[i])));
  }
}

TEST(Simd, NarrowsAsHalfDoes) {
  Lanes in;
  std::uint16_t halves[16], bfloats[16];
  for (std::uint64_t pattern = 0; pattern < (std::uint64_t{1} << 32); pattern += 16 * 4099) {
    for (std::uint32_t i = 0; i < 16; ++i)
      in.v[i] = std::bit_cast<float>(static_cast<std::uint32_t>(pattern + i * 4099));
    // Ties: numbers whose lower bits are just half a step.
    in.v[3] = std::bit_cast<float>((bits(in.v[3]) & 0xffff0000u) | 0x8000u);
    in.v[4] = std::bit_cast<float>((bits(in.v[4]) & 0xffffe000u) | 0x1000u);
    QUIRE_FOR_ISA(probe_narrow)(Narrow::kF16, in.v, halves);
    QUIRE_FOR_ISA(probe_narrow)(Narrow::kBF16, in.v, bfloats);
    for (int i = 0; i < 16; ++i) {
      ASSERT_EQ(halves[i], to_half(in.v[i]).bits) << bits(in.v[i]);
      ASSERT_EQ(bfloats[i], to_bfloat16(in.v[i]).bits) << bits(in.v[i]);
    }
  }
}

TEST(Simd, NarrowsWholeNumbersToBytes) {
  for (int first = -128; first < 128; first += 16) {
    Lanes in;
    for (int i = 0; i < 16; ++i) in.v[i] = static_cast<float>(first + i);
    std::int8_t out[16];
    QUIRE_FOR_ISA(probe_narrow)(Narrow::kI8, in.v, out);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], first + i);
  }
}

TEST(Simd, KeepsLanes) {
  Lanes x, other, out;
  for (int i = 0; i < 16; ++i) {
    x.v[i] = static_cast<float>(i);
    other.v[i] = static_cast<float>(-100 - i);
  }
  for (int begin = 0; begin <= 16; ++begin) {
    for (int end = begin; end <= 16; ++end) {
      QUIRE_FOR_ISA(probe_keep_lanes)(x.v, begin, end, other.v, out.v);
      for (int i = 0; i < 16; ++i)
        ASSERT_EQ(out.v[i], i >= begin && i < end ? x.v[i] : other.v[i]) << begin << " " << end;
    }
  }
}

TEST(Simd, LoadsAndStoresOnlyTheFirst) {
  for (int n = 0; n <= 16; ++n) {
    // Exactly n floats on each side: a sanitizer sees one more.
    const std::unique_ptr<float[]> in(new float[static_cast<std::size_t>(n)]),
        out(new float[static_cast<std::size_t>(n)]);
    for (int i = 0; i < n; ++i) in[static_cast<std::size_t>(i)] = static_cast<float>(i + 1);
    Lanes loaded;
    QUIRE_FOR_ISA(probe_first)(in.get(), n, loaded.v, out.get());
    for (int i = 0; i < 16; ++i) EXPECT_EQ(loaded.v[i], i < n ? static_cast<float>(i + 1) : 0.0f);
    for (int i = 0; i < n; ++i)
      EXPECT_EQ(out[static_cast<std::size_t>(i)], static_cast<float>(i + 1));
  }
}

TEST(Simd, SeesEveryLaneThatIsNotFinite) {
  EXPECT_TRUE(QUIRE_FOR_ISA(probe_all_finite)(all(std::numeric_limits<float>::max()).v));
  EXPECT_TRUE(QUIRE_FOR_ISA(probe_all_finite)(all(-1e-45f).v));
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity, std::bit_cast<float>(0x7f800001u)}) {
    for (int i = 0; i < 16; ++i) {
      Lanes x = all(1);
      x.v[i] = bad;
      EXPECT_FALSE(QUIRE_FOR_ISA(probe_all_finite)(x.v)) << bad << " in lane " << i;
    }
  }
}

TEST(Simd, Reduces) {
  Lanes x;
  for (int i = 0; i < 16; ++i) x.v[i] = static_cast<float>(1 << i);
  EXPECT_EQ(QUIRE_FOR_ISA(probe_reduce_add)(x.v), 65535.0f);
  for (int i = 0; i < 16; ++i) {
    Lanes y = all(-5);
    y.v[i] = -2;
    EXPECT_EQ(QUIRE_FOR_ISA(probe_reduce_max)(y.v), -2.0f);
  }
  EXPECT_EQ(QUIRE_FOR_ISA(probe_reduce_max)(all(-kInfinity).v), -kInfinity);
}

TEST(Simd, TheIntegerDotProductDoesNotSaturate) {
  std::uint8_t a[64];
  std::int8_t b[64];
  float out[16];
  const int signed_bytes[] = {127, -128, -1, 0, 1}, unsigned_bytes[] = {255, 128, 15, 0, 1};
  for (const int x : unsigned_bytes) {
    for (const int y : signed_bytes) {
      std::fill_n(a, 64, static_cast<std::uint8_t>(x));
      std::fill_n(b, 64, static_cast<std::int8_t>(y));
      QUIRE_FOR_ISA(probe_dot4)(-7, a, b, out);
      for (const float sum : out)
        ASSERT_EQ(sum, static_cast<float>(4 * x * y - 7)) << x << " " << y;
    }
  }
  for (int i = 0; i < 64; ++i) {
    a[i] = static_cast<std::uint8_t>(37 * i);
    b[i] = static_cast<std::int8_t>(91 * i - 128);
  }
  QUIRE_FOR_ISA(probe_dot4)(100, a, b, out);
  for (int i = 0; i < 16; ++i) {
    int sum = 100;
    for (int j = 4 * i; j < 4 * i + 4; ++j) sum += int{a[j]} * int{b[j]};
    EXPECT_EQ(out[i], static_cast<float>(sum));
  }
}

TEST(Simd, Bytes) {
  std::uint8_t in[64], low[64], high[64], repeated[64];
  for (int first = 0; first < 256; first += 64) {
    for (int i = 0; i < 64; ++i) in[i] = static_cast<std::uint8_t>(first + i);
    QUIRE_FOR_ISA(probe_nibbles)(in, low, high);
    QUIRE_FOR_ISA(probe_repeat4)(in, repeated);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(low[i], in[i] % 16);
      EXPECT_EQ(high[i], in[i] / 16);
      EXPECT_EQ(repeated[i], in[i % 4]);
    }
  }
}

TEST(Simd, PairsAreNeighboursOrHalves) {
  std::uint16_t a[32], b[32], out[32];
  for (std::uint16_t i = 0; i < 32; ++i) {
    a[i] = static_cast<std::uint16_t>(0x8001 + 257 * i);
    b[i] = static_cast<std::uint16_t>(0x4002 + 513 * i);
  }
  const auto pair = [&](Pairing operation, auto low, auto high) {
    QUIRE_FOR_ISA(probe_pairs)(operation, a, b, out);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(out[2 * i], low(i)) << static_cast<int>(operation) << ", pair " << i;
      EXPECT_EQ(out[2 * i + 1], high(i)) << static_cast<int>(operation) << ", pair " << i;
    }
  };
  const auto nothing = [](int) { return 0; };
  const auto even = [&](int i) { return a[2 * i]; };
  const auto odd = [&](int i) { return a[2 * i + 1]; };
  pair(Pairing::kLoadStore, even, odd);
  pair(Pairing::kLow, even, nothing);
  pair(Pairing::kHigh, nothing, odd);
  pair(
      Pairing::kRepeat, [&](int) { return a[0]; }, [&](int) { return a[1]; });
  pair(
      Pairing::kUp, [&](int i) { return a[i]; }, [&](int i) { return b[i]; });
  pair(
      Pairing::kUp32First, [&](int i) { return a[i]; }, [&](int i) { return b[i]; });
  pair(
      Pairing::kUp32Second, [&](int i) { return a[16 + i]; }, [&](int i) { return b[16 + i]; });
  pair(
      Pairing::kHalves, [&](int i) { return a[i]; }, [&](int i) { return a[16 + i]; });
}

TEST(Simd, PairsWidenToFloats) {
  std::uint16_t in[32];
  float low[16], high[16];
  for (int first = 0; first < 65536; first += 32) {
    for (int i = 0; i < 32; ++i) in[i] = static_cast<std::uint16_t>(first + i);
    QUIRE_FOR_ISA(probe_widen_pairs)(in, low, high);
    for (int i = 0; i < 16; ++i) {
      ASSERT_EQ(bits(low[i]), std::uint32_t{in[2 * i]} << 16);
      ASSERT_EQ(bits(high[i]), std::uint32_t{in[2 * i + 1]} << 16);
    }
  }
}

TEST(Simd, PairsAreRoundedAndMultipliedTheSecondFirst) {
  if (isa() != Isa::kPortable && !has_bf16_dot()) return;  // nothing calls them there
  std::uint32_t state = 1;
  const auto next = [&] {  // around 1, of either sign, all 24 bits in use
    state = state * 1664525u + 1013904223u;
    return (static_cast<float>(state >> 8) * 0x1p-23f - 1.0f) * 3.0f;
  };
  for (int round = 0; round < 500; ++round) {
    float in[3][32], out[16];
    std::uint16_t pairs[2][32];
    for (auto& row : in)
      for (float& x : row) x = next();
    // Ties, and what rounding carries into the exponent.
    for (const int i : {3, 20})
      in[0][i] = std::bit_cast<float>((bits(in[0][i]) & 0xffff0000u) | 0x8000u);
    in[0][7] = 0x1.ffp0f;
    for (int i = 0; i < 2; ++i) QUIRE_FOR_ISA(probe_round_pairs)(in[i], pairs[i]);
    for (int i = 0; i < 32; ++i) {
      ASSERT_EQ(pairs[0][i], to_bfloat16(in[0][i]).bits) << in[0][i];
      ASSERT_EQ(pairs[1][i], to_bfloat16(in[1][i]).bits) << in[1][i];
    }
    QUIRE_FOR_ISA(probe_dot2)(in[2], pairs[0], pairs[1], out);
    const auto wide = [&](int row, int i) {
      return std::bit_cast<float>(std::uint32_t{pairs[row][i]} << 16);
    };
    for (int i = 0; i < 16; ++i) {
      const float second = std::fma(wide(0, 2 * i + 1), wide(1, 2 * i + 1), in[2][i]);
      ASSERT_EQ(bits(out[i]), bits(std::fma(wide(0, 2 * i), wide(1, 2 * i), second)));
    }
  }
}

}  // namespace
}  // namespace quire::kernel

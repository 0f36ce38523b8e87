#include "quire/nn/feed_forward.h"

#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/nn/double_weights.h"
#include "tests/reference/activation.h"

namespace quire::nn {
namespace {

struct Layer {
  Layer(std::int64_t D, std::int64_t F, std::uint64_t seed = 1)
      : rng(seed),
        gate(test::plain_weight(rng, F, D)),
        up(test::plain_weight(rng, F, D)),
        down(test::plain_weight(rng, D, F)),
        size(static_cast<std::size_t>(D)) {}
  FeedForward weights() const { return {gate.weight, up.weight, down.weight}; }
  template <class T>
  std::vector<T> naive(const std::vector<float>& x) const {
    const std::vector<T> wide(x.begin(), x.end());
    const std::vector<T> g = test::product(wide, gate.numbers, size),
                         u = test::product(wide, up.numbers, size);
    std::vector<T> h;
    for (std::size_t i = 0; i < g.size(); ++i) h.push_back(ref::swiglu(g[i], u[i]));
    return test::product(h, down.numbers, down.numbers.size() / size);
  }
  std::vector<float> input(std::int64_t N) {
    std::vector<float> x;
    for (std::int64_t i = 0; i < N * static_cast<std::int64_t>(size); ++i)
      x.push_back(rng.normal());
    return x;
  }

  Rng rng;
  test::PlainWeight gate, up, down;
  std::size_t size;
};

TEST(FeedForward, a_case_by_hand) {
  const auto one = [](float x) {
    return Weight::pack(WeightType::kF32, 1, 1,
                        [x](std::int64_t, std::int64_t, std::span<std::byte> to) {
                          std::memcpy(to.data(), &x, 4);
                        });
  };
  const FeedForward weights{one(2), one(3), one(-4)};
  const float x[] = {0.5f, 0};
  const Tensor out =
      feed_forward(Tensor::of(std::span<const float>(x), {2, 1}), weights, MatmulMode::kExact);
  // gate 1, up 1.5: silu(1) = 0.7310586, times 1.5, times −4.
  EXPECT_NEAR(out.data<float>()[0], -4 * 1.5 * 0.7310585786, 1e-6);
  EXPECT_EQ(out.data<float>()[1], 0);
}

TEST(FeedForward, is_as_exact_as_the_naive_loop_in_f32) {
  struct Sizes {
    std::int64_t N, D, F;
  };
  for (const Sizes& s : {Sizes{1, 1, 1}, {1, 32, 64}, {3, 33, 17}, {31, 16, 96}, {40, 64, 100}}) {
    Layer layer(s.D, s.F);
    const std::vector<float> x = layer.input(s.N);
    const Tensor out = feed_forward(Tensor::of(std::span<const float>(x), {s.N, s.D}),
                                    layer.weights(), MatmulMode::kExact);
    ASSERT_EQ(out.shape(), (Shape{s.N, s.D}));
    const std::vector<double> truth = layer.naive<double>(x);
    double power = 0;
    for (const double y : truth) power += y * y;
    // At most twice the naive loop's error: four times its square. A single number may be exact by
    // chance, so one rounding of the result is always allowed.
    const double yardstick = test::squared_error(layer.naive<float>(x), truth);
    EXPECT_LE(test::squared_error(out.data<float>(), truth), 4 * yardstick + power * 0x1p-46)
        << s.N << " × " << s.D << " × " << s.F;
  }
}

TEST(FeedForward, a_row_has_the_same_bits_in_any_company_and_with_any_threads) {
  Layer layer(64, 160);
  const std::vector<float> x = layer.input(37);
  const Tensor all = Tensor::of(std::span<const float>(x), {37, 64});
  for (const MatmulMode mode : {MatmulMode::kExact, MatmulMode::kFast}) {
    set_threads(1);
    const Tensor expected = feed_forward(all, layer.weights(), mode);
    set_threads(2);
    for (const std::int64_t row : {0, 1, 36}) {
      const Tensor one = feed_forward(all.slice(0, row, row + 1), layer.weights(), mode);
      EXPECT_EQ(std::memcmp(one.data<float>(), expected.data<float>() + row * 64, 256), 0);
    }
    const Tensor again = feed_forward(all, layer.weights(), mode);
    EXPECT_EQ(std::memcmp(again.data<float>(), expected.data<float>(), 37 * 256), 0);
  }
}

TEST(FeedForward, takes_no_rows_and_strided_rows) {
  Layer layer(32, 48);
  EXPECT_EQ(feed_forward(Tensor::empty({0, 32}, DType::kF32), layer.weights(), MatmulMode::kExact)
                .shape(),
            (Shape{0, 32}));
  const std::vector<float> x = layer.input(6);
  const Tensor strided = Tensor::of(std::span<const float>(x), {3, 64}).slice(1, 32, 64);
  const Tensor a = feed_forward(strided, layer.weights(), MatmulMode::kExact),
               b = feed_forward(strided.contiguous_copy(), layer.weights(), MatmulMode::kExact);
  EXPECT_EQ(std::memcmp(a.data<float>(), b.data<float>(), 3 * 128), 0);
}

TEST(FeedForward, passes_its_mode_on) {
  // Q8_0 rows of 32: scale 1/16 and small integers.
  const auto blocks = [](std::int64_t rows, int seed) {
    return Weight::pack(WeightType::kQ8_0, rows, 32,
                        [seed](std::int64_t first, std::int64_t count, std::span<std::byte> to) {
                          for (std::int64_t r = 0; r < count; ++r) {
                            std::byte* row = to.data() + r * 34;
                            const std::uint16_t scale = 0x2c00;
                            std::memcpy(row, &scale, 2);
                            for (int k = 0; k < 32; ++k)
                              row[2 + k] =
                                  static_cast<std::byte>(((first + r) * 7 + k * seed) % 11 - 5);
                          }
                        });
  };
  const FeedForward weights{blocks(32, 3), blocks(32, 5), blocks(32, 7)};
  Layer layer(32, 1);
  const std::vector<float> x = layer.input(8);
  const Tensor in = Tensor::of(std::span<const float>(x), {8, 32});
  const Tensor exact = feed_forward(in, weights, MatmulMode::kExact),
               fast = feed_forward(in, weights, MatmulMode::kFast),
               two = feed_forward(in, weights, MatmulMode::kFastTwoTerm);
  const std::vector<double> truth(exact.data<float>(), exact.data<float>() + 8 * 32);
  const double one_term = test::squared_error(fast.data<float>(), truth),
               two_terms = test::squared_error(two.data<float>(), truth);
  EXPECT_GT(one_term, 0);
  EXPECT_LT(two_terms, one_term / 100);
}

TEST(FeedForward, refuses_sizes_that_do_not_meet) {
  Layer layer(32, 48), wider(32, 64), other(16, 48);
  const Tensor x = Tensor::zeros({2, 32}, DType::kF32);
  EXPECT_THROW(
      feed_forward(Tensor::zeros({2, 31}, DType::kF32), layer.weights(), MatmulMode::kExact),
      ArgumentError);
  EXPECT_THROW(feed_forward(x.to(DType::kF64), layer.weights(), MatmulMode::kExact), ArgumentError);
  const FeedForward uneven{layer.gate.weight, wider.up.weight, layer.down.weight};
  EXPECT_THROW(feed_forward(x, uneven, MatmulMode::kExact), ArgumentError);
  const FeedForward narrow{layer.gate.weight, layer.up.weight, wider.down.weight};
  EXPECT_THROW(feed_forward(x, narrow, MatmulMode::kExact), ArgumentError);
  const FeedForward mixed{layer.gate.weight, other.up.weight, layer.down.weight};
  EXPECT_THROW(feed_forward(x, mixed, MatmulMode::kExact), ArgumentError);
}

}  // namespace
}  // namespace quire::nn

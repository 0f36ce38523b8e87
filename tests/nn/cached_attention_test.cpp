#include "quire/nn/cached_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "tests/nn/double_weights.h"
#include "tests/reference/rope.h"

namespace quire::nn {
namespace {

struct Sizes {
  std::int64_t D = 32, H = 4, G = 2, K = 16, U = 16, R = 16;
};

/// Rows of size `width` that turn by their positions 0, 1, ….
template <class T>
void turn(std::vector<T>& rows, std::size_t heads, std::size_t K, const RopeSpec& spec) {
  const std::vector<double> frequencies = rope_frequencies(spec);
  for (std::size_t n = 0; n * heads * K < rows.size(); ++n) {
    for (std::size_t h = 0; h < heads; ++h) {
      const auto begin = rows.begin() + static_cast<std::ptrdiff_t>((n * heads + h) * K);
      std::vector<T> head(begin, begin + static_cast<std::ptrdiff_t>(K));
      ref::rope(head, frequencies, static_cast<std::int64_t>(n), 1.0,
                spec.pairing == RopePairing::kInterleaved);
      std::copy(head.begin(), head.end(), begin);
    }
  }
}

struct Layer {
  explicit Layer(const Sizes& s, RopePairing pairing = RopePairing::kInterleaved)
      : sizes(s),
        q(test::plain_weight(rng, s.H * s.K, s.D)),
        k(test::plain_weight(rng, s.G * s.K, s.D)),
        v(test::plain_weight(rng, s.G * s.U, s.D)),
        output(test::plain_weight(rng, s.D, s.H * s.U)) {
    spec.pairing = pairing;
    spec.rotary = s.R;
    spec.theta = 1000;
  }
  CachedAttention weights() const { return {q.weight, k.weight, v.weight, output.weight}; }
  cache::ContiguousCache cache(std::int64_t layers = 1, DType kv = DType::kF32) const {
    cache::LayerSpec one{sizes.H, sizes.G, sizes.K, sizes.U, {}};
    one.attention.alignment = Alignment::kBottomRight;
    return {std::vector<cache::LayerSpec>(static_cast<std::size_t>(layers), one), 200, kv};
  }
  std::vector<float> input(std::int64_t N) {
    std::vector<float> x;
    for (std::int64_t i = 0; i < N * sizes.D; ++i) x.push_back(rng.normal());
    return x;
  }
  /// The whole sequence at once, with loops over tokens, heads and keys.
  template <class T>
  std::vector<T> naive(const std::vector<float>& x) const {
    const auto D = static_cast<std::size_t>(sizes.D), H = static_cast<std::size_t>(sizes.H),
               G = static_cast<std::size_t>(sizes.G), K = static_cast<std::size_t>(sizes.K),
               U = static_cast<std::size_t>(sizes.U), N = x.size() / D;
    const std::vector<T> wide(x.begin(), x.end());
    std::vector<T> queries = test::product(wide, q.numbers, D),
                   keys = test::product(wide, k.numbers, D);
    const std::vector<T> values = test::product(wide, v.numbers, D);
    turn(queries, H, K, spec);
    turn(keys, G, K, spec);
    std::vector<T> out(N * H * U, T{0});
    for (std::size_t n = 0; n < N; ++n) {
      for (std::size_t h = 0; h < H; ++h) {
        const std::size_t g = h / (H / G);
        std::vector<T> weight;
        T largest = -INFINITY, sum = 0;
        for (std::size_t s = 0; s <= n; ++s) {
          T score = 0;
          for (std::size_t i = 0; i < K; ++i)
            score += queries[(n * H + h) * K + i] * keys[(s * G + g) * K + i];
          weight.push_back(score / std::sqrt(static_cast<T>(sizes.K)));
          largest = std::max(largest, weight.back());
        }
        for (T& w : weight) sum += w = std::exp(w - largest);
        for (std::size_t s = 0; s <= n; ++s)
          for (std::size_t u = 0; u < U; ++u)
            out[(n * H + h) * U + u] += weight[s] / sum * values[(s * G + g) * U + u];
      }
    }
    return test::product(out, output.numbers, H * U);
  }

  Sizes sizes;
  Rng rng{1};
  test::PlainWeight q, k, v, output;
  RopeSpec spec;
};

/// The layer over x in calls of `step` tokens.
std::vector<float> run(const Layer& layer, const std::vector<float>& x, cache::KvCache& cache,
                       std::int64_t step, MatmulMode mode = MatmulMode::kExact) {
  const RopeTable rope(layer.spec);
  const std::int64_t D = layer.sizes.D, N = static_cast<std::int64_t>(x.size()) / D;
  const Tensor all = Tensor::of(std::span<const float>(x), {N, D});
  std::vector<float> out;
  for (std::int64_t at = 0; at < N; at += step) {
    const std::int64_t end = std::min(at + step, N);
    const Tensor part = cached_attention(all.slice(0, at, end), layer.weights(), rope,
                                         layer.sizes.G, cache, 0, mode);
    EXPECT_EQ(part.shape(), (Shape{end - at, D}));
    out.insert(out.end(), part.data<float>(), part.data<float>() + part.elements());
    cache.advance(end - at);
  }
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

TEST(CachedAttention, is_as_exact_as_the_naive_loop_in_f32) {
  for (const Sizes& s : {Sizes{}, Sizes{33, 6, 3, 20, 12, 8}, Sizes{64, 8, 1, 32, 48, 32},
                         Sizes{16, 2, 2, 64, 64, 64}, Sizes{8, 1, 1, 2, 1, 2}}) {
    for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
      Layer layer(s, pairing);
      const std::vector<float> x = layer.input(90);
      const std::vector<double> truth = layer.naive<double>(x);
      const double yardstick = test::squared_error(layer.naive<float>(x), truth);
      for (const std::int64_t step : {90, 7}) {
        cache::ContiguousCache cache = layer.cache();
        const std::vector<float> out = run(layer, x, cache, step);
        ASSERT_EQ(out.size(), truth.size());
        // At most twice the naive loop's error: four times its square.
        EXPECT_LE(test::squared_error(out, truth), 4 * yardstick) << "D = " << s.D;
      }
    }
  }
}

TEST(CachedAttention, steps_and_threads_do_not_change_a_bit) {
  Layer layer({64, 4, 2, 32, 32, 32});
  const std::vector<float> x = layer.input(130);
  for (const DType kv : {DType::kF32, DType::kF16, DType::kI8}) {
    std::vector<float> expected;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      for (const std::int64_t step : {130, 64, 7, 1}) {
        cache::ContiguousCache cache = layer.cache(1, kv);
        const std::vector<float> out = run(layer, x, cache, step);
        if (expected.empty()) expected = out;
        EXPECT_TRUE(same_bits(out, expected)) << to_string(kv) << ", steps of " << step;
      }
    }
  }
}

TEST(CachedAttention, uses_its_own_layer_of_the_cache) {
  Layer layer({});
  const std::vector<float> x = layer.input(9);
  const Tensor rows = Tensor::of(std::span<const float>(x), {9, 32});
  const RopeTable rope(layer.spec);
  cache::ContiguousCache cache = layer.cache(3);
  const Tensor second =
      cached_attention(rows, layer.weights(), rope, 2, cache, 1, MatmulMode::kExact);
  EXPECT_EQ(*cache.view(0).length_BG, 0);
  EXPECT_EQ(*cache.view(1).length_BG, 9);
  EXPECT_EQ(*cache.view(2).length_BG, 0);
  EXPECT_EQ(cache.length(), 0);  // advance() is the caller's
  const Tensor first =
      cached_attention(rows, layer.weights(), rope, 2, cache, 0, MatmulMode::kExact);
  EXPECT_EQ(std::memcmp(first.data<float>(), second.data<float>(), 9 * 128), 0);
}

TEST(CachedAttention, an_unfinished_step_is_replaced) {
  Layer layer({});
  const std::vector<float> x = layer.input(40);
  cache::ContiguousCache fresh = layer.cache(), used = layer.cache();
  const std::vector<float> expected = run(layer, x, fresh, 10);
  const RopeTable rope(layer.spec);
  const Tensor other = Tensor::zeros({30, 32}, DType::kF32);
  cached_attention(other, layer.weights(), rope, 2, used, 0, MatmulMode::kExact);
  EXPECT_TRUE(same_bits(run(layer, x, used, 10), expected));
}

TEST(CachedAttention, refuses_what_does_not_meet_and_the_cache_stays_at_its_length) {
  Layer layer({});
  const RopeTable rope(layer.spec);
  cache::ContiguousCache cache = layer.cache();
  run(layer, layer.input(5), cache, 5);
  const Tensor x = Tensor::zeros({2, 32}, DType::kF32);
  const auto call = [&](const Tensor& in, const CachedAttention& weights, std::int64_t G,
                        std::int64_t at) {
    (void)cached_attention(in, weights, rope, G, cache, at, MatmulMode::kExact);
  };
  const CachedAttention right = layer.weights();
  for (const std::int64_t G : {0, -1, 3, 64}) EXPECT_THROW(call(x, right, G, 0), ArgumentError);
  EXPECT_THROW(call(x, right, 1, 0), ArgumentError);  // the cache has two kv heads
  for (const std::int64_t at : {-1, 1}) EXPECT_THROW(call(x, right, 2, at), ArgumentError);
  EXPECT_THROW(call(Tensor::zeros({2, 31}, DType::kF32), right, 2, 0), ArgumentError);
  EXPECT_THROW(call(Tensor::zeros({196, 32}, DType::kF32), right, 2, 0), ArgumentError);
  Rng rng(2);
  CachedAttention wrong = right;
  wrong.q = test::plain_weight(rng, 63, 32).weight;
  EXPECT_THROW(call(x, wrong, 2, 0), ArgumentError);
  wrong = right;
  wrong.v = test::plain_weight(rng, 48, 32).weight;
  EXPECT_THROW(call(x, wrong, 2, 0), ArgumentError);
  wrong = right;
  wrong.output = test::plain_weight(rng, 32, 63).weight;
  EXPECT_THROW(call(x, wrong, 2, 0), ArgumentError);
  EXPECT_EQ(cache.length(), 5);
  EXPECT_NO_THROW(call(x, right, 2, 0));
}

}  // namespace
}  // namespace quire::nn

// The notebook's merge of a cache, made of primitives (examples/merge_kv.cpp), against loops.

#include <gtest/gtest.h>

#include <limits>
#include <optional>

#include "quire/grad/index.h"
#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/grad/views.h"
#include "tests/support/tape_check.h"

namespace quire::grad {
namespace {

using test::expect_close;
using test::random_tensor;
using test::tensor_of;
using test::values;

/// A key of length zero has no direction: kTorch divides 0 by 0 as the notebook does, kSafe calls
/// it similar to nothing, so that it joins group 0.
enum class ZeroNorm { kTorch, kSafe };

Var merge(const Var& a, const Var& b, ZeroNorm zero_norm = ZeroNorm::kTorch) {
  const DType dtype = a.dtype();
  const std::int64_t N = a.value().size(-2), M = b.value().size(-2), K = a.value().size(-1);
  Shape heads(a.shape().begin(), a.shape().end() - 2);
  const auto shape = [&](std::initializer_list<std::int64_t> last) {
    Shape out = heads;
    out.insert(out.end(), last);
    return out;
  };
  Var lengths = matmul(norm(a, -1, Axis::kKeep), transpose(norm(b, -1, Axis::kKeep), -2, -1));
  if (zero_norm == ZeroNorm::kSafe) lengths = clamp_min(lengths, 1e-12);
  const MaxVar best = max(div(matmul(a, transpose(b, -2, -1)), lengths), -1);
  const Var lowest(full(shape({M}), -std::numeric_limits<double>::infinity(), dtype));
  const Var peak = scatter_reduce(lowest, -1, best.index, best.values, Reduce::kAmax);
  const Var weight = exp(sub(best.values, gather(peak, -1, best.index)));
  const Var none(Tensor::zeros(shape({M}), dtype)), empty(Tensor::zeros(shape({M, K}), dtype));
  const Var total = scatter_reduce(none, -1, best.index, weight, Reduce::kSum);
  const Tensor rows = best.index.view(shape({N, 1})).expand(shape({N, K}));
  const Var sum =
      scatter_reduce(empty, -2, rows, mul(a, view(weight, shape({N, 1}))), Reduce::kSum);
  return div(sum, clamp_min(view(total, shape({M, 1})), 1e-12));
}

struct Merged {
  std::vector<double> rows;
  std::vector<int> members;
};

/// All heads by loops.
Merged by_loops(const Tensor& a, const Tensor& b) {
  const std::vector<double> from = values(a), to = values(b);
  const auto N = static_cast<std::size_t>(a.size(-2)), M = static_cast<std::size_t>(b.size(-2)),
             K = static_cast<std::size_t>(a.size(-1)), heads = from.size() / N / K;
  Merged out{std::vector<double>(heads * M * K), std::vector<int>(heads * M)};
  std::vector<double> total(heads * M);
  for (std::size_t at = 0; at < heads * N; ++at) {
    double best = -2;
    std::size_t group = 0;
    for (std::size_t m = 0; m < M; ++m) {
      double dot = 0, aa = 0, bb = 0;
      for (std::size_t k = 0; k < K; ++k) {
        const double x = from[at * K + k], y = to[(at / N * M + m) * K + k];
        dot += x * y;
        aa += x * x;
        bb += y * y;
      }
      const double cosine = dot / std::sqrt(aa) / std::sqrt(bb);
      if (cosine > best) {
        best = cosine;
        group = at / N * M + m;
      }
    }
    ++out.members[group];
    total[group] += std::exp(best);
    for (std::size_t k = 0; k < K; ++k)
      out.rows[group * K + k] += std::exp(best) * from[at * K + k];
  }
  for (std::size_t i = 0; i < out.rows.size(); ++i) out.rows[i] /= std::max(total[i / K], 1e-12);
  return out;
}

Tensor uniform(Shape shape, std::uint64_t seed) {
  Rng rng(seed);
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* to = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = static_cast<float>(rng.uniform());
  return out;
}

TEST(MergeKv, KVM_01_EqualsADoubleLoop) {
  int empty = 0;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const Tensor a = uniform({2, 4, 20, 64}, 2 * seed), b = uniform({2, 4, 5, 64}, 2 * seed + 1);
    const Merged expected = by_loops(a, b);
    const std::vector<double> found = values(merge(Var(a), Var(b)).value());
    ASSERT_EQ(found.size(), expected.rows.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], expected.rows[i], 1e-6);
      if (expected.members[i / 64] == 0) {
        ++empty;
        ASSERT_EQ(found[i], 0);
      }
    }
  }
  EXPECT_GT(empty, 0) << "no group was empty";
}

TEST(MergeKv, KVM_03_AKeyOfLengthZero) {
  Tensor a = uniform({1, 6, 8}, 1);
  const Tensor b = uniform({1, 3, 8}, 2);
  std::fill_n(a.mutable_data<float>() + 2 * 8, 8, 0.0f);
  const std::vector<double> as_torch = values(merge(Var(a), Var(b)).value());
  const std::vector<double> safe = values(merge(Var(a), Var(b), ZeroNorm::kSafe).value());
  for (std::size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(std::isnan(as_torch[i]), i < 8) << i;  // the whole row of group 0
    EXPECT_FALSE(std::isnan(safe[i])) << i;
    if (i >= 8) {
      EXPECT_EQ(safe[i], as_torch[i]);
    }
  }
}

TEST(MergeKv, KVM_03_AChosenKeyOfLengthZero) {
  const Tensor a = uniform({1, 6, 8}, 3);
  Tensor b = uniform({1, 3, 8}, 4);
  std::fill_n(b.mutable_data<float>() + 8, 8, 0.0f);
  for (const double x : values(merge(Var(a), Var(b), ZeroNorm::kSafe).value()))
    EXPECT_FALSE(std::isnan(x));
  EXPECT_TRUE(std::isnan(values(merge(Var(a), Var(b)).value())[8]));
}

TEST(MergeKv, KVM_04_OfEqualsTheLowestGroupWins) {
  const Tensor a = uniform({1, 4, 8}, 5), one = uniform({1, 1, 8}, 6);
  const Tensor b = one.expand({1, 3, 8}).contiguous_copy();
  const std::vector<double> merged = values(merge(Var(a), Var(b)).value());
  const std::vector<double> all = values(merge(Var(a), Var(one)).value());
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(merged[i], all[i]);
  for (std::size_t i = 8; i < 24; ++i) EXPECT_EQ(merged[i], 0);
}

TEST(MergeKv, KVM_06_Gradients) {
  for (const std::uint64_t seed : {10u, 20u, 30u}) {
    test::expect_tape_gradients(
        [](const auto& in) { return merge(in[0], in[1]); },
        {random_tensor({2, 7, 6}, seed), random_tensor({2, 3, 6}, seed + 1)});
  }
}

}  // namespace
}  // namespace quire::grad

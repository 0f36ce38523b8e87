#include "quire/ops/merge/group_mean.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/merge/nearest_anchor.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/reference/merge.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

/// Groups of G heads, some keys in none, the last group empty.
Tensor random_groups(std::int64_t G, std::int64_t S, std::int64_t M, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < G * S; ++i)
    out.push_back(static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(M))) - 1);
  return index_of(out, {G, S});
}

std::vector<double> positive(std::int64_t n, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<double> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(0.1 + rng.uniform());
  return out;
}

template <class T>
std::vector<T> part(const std::vector<T>& x, std::int64_t g, std::int64_t G) {
  const auto n = x.size() / static_cast<std::size_t>(G);
  const auto at = x.begin() + static_cast<std::ptrdiff_t>(n) * g;
  return {at, at + static_cast<std::ptrdiff_t>(n)};
}

std::vector<double> sizes_of(std::vector<double> x) {
  for (double& number : x) number = std::abs(number);
  return x;
}

std::vector<std::int64_t> integers(const Tensor& x) {
  return {x.data<std::int64_t>(), x.data<std::int64_t>() + x.elements()};
}

/// `sizes`: the same outputs of the numbers' sizes, which is what rounding is measured by where a
/// sum cancels.
void expect_within(const std::vector<double>& ours, const std::vector<double>& truth,
                   const std::vector<float>& naive, const std::vector<double>& sizes,
                   const std::string& what) {
  ASSERT_EQ(ours.size(), truth.size()) << what;
  double error = 0, yardstick = 0, largest = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    if (std::isinf(truth[i])) {
      EXPECT_EQ(ours[i], truth[i]) << what;
      continue;
    }
    error = std::max(error, std::abs(ours[i] - truth[i]));
    yardstick = std::max(yardstick, std::abs(double{naive[i]} - truth[i]));
    largest = std::max(largest, std::abs(sizes[i]));
  }
  EXPECT_LE(error, 2 * yardstick + 0x1p-23 * largest) << what;
}

void expect_mean(const KvView& kv, std::int64_t b, std::int64_t M, const std::string& what) {
  const std::int64_t S = kv.length_BG[b];
  const Tensor group = random_groups(kv.G, S, M, 11);
  const std::vector<double> weight = positive(kv.G * S, 12), count = positive(kv.G * S, 13);
  const KeyNumbers numbers{floats(weight, {kv.G, S}), floats(count, {kv.G, S}), std::nullopt};
  const MergedKeys merged = group_mean(kv, b, group, M, numbers);
  const std::vector<double> a = values(*numbers.weight_GS), p = values(*numbers.count_GS);
  for (std::int64_t g = 0; g < kv.G; ++g) {
    const auto k = rows_of(kv, b, g, false), v = rows_of(kv, b, g, true);
    const auto rows = static_cast<std::size_t>(M);
    const auto truth = ref::group_mean<double>(k, v, part(integers(group), g, kv.G),
                                               part(a, g, kv.G), part(p, g, kv.G), rows);
    const auto naive =
        ref::group_mean<float>(narrow(k), narrow(v), part(integers(group), g, kv.G),
                               narrow(part(a, g, kv.G)), narrow(part(p, g, kv.G)), rows);
    const auto sizes =
        ref::group_mean<double>(sizes_of(k), sizes_of(v), part(integers(group), g, kv.G),
                                part(a, g, kv.G), part(p, g, kv.G), rows);
    const auto of = [&](const Tensor& x) { return values(x.slice(0, g, g + 1)); };
    expect_within(of(merged.k_GMK), truth.k, naive.k, sizes.k, what + ": k");
    expect_within(of(merged.v_GMU), truth.v, naive.v, sizes.v, what + ": v");
    expect_within(of(merged.weight_GM), truth.weight, naive.weight, sizes.weight,
                  what + ": weight");
    expect_within(of(merged.count_GM), truth.count, naive.count, sizes.count, what + ": count");
    expect_within(of(merged.bias_GM), truth.bias, naive.bias, sizes.bias, what + ": bias");
  }
}

TEST(GroupMean, HandWorked) {
  const Tensor k = floats({1, 2, 3, 4, 5, 6, 7, 8}, {1, 4, 2}),
               v = floats({10, 20, 30, 40}, {1, 4, 1});
  const SequenceView view(k, v);
  const KeyNumbers numbers{floats({1, 5, 3, 5}, {1, 4}), std::nullopt, std::nullopt};
  const MergedKeys merged = group_mean(view.kv(), 0, index_of({1, 2, 1, -1}, {1, 4}), 4, numbers);
  EXPECT_EQ(values(merged.k_GMK), (std::vector<double>{0, 0, 4, 5, 3, 4, 0, 0}));
  EXPECT_EQ(values(merged.v_GMU), (std::vector<double>{0, 25, 20, 0}));
  EXPECT_EQ(values(merged.weight_GM), (std::vector<double>{0, 4, 5, 0}));
  EXPECT_EQ(values(merged.count_GM), (std::vector<double>{0, 2, 1, 0}));
  EXPECT_FLOAT_EQ(merged.bias_GM.data<float>()[1], std::log(2.0f));
  EXPECT_EQ(merged.bias_GM.data<float>()[2], 0.0f);
  EXPECT_EQ(merged.bias_GM.data<float>()[0], -kInfinity);
  GroupMeanSpec plain;
  plain.bias = GroupBias::kNone;
  EXPECT_EQ(group_mean(view.kv(), 0, index_of({1, 2, 1, -1}, {1, 4}), 4, numbers, plain)
                .bias_GM.data<float>()[1],
            0.0f);
}

TEST(GroupMean, EqualsTheNaiveLoopAtEveryEdge) {
  for (const std::int64_t S : {1, 31, 64, 65, 200})
    for (const std::int64_t M : {2, 7, 40})
      for (const std::int64_t K : {1, 16, 33}) {
        const Tensor k = random_tensor({2, S, K}, 1, DType::kF32),
                     v = random_tensor({2, S, K + 3}, 2, DType::kF32);
        const SequenceView view(k, v);
        expect_mean(view.kv(), 0, M, concat("S ", S, ", M ", M, ", K ", K));
      }
}

TEST(GroupMean, KVM_07_KeysLieInPagesOfAnyForm) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {70, 131});
    expect_mean(pages.view(), 1, 9, concat(to_string(form.dtype), ", pages of ", form.Z));
  }
}

/// The notebook, step by step in double precision: one head.
std::vector<double> notebook(const std::vector<double>& a, const std::vector<double>& b,
                             std::size_t K) {
  const ref::Nearest near = ref::nearest_anchor(a, b, K);
  const std::size_t M = b.size() / K;
  std::vector<double> peak(M, -2), total(M), out(M * K);
  for (std::size_t s = 0; s < near.group.size(); ++s) {
    double& p = peak[static_cast<std::size_t>(near.group[s])];
    p = std::max(p, near.cosine[s]);
  }
  for (std::size_t s = 0; s < near.group.size(); ++s) {
    const auto m = static_cast<std::size_t>(near.group[s]);
    const double w = std::exp(near.cosine[s] - peak[m]);
    total[m] += w;
    for (std::size_t i = 0; i < K; ++i) out[m * K + i] += w * a[s * K + i];
  }
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= std::max(total[i / K], 1e-12);
  return out;
}

MergedKeys fused(const KvView& kv, const Tensor& anchors, const GroupMeanSpec& spec) {
  const NearestAnchor near = nearest_anchor(kv, 0, anchors);
  KeyNumbers numbers;
  numbers.cosine_GS = near.cosine_GS;
  return group_mean(kv, 0, near.group_GS, anchors.size(1), numbers, spec);
}

TEST(GroupMean, KVM_02_FusedEqualsTheNotebook) {
  // Uniform in [0, 1), as there: all cosines are large, some groups are empty.
  const std::int64_t S = 200, M = 60, G = 3, K = 64;
  const Tensor a = floats(positive(G * S * K, 1), {G, S, K}),
               b = floats(positive(G * M * K, 2), {G, M, K});
  const SequenceView view(a);
  GroupMeanSpec spec;
  spec.weights = GroupWeights::kCosine;
  spec.bias = GroupBias::kNone;
  const MergedKeys merged = fused(view.kv(), b, spec);
  for (std::int64_t g = 0; g < G; ++g) {
    const auto expected = notebook(values(a.slice(0, g, g + 1)), values(b.slice(0, g, g + 1)), 64);
    expect_close(values(merged.k_GMK.slice(0, g, g + 1)), expected, "merged keys", 1e-6);
  }
  // The missing count is one switch away.
  spec.bias = GroupBias::kLogCount;
  const MergedKeys counted = fused(view.kv(), b, spec);
  EXPECT_TRUE(same_bits(counted.k_GMK, merged.k_GMK));
  double tokens = 0;
  for (std::int64_t i = 0; i < G * M; ++i) {
    const float count = counted.count_GM.data<float>()[i];
    tokens += double{count};
    EXPECT_FLOAT_EQ(counted.bias_GM.data<float>()[i], std::log(count));
    EXPECT_EQ(merged.bias_GM.data<float>()[i], count == 0 ? -kInfinity : 0.0f);
  }
  EXPECT_EQ(tokens, static_cast<double>(G * S));
}

AttentionResult attend(const Tensor& q_NHK, const Tensor& k_GSK, const Tensor& v_GSU,
                       const Tensor* bias_GS) {
  const SequenceView view(k_GSK, v_GSU);
  KvView kv = view.kv();
  Tensor bias_SG;
  if (bias_GS != nullptr) {
    bias_SG = bias_GS->transpose(0, 1).contiguous_copy();
    kv.bias = bias_SG.data<float>();
    kv.bias_heads = kv.G;
  }
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  const std::int32_t start[] = {0, static_cast<std::int32_t>(q_NHK.size(0))};
  return attention(q_NHK, Tensor::of(std::span<const std::int32_t>(start), {2}), kv, spec);
}

TEST(GroupMean, KVM_05_IdenticalMembersKeepTheirAttention) {
  const std::int64_t G = 2, M = 13, S = 90, K = 16;
  const Tensor k = random_tensor({G, M, K}, 1, DType::kF32),
               v = random_tensor({G, M, K}, 2, DType::kF32),
               q = random_tensor({5, 4, K}, 3, DType::kF32);
  std::vector<double> all_k, all_v;
  std::vector<std::int64_t> group;
  Rng rng(4);
  for (std::int64_t g = 0; g < G; ++g) {
    for (std::int64_t s = 0; s < S; ++s) {
      const auto m = static_cast<std::int64_t>(rng.below(13));
      group.push_back(m);
      for (std::int64_t i = 0; i < K; ++i) {
        all_k.push_back(double{k.data<float>()[(g * M + m) * K + i]});
        all_v.push_back(double{v.data<float>()[(g * M + m) * K + i]});
      }
    }
  }
  const Tensor many_k = floats(all_k, {G, S, K}), many_v = floats(all_v, {G, S, K});
  const SequenceView view(many_k, many_v);
  const MergedKeys merged = group_mean(view.kv(), 0, index_of(group, {G, S}), M);
  const AttentionResult whole = attend(q, many_k, many_v, nullptr),
                        few = attend(q, merged.k_GMK, merged.v_GMU, &merged.bias_GM);
  expect_close(values(few.out_NHU), values(whole.out_NHU), "out", 1e-5);
  expect_close(values(few.lse_NH), values(whole.lse_NH), "lse", 1e-5);
  // Without counts it is another result.
  const AttentionResult uncounted = attend(q, merged.k_GMK, merged.v_GMU, nullptr);
  EXPECT_GT(
      std::abs(double{uncounted.lse_NH.data<float>()[0]} - double{whole.lse_NH.data<float>()[0]}),
      1);
  double mass = 0;
  for (const double x : values(merged.weight_GM)) mass += x;
  EXPECT_EQ(mass, static_cast<double>(G * S));
}

void expect_same_groups(const MergedKeys& a, const MergedKeys& b, double tolerance) {
  expect_close(values(a.k_GMK), values(b.k_GMK), "k", tolerance);
  expect_close(values(a.v_GMU), values(b.v_GMU), "v", tolerance);
  expect_close(values(a.weight_GM), values(b.weight_GM), "weight", tolerance);
  expect_close(values(a.count_GM), values(b.count_GM), "count", tolerance);
  const auto left = values(a.bias_GM), right = values(b.bias_GM);
  for (std::size_t i = 0; i < left.size(); ++i)
    EXPECT_TRUE(left[i] == right[i] || std::abs(left[i] - right[i]) <= tolerance) << i;
}

TEST(GroupMean, KVM_09_TwoChunksAreOne) {
  const std::int64_t S = 150, M = 20;
  const Tensor k = random_tensor({2, S, 16}, 1, DType::kF32),
               v = random_tensor({2, S, 8}, 2, DType::kF32),
               anchors = random_tensor({2, M, 16}, 3, DType::kF32);
  for (const GroupWeights weights : {GroupWeights::kMass, GroupWeights::kCosine}) {
    GroupMeanSpec spec;
    spec.weights = weights;
    spec.temperature = 0.05;
    const auto merge = [&](std::int64_t begin, std::int64_t end) {
      const Tensor keys = k.slice(1, begin, end), numbers = v.slice(1, begin, end);
      const SequenceView view(keys, numbers);
      const NearestAnchor near = nearest_anchor(view.kv(), 0, anchors);
      KeyNumbers key_numbers;
      key_numbers.cosine_GS = near.cosine_GS;
      key_numbers.weight_GS =
          floats(positive(2 * S, 7), {2, S}).slice(1, begin, end).contiguous_copy();
      return group_mean(view.kv(), 0, near.group_GS, M, key_numbers, spec);
    };
    for (const std::int64_t cut : {1, 60, 149})
      expect_same_groups(combine_groups(merge(0, cut), merge(cut, S), spec), merge(0, S), 2e-6);
    // An empty half changes no bit.
    const MergedKeys whole = merge(0, S), same = combine_groups(whole, merge(0, 0), spec);
    EXPECT_TRUE(same_bits(same.k_GMK, whole.k_GMK));
    EXPECT_TRUE(same_bits(same.bias_GM, whole.bias_GM));
  }
}

TEST(GroupMean, KVM_09_AMergeOfMergesIsOneMerge) {
  const std::int64_t S = 120;
  const Tensor k = random_tensor({1, S, 16}, 1, DType::kF32),
               weight = floats(positive(S, 5), {1, S});
  std::vector<std::int64_t> fine, coarse, both;
  for (std::int64_t s = 0; s < S; ++s) fine.push_back(s * 7 % 30);
  for (std::int64_t m = 0; m < 30; ++m) coarse.push_back(m / 4);
  for (const std::int64_t m : fine) both.push_back(m / 4);
  const SequenceView keys(k);
  const MergedKeys once =
      group_mean(keys.kv(), 0, index_of(both, {1, S}), 8, {weight, std::nullopt, std::nullopt});
  const MergedKeys first =
      group_mean(keys.kv(), 0, index_of(fine, {1, S}), 30, {weight, std::nullopt, std::nullopt});
  const SequenceView merged(first.k_GMK, first.v_GMU);
  const MergedKeys second = group_mean(merged.kv(), 0, index_of(coarse, {1, 30}), 8,
                                       {first.weight_GM, first.count_GM, std::nullopt});
  expect_same_groups(second, once, 2e-6);
}

TEST(GroupMean, K9_AGroupWithoutWeightIsThePlainMean) {
  const Tensor k = floats({1, 3, 8}, {1, 3, 1});
  const SequenceView view(k);
  const MergedKeys merged = group_mean(view.kv(), 0, index_of({0, 0, 1}, {1, 3}), 2,
                                       {floats({0, 0, 2}, {1, 3}), std::nullopt, std::nullopt});
  EXPECT_EQ(values(merged.k_GMK), (std::vector<double>{2, 8}));
  EXPECT_EQ(values(merged.weight_GM), (std::vector<double>{0, 2}));
}

struct Backward {
  Tensor k, v, group, weight, count, dk, dv, dbias;
  std::int64_t M = 6;

  explicit Backward(DType dtype)
      : k(random_tensor({2, 70, 5}, 1, dtype)),
        v(random_tensor({2, 70, 3}, 2, dtype)),
        group(random_groups(2, 70, 6, 3)),
        weight(tensor_of(positive(140, 4), {2, 70}, dtype)),
        count(tensor_of(positive(140, 5), {2, 70}, dtype)),
        dk(random_tensor({2, 6, 5}, 6, dtype)),
        dv(random_tensor({2, 6, 3}, 7, dtype)),
        dbias(random_tensor({2, 6}, 8, dtype)) {}

  GroupMeanGradients run(const GroupMeanSpec& spec) const {
    const SequenceView view(k, v);
    const KeyNumbers numbers{weight, count, weight};
    const MergedKeys merged = group_mean(view.kv(), 0, group, M, numbers, spec);
    return group_mean_backward(dk, dv, dbias, view.kv(), 0, group, numbers, merged, spec);
  }
};

using Complex = std::complex<double>;

/// All outputs of a head that have gradients, as one row, from k, v, weight (or cosine), count.
std::vector<Complex> outputs(const std::vector<std::vector<Complex>>& in,
                             const std::vector<std::int64_t>& group, double temperature) {
  std::vector<Complex> weight = in[2];
  if (temperature > 0)
    for (Complex& x : weight) x = std::exp(x / temperature);
  const auto merged = ref::group_mean<Complex>(in[0], in[1], group, weight, in[3], 6);
  std::vector<Complex> out = merged.k;
  out.insert(out.end(), merged.v.begin(), merged.v.end());
  for (const Complex& x : merged.bias) out.push_back(std::isinf(x.real()) ? Complex(0) : x);
  return out;
}

void expect_backward(DType dtype, double tolerance) {
  const Backward x(dtype);
  for (const double temperature : {0.0, 0.3}) {
    GroupMeanSpec spec;
    if (temperature > 0) {
      spec.weights = GroupWeights::kCosine;
      spec.temperature = temperature;
    }
    const GroupMeanGradients found = x.run(spec);
    for (std::int64_t g = 0; g < 2; ++g) {
      const auto of = [&](const Tensor& t) { return values(t.slice(0, g, g + 1)); };
      std::vector<double> dout = of(x.dk), dv = of(x.dv), dbias = of(x.dbias);
      dout.insert(dout.end(), dv.begin(), dv.end());
      // The last group is empty: its bias is −inf whatever the inputs.
      dbias.back() = 0;
      dout.insert(dout.end(), dbias.begin(), dbias.end());
      const auto group = part(integers(x.group), g, 2);
      const auto f = [&](const std::vector<std::vector<Complex>>& in) {
        return outputs(in, group, temperature);
      };
      const std::vector<std::vector<double>> inputs{of(x.k), of(x.v), of(x.weight), of(x.count)};
      expect_close(of(found.dk_GSK), complex_step(f, inputs, 0, dout), "dk", tolerance);
      expect_close(of(found.dv_GSU), complex_step(f, inputs, 1, dout), "dv", tolerance);
      expect_close(of(found.dweight_GS), complex_step(f, inputs, 2, dout), "dweight", tolerance);
      expect_close(of(found.dcount_GS), complex_step(f, inputs, 3, dout), "dcount", tolerance);
    }
  }
}

TEST(GroupMean, KVM_06_BackwardIsTheComplexStep) {
  expect_backward(DType::kF64, 1e-12);
  expect_backward(DType::kF32, 2e-6);
}

TEST(GroupMean, BackwardTwiceIsDouble) {
  Backward x(DType::kF32);
  const GroupMeanGradients once = x.run({});
  for (Tensor* dout : {&x.dk, &x.dv, &x.dbias}) {
    Tensor twice = dout->contiguous_copy().to(DType::kF32);
    for (std::int64_t i = 0; i < twice.elements(); ++i) twice.mutable_data<float>()[i] *= 2;
    *dout = twice;
  }
  const GroupMeanGradients both = x.run({});
  for (const auto& [a, b] : {std::pair(once.dk_GSK, both.dk_GSK),
                             {once.dv_GSU, both.dv_GSU},
                             {once.dweight_GS, both.dweight_GS},
                             {once.dcount_GS, both.dcount_GS}})
    for (std::int64_t i = 0; i < a.elements(); ++i)
      ASSERT_EQ(2 * a.data<float>()[i], b.data<float>()[i]);
}

TEST(GroupMean, ThreadsAndPagesChangeNoBit) {
  std::vector<MergedKeys> all;
  for (const int threads : {1, 2, 9}) {
    for (const std::uint64_t order : {std::uint64_t{0}, std::uint64_t{1}}) {
      PagedForm form;
      form.order = order;
      set_threads(threads);
      const PagedCase pages(form, {300});
      all.push_back(group_mean(pages.view(), 0, random_groups(1, 300, 20, 1), 20));
      EXPECT_TRUE(same_bits(all[0].k_GMK, all.back().k_GMK));
      EXPECT_TRUE(same_bits(all[0].v_GMU, all.back().v_GMU));
    }
  }
  set_threads(2);
}

TEST(GroupMean, K9_Errors) {
  const Tensor k = random_tensor({1, 4, 6}, 1, DType::kF32);
  const SequenceView view(k);
  const Tensor group = index_of({0, 1, 0, 2}, {1, 4});
  const auto has = [](const std::string& text, const char* part_of_it) {
    return text.find(part_of_it) != std::string::npos;
  };
  const auto message = [&](const Tensor& groups, const KeyNumbers& numbers,
                           const GroupMeanSpec& spec) {
    return message_of([&] { group_mean(view.kv(), 0, groups, 2, numbers, spec); });
  };
  EXPECT_TRUE(has(message(group, {}, {}), "group_GS has 2 at 3"));
  EXPECT_TRUE(has(message(index_of({0, 1, 0}, {1, 3}), {}, {}), "group_GS is i64 [1, 3]"));
  const Tensor fine = index_of({0, 1, 0, 1}, {1, 4});
  EXPECT_TRUE(has(message(fine, {floats({1, -1, 1, 1}, {1, 4}), std::nullopt, std::nullopt}, {}),
                  "weight_GS has -1 at 1"));
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(has(message(fine, {floats({1, 1, nan, 1}, {1, 4}), std::nullopt, std::nullopt}, {}),
                  "weight_GS has nan at 2"));
  EXPECT_TRUE(has(message(fine, {std::nullopt, floats({1, 1, 1, nan}, {1, 4}), std::nullopt}, {}),
                  "count_GS has nan at 3"));
  GroupMeanSpec cosine;
  cosine.weights = GroupWeights::kCosine;
  EXPECT_TRUE(has(message(fine, {}, cosine), "numbers.cosine_GS"));
  cosine.temperature = 0;
  EXPECT_TRUE(has(message(fine, {}, cosine), "spec.temperature is 0"));
  const MergedKeys merged = group_mean(view.kv(), 0, fine, 2),
                   other = group_mean(view.kv(), 0, fine, 3);
  EXPECT_TRUE(has(message_of([&] { combine_groups(merged, other); }), "M is 2 and 3"));
  const SequenceView narrow(random_tensor({1, 4, 5}, 1, DType::kF32));
  EXPECT_TRUE(
      has(message_of([&] { combine_groups(merged, group_mean(narrow.kv(), 0, fine, 2)); }), "K"));
}

TEST(GroupMean, K9_WhatIsEmptyChangesNothing) {
  const Tensor k = random_tensor({1, 4, 6}, 1, DType::kF32);
  const SequenceView view(k);
  const MergedKeys merged = group_mean(view.kv(), 0, index_of({0, 1, 0, 1}, {1, 4}), 2),
                   empty = group_mean(view.kv(), 0, index_of({-1, -1, -1, -1}, {1, 4}), 2);
  for (const MergedKeys& both : {combine_groups(merged, empty), combine_groups(empty, merged)}) {
    EXPECT_TRUE(same_bits(both.k_GMK, merged.k_GMK));
    EXPECT_TRUE(same_bits(both.v_GMU, merged.v_GMU));
    EXPECT_TRUE(same_bits(both.weight_GM, merged.weight_GM));
    EXPECT_TRUE(same_bits(both.count_GM, merged.count_GM));
    EXPECT_TRUE(same_bits(both.bias_GM, merged.bias_GM));
  }
}

}  // namespace
}  // namespace quire::test

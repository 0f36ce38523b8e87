#include "quire/ops/merge/nearest_anchor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/reference/merge.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

/// The chosen anchor may differ from the reference's only where the two are as good up to rounding.
void expect_nearest(const KvView& kv, std::int64_t b, const Tensor& anchors,
                    const std::string& what) {
  const NearestAnchor found = nearest_anchor(kv, b, anchors);
  const std::int64_t S = kv.length_BG[b], M = anchors.size(1);
  ASSERT_EQ(found.group_GS.shape(), (Shape{kv.G, S})) << what;
  const auto K = static_cast<std::size_t>(kv.K);
  for (std::int64_t g = 0; g < kv.G; ++g) {
    const std::vector<double> keys = rows_of(kv, b, g, false),
                              rows = values(anchors.slice(0, g, g + 1));
    const ref::Nearest truth = ref::nearest_anchor(keys, rows, K);
    const ref::Nearest naive = ref::nearest_anchor(narrow(keys), narrow(rows), K);
    double ours = 0, yardstick = 0;
    std::int64_t different = 0;
    for (std::int64_t s = 0; s < S; ++s) {
      const auto i = static_cast<std::size_t>(s);
      const std::int64_t group = found.group_GS.data<std::int64_t>()[g * S + s];
      ASSERT_TRUE(group >= 0 && group < M) << what;
      different += group != truth.group[i] ? 1 : 0;
      const double cosine = kv.dtype == DType::kF64
                                ? found.cosine_GS.data<double>()[g * S + s]
                                : double{found.cosine_GS.data<float>()[g * S + s]};
      ours = std::max(ours, std::abs(cosine - truth.cosine[i]));
      yardstick = std::max(yardstick, std::abs(naive.cosine[i] - truth.cosine[i]));
    }
    EXPECT_LE(ours, 2 * yardstick + 0x1p-23) << what << " head " << g;
    EXPECT_LE(different, S / 100) << what << " head " << g;
  }
}

TEST(NearestAnchor, HandWorked) {
  // Of length 5 along (3, 4); of two equal anchors the first wins, however long they are.
  const Tensor k = floats({3, 4, 0, -2, 0, 0}, {1, 3, 2}),
               anchors = floats({1, 0, 0, 2, 0, -1, 0, 4, 0, -8}, {1, 5, 2});
  const SequenceView view(k);
  const NearestAnchor found = nearest_anchor(view.kv(), 0, anchors);
  EXPECT_EQ(values(found.group_GS), (std::vector<double>{1, 2, 0}));
  EXPECT_FLOAT_EQ(found.cosine_GS.data<float>()[0], 0.8f);
  EXPECT_EQ(found.cosine_GS.data<float>()[1], 1.0f);
  EXPECT_EQ(found.cosine_GS.data<float>()[2], 0.0f);
}

TEST(NearestAnchor, EqualsTheNaiveLoopAtEveryEdge) {
  for (const std::int64_t S : {1, 31, 63, 64, 65, 130})
    for (const std::int64_t M : {1, 5, 6, 7, 33})
      for (const std::int64_t K : {1, 15, 16, 64, 129}) {
        const Tensor k = random_tensor({2, S, K}, 1, DType::kF32),
                     anchors = random_tensor({2, M, K}, 2, DType::kF32);
        const SequenceView view(k);
        expect_nearest(view.kv(), 0, anchors, concat("S ", S, ", M ", M, ", K ", K));
      }
}

TEST(NearestAnchor, KVM_07_KeysLieInPagesOfAnyForm) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {70, 131});
    expect_nearest(pages.view(), 1, random_tensor({2, 19, 20}, 4, DType::kF32),
                   concat(to_string(form.dtype), ", pages of ", form.Z));
  }
}

TEST(NearestAnchor, DoublePrecision) {
  const Tensor k = random_tensor({2, 70, 9}, 1), anchors = random_tensor({2, 8, 9}, 2);
  const SequenceView view(k);
  expect_nearest(view.kv(), 0, anchors, "f64");
}

TEST(NearestAnchor, KVM_04_OfEqualAnchorsTheLowestWins) {
  // Every anchor four times, far apart.
  const Tensor k = random_tensor({1, 200, 32}, 1, DType::kF32);
  const std::vector<double> once = values(random_tensor({1, 25, 32}, 2, DType::kF32));
  std::vector<double> four;
  for (int i = 0; i < 4; ++i) four.insert(four.end(), once.begin(), once.end());
  const SequenceView view(k);
  const NearestAnchor few = nearest_anchor(view.kv(), 0, floats(once, {1, 25, 32})),
                      many = nearest_anchor(view.kv(), 0, floats(four, {1, 100, 32}));
  EXPECT_TRUE(same_bits(few.group_GS, many.group_GS));
  EXPECT_TRUE(same_bits(few.cosine_GS, many.cosine_GS));
}

TEST(NearestAnchor, KVM_03_LengthZeroAndNaN) {
  std::vector<double> k = values(random_tensor({1, 3, 16}, 1)),
                      anchors = values(random_tensor({1, 4, 16}, 2));
  std::fill(k.begin(), k.begin() + 16, 0.0);  // key 0 is 0
  k[16] = std::numeric_limits<double>::quiet_NaN();
  anchors[0] = std::numeric_limits<double>::quiet_NaN();
  std::fill(anchors.begin() + 16, anchors.begin() + 32, 0.0);
  const Tensor keys = floats(k, {1, 3, 16});
  const SequenceView view(keys);
  const NearestAnchor found = nearest_anchor(view.kv(), 0, floats(anchors, {1, 4, 16}));
  EXPECT_EQ(found.cosine_GS.data<float>()[0], 0.0f);
  EXPECT_EQ(found.group_GS.data<std::int64_t>()[0], 1);
  EXPECT_EQ(found.group_GS.data<std::int64_t>()[1], 0);
  EXPECT_TRUE(std::isnan(found.cosine_GS.data<float>()[1]));
  EXPECT_GT(found.group_GS.data<std::int64_t>()[2], 0);
  EXPECT_TRUE(std::isfinite(found.cosine_GS.data<float>()[2]));
}

TEST(NearestAnchor, ThreadsAndPagesChangeNoBit) {
  const Tensor anchors = random_tensor({2, 50, 20}, 4, DType::kF32);
  std::vector<NearestAnchor> all;
  for (const int threads : {1, 2, 5}) {
    for (const std::uint64_t order : {std::uint64_t{0}, std::uint64_t{1}}) {
      PagedForm form;
      form.G = 2;
      form.K = 20;
      form.order = order;
      set_threads(threads);
      const PagedCase pages(form, {300});
      all.push_back(nearest_anchor(pages.view(), 0, anchors));
      EXPECT_TRUE(same_bits(all[0].group_GS, all.back().group_GS));
      EXPECT_TRUE(same_bits(all[0].cosine_GS, all.back().cosine_GS));
    }
  }
  set_threads(2);
}

/// Fewer than 64 keys are compared with all anchors, more of them by codes first: not a bit tells.
void expect_same_as_in_parts(const Tensor& k_GSK, const Tensor& anchors, const std::string& what) {
  const SequenceView view(k_GSK);
  const NearestAnchor whole = nearest_anchor(view.kv(), 0, anchors);
  const std::int64_t G = k_GSK.size(0), S = k_GSK.size(1);
  for (std::int64_t at = 0; at < S; at += 63) {
    const std::int64_t end = std::min(S, at + 63);
    const Tensor some = k_GSK.slice(1, at, end).contiguous_copy();
    const SequenceView part_view(some);
    const NearestAnchor part = nearest_anchor(part_view.kv(), 0, anchors);
    for (std::int64_t g = 0; g < G; ++g) {
      for (std::int64_t s = at; s < end; ++s) {
        const std::int64_t i = g * S + s, j = g * (end - at) + s - at;
        ASSERT_EQ(whole.group_GS.data<std::int64_t>()[i], part.group_GS.data<std::int64_t>()[j])
            << what << ", head " << g << ", key " << s;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(whole.cosine_GS.data<float>()[i]),
                  std::bit_cast<std::uint32_t>(part.cosine_GS.data<float>()[j]))
            << what << ", head " << g << ", key " << s;
      }
    }
  }
}

TEST(NearestAnchor, KVM_02_CodesChangeNoBit) {
  for (const std::int64_t S : {64, 65, 130})
    for (const std::int64_t M : {64, 67, 201})
      for (const std::int64_t K : {1, 5, 16, 20, 129})
        expect_same_as_in_parts(random_tensor({2, S, K}, 1, DType::kF32),
                                random_tensor({2, M, K}, 2, DType::kF32),
                                concat("S ", S, ", M ", M, ", K ", K));
}

TEST(NearestAnchor, CodesChangeNoBitOfHardCases) {
  const std::int64_t S = 140, M = 96, K = 40;
  const auto keys = [&](auto&& change) {
    std::vector<double> x = values(random_tensor({1, S, K}, 3));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = change(x[i], i / static_cast<std::size_t>(K), i % static_cast<std::size_t>(K));
    return floats(x, {1, S, K});
  };
  const auto anchors = [&](auto&& change) {
    std::vector<double> x = values(random_tensor({1, M, K}, 4));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = change(x[i], i / static_cast<std::size_t>(K), i % static_cast<std::size_t>(K));
    return floats(x, {1, M, K});
  };
  const auto as_is = [](double x, std::size_t, std::size_t) { return x; };
  const Tensor plain_keys = keys(as_is), plain = anchors(as_is);
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = HUGE_VAL;
  // All alike but for the last bits, or quite alike: every product has to be made.
  const std::vector<double> one = values(random_tensor({1, K}, 5));
  for (const double apart : {0.0, 1e-7, 1e-5, 1e-3}) {
    const Tensor near =
        anchors([&](double x, std::size_t, std::size_t k) { return one[k] + apart * x; });
    expect_same_as_in_parts(plain_keys, near, concat("anchors ", apart, " apart"));
    expect_same_as_in_parts(
        keys([&](double x, std::size_t, std::size_t k) { return one[k] + apart * x; }), near,
        concat("all ", apart, " apart"));
  }
  // Far from the centre, in some numbers alone, of any size.
  expect_same_as_in_parts(
      keys([](double x, std::size_t, std::size_t k) { return k == 7 ? 1e4 + x : x; }), plain,
      "one large number");
  for (const double size : {1e-30, 1e-19, 1e-10, 1e10, 1e18, 1e25})
    expect_same_as_in_parts(
        keys([&](double x, std::size_t s, std::size_t) { return s % 5 == 0 ? size * x : x; }),
        plain, concat("some keys times ", size));
  // Zeros, and what is not finite, beside keys that are.
  expect_same_as_in_parts(
      keys([](double x, std::size_t s, std::size_t) { return s % 3 == 0 ? 0 : x; }), plain,
      "keys of 0");
  expect_same_as_in_parts(keys([&](double x, std::size_t s, std::size_t k) {
                            return s == 70 && k == 3 ? nan : s == 9 && k == 5 ? infinity : x;
                          }),
                          plain, "keys that are not finite");
  expect_same_as_in_parts(plain_keys, anchors([&](double x, std::size_t m, std::size_t k) {
                            return m == 80 && k == 3 ? nan : m % 7 == 0 ? 0 : x;
                          }),
                          "anchors of NaN and 0");
  expect_same_as_in_parts(plain_keys, anchors([](double x, std::size_t m, std::size_t) {
                            return m % 2 == 0 ? 1e20 * x : 1e-20 * x;
                          }),
                          "anchors of any length");
}

TEST(NearestAnchor, CodesOfStoredKeys) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {70, 131});
    expect_nearest(pages.view(), 1, random_tensor({2, 90, 20}, 4, DType::kF32),
                   concat(to_string(form.dtype), ", pages of ", form.Z));
  }
}

TEST(NearestAnchor, NoMatrixOfSimilarities) {
  const std::int64_t S = 4096, M = 512, G = 2, K = 32;
  const Tensor k = random_tensor({G, S, K}, 1, DType::kF32),
               anchors = random_tensor({G, M, K}, 2, DType::kF32);
  const SequenceView view(k);
  reset_peak_allocated_bytes();
  const std::int64_t before = allocated_bytes();
  nearest_anchor(view.kv(), 0, anchors);
  // i64 and f32 for each key, the anchors once; the matrix would be G · S · M floats.
  EXPECT_LE(peak_allocated_bytes() - before, G * S * 12 + G * M * K * 4 + 4096);
}

TEST(NearestAnchor, Errors) {
  const Tensor k = random_tensor({2, 7, 6}, 1, DType::kF32);
  const SequenceView view(k);
  const auto message = [&](const Tensor& anchors) {
    return message_of([&] { nearest_anchor(view.kv(), 0, anchors); });
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(message(random_tensor({2, 3, 6}, 1)), "anchor_GMK is f64"));
  EXPECT_TRUE(has(message(random_tensor({1, 3, 6}, 1, DType::kF32)), "G = 2"));
  EXPECT_TRUE(has(message(random_tensor({2, 3, 5}, 1, DType::kF32)), "K = 6"));
  EXPECT_TRUE(has(message(random_tensor({2, 0, 6}, 1, DType::kF32)), "M = 0"));
  KvView beyond = view.kv();
  const std::int64_t eight = 8;
  beyond.length_BG = &eight;
  EXPECT_TRUE(has(message_of([&] {
                    nearest_anchor(beyond, 0, random_tensor({2, 3, 6}, 1, DType::kF32));
                  }),
                  "kv.length of sequence 0 is 8"));
}

}  // namespace
}  // namespace quire::test

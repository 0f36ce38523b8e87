#include "quire/ops/search/page_bounds.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/merge/sequence_view.h"
#include "tests/ops/merge/keys.h"
#include "tests/support/message_of.h"

namespace quire::test {
namespace {

TEST(PageBounds, HandWorked) {
  const Tensor k = floats({1, -2, 3, 5, -4, 0}, {1, 3, 2});
  const SequenceView view(k);
  const PageBounds found = page_bounds(view.kv(), 0, 2);
  EXPECT_EQ(values(found.least_GPK), (std::vector<double>{1, -2, -4, 0}));
  EXPECT_EQ(values(found.most_GPK), (std::vector<double>{3, 5, -4, 0}));
  // Two heads: max(2·1, 2·3) + max(−1·−2, −1·5) = 8, and so on.
  const Tensor scores = page_bound_scores(floats({2, -1, -1, 0}, {1, 2, 2}), found, 0.5);
  EXPECT_EQ(values(scores), (std::vector<double>{4, -4, -0.5, 2}));
}

TEST(PageBounds, EqualTheKeysInAnyFormAndBoundEveryScore) {
  for (const PagedForm& form : paged_forms()) {
    const PagedCase pages(form, {40, 131});
    for (const std::int64_t tokens : {1, 7, 16, 64, 100}) {
      const PageBounds found = page_bounds(pages.view(), 1, tokens);
      const std::int64_t P = (131 + tokens - 1) / tokens;
      ASSERT_EQ(found.least_GPK.shape(), (Shape{2, P, 20}));
      const Tensor q = random_tensor({3, 4, 20}, 7, DType::kF32);
      const Tensor bound = page_bound_scores(q, found);
      for (std::int64_t g = 0; g < 2; ++g) {
        const auto keys = rows_of(pages.view(), 1, g, false);
        for (std::int64_t p = 0; p < P; ++p) {
          for (std::int64_t k = 0; k < 20; ++k) {
            double least = 1e9, most = -1e9;
            for (std::int64_t s = p * tokens; s < std::min<std::int64_t>(131, (p + 1) * tokens);
                 ++s) {
              least = std::min(least, keys[static_cast<std::size_t>(s * 20 + k)]);
              most = std::max(most, keys[static_cast<std::size_t>(s * 20 + k)]);
            }
            // Of i8 the product of code and scale is rounded to f32.
            const auto at = (g * P + p) * 20 + k;
            EXPECT_NEAR(found.least_GPK.data<float>()[at], least, 1e-6);
            EXPECT_NEAR(found.most_GPK.data<float>()[at], most, 1e-6);
          }
          for (std::int64_t row = 0; row < 12; ++row) {
            if (row % 4 / 2 != g) continue;
            for (std::int64_t s = p * tokens; s < std::min<std::int64_t>(131, (p + 1) * tokens);
                 ++s) {
              double score = 0;
              for (std::int64_t k = 0; k < 20; ++k)
                score += double{q.data<float>()[row * 20 + k]} *
                         keys[static_cast<std::size_t>(s * 20 + k)];
              EXPECT_LE(score / std::sqrt(20.0), double{bound.data<float>()[row * P + p]} + 1e-5);
            }
          }
        }
      }
    }
  }
}

TEST(PageBounds, AreTightForPagesOfOneKeyAndThreadsChangeNoBit) {
  const Tensor k = random_tensor({2, 90, 33}, 1, DType::kF32),
               q = random_tensor({2, 6, 33}, 2, DType::kF32);
  const SequenceView view(k);
  std::vector<Tensor> all;
  for (const int threads : {1, 2, 5}) {
    set_threads(threads);
    all.push_back(page_bound_scores(q, page_bounds(view.kv(), 0, 1), 1));
    EXPECT_TRUE(same_bits(all[0], all.back()));
  }
  set_threads(2);
  for (std::int64_t row = 0; row < 12; ++row) {
    for (std::int64_t s = 0; s < 90; ++s) {
      double score = 0;
      for (std::int64_t i = 0; i < 33; ++i)
        score += double{q.data<float>()[row * 33 + i]} *
                 double{k.data<float>()[(row % 6 / 3 * 90 + s) * 33 + i]};
      EXPECT_NEAR(all[0].data<float>()[row * 90 + s], score, 2e-5);
    }
  }
}

TEST(PageBounds, Errors) {
  const Tensor k = random_tensor({2, 9, 3}, 1, DType::kF32);
  const SequenceView view(k);
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(message_of([&] { page_bounds(view.kv(), 0, 0); }), "page_tokens is 0"));
  const PageBounds bounds = page_bounds(view.kv(), 0, 4);
  EXPECT_TRUE(has(message_of([&] {
                    page_bound_scores(Tensor::zeros({1, 3, 3}, DType::kF32), bounds);
                  }),
                  "H = 3"));
  EXPECT_TRUE(has(message_of([&] {
                    page_bound_scores(Tensor::zeros({1, 2, 4}, DType::kF32), bounds);
                  }),
                  "K"));
}

}  // namespace
}  // namespace quire::test

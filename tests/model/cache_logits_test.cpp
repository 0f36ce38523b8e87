// The logits of a whole model over caches of pages: whatever happens to a cache between the first
// token and the last, they have the bits that a contiguous one gives.
#include <gtest/gtest.h>

#include <string>

#include "quire/cache/saved.h"
#include "quire/ops/attention/kv_format.h"
#include "tests/cache/tiered.h"
#include "tests/model/llama_gguf.h"
#include "tests/model/model_runs.h"
#include "tests/support/memory_file_ops.h"

namespace quire::model {
namespace {

using cache::PagedCache;
using cache::PagedPool;
using cache::SavedCache;
using test::LlamaGguf;

constexpr std::int64_t kTokens = 200, kRead = 140;

class CacheLogits : public testing::TestWithParam<DType> {
 protected:
  CacheLogits() {
    // More layers than a memory limit must keep.
    LlamaGguf::Sizes sizes;
    sizes.L = 5;
    sizes.context = kTokens;
    files_.put("m.gguf", bytes_ = LlamaGguf(test::kTypeQ8_0, false, sizes).bytes());
    model_ = Model::load(ModelFile::open("m.gguf"), {Mode::kFast, {}});
    Rng rng(3);
    for (std::int64_t n = 0; n < kTokens; ++n)
      ids_.push_back(static_cast<std::int32_t>(rng.below(40)));
    const auto contiguous = model_->make_cache(kTokens, GetParam());
    expected_ = logits(*contiguous, 0, kTokens, kTokens);
    rest_.assign(expected_.begin() + kRead * 40, expected_.end());
  }

  std::shared_ptr<PagedPool> pool(std::int64_t page, bool is_limited = false) const {
    cache::PagedSpec spec = model_->paged_spec(GetParam());
    spec.budget_tokens = is_limited ? kTokens : 3 * kTokens;
    spec.page_tokens = page;
    if (is_limited) spec = cache::test::limited(spec, "folder");
    return std::make_shared<PagedPool>(spec);
  }
  /// Of the tokens from `begin` to `end`, which the cache then holds.
  std::vector<float> logits(cache::KvCache& cache, std::int64_t begin, std::int64_t end,
                            std::int64_t chunk) const {
    const auto part = std::span(ids_).subspan(static_cast<std::size_t>(begin),
                                              static_cast<std::size_t>(end - begin));
    std::vector<float> hidden = test::run(*model_, part, cache, static_cast<std::size_t>(chunk));
    return test::logits(*model_, hidden);
  }
  std::string at(std::int64_t page) const {
    return std::string(to_string(GetParam())) + ", pages of " + std::to_string(page);
  }

  test::MemoryFileOps files_;
  std::string bytes_;
  std::unique_ptr<Model> model_;
  std::vector<std::int32_t> ids_;
  std::vector<float> expected_, rest_;
};

TEST_P(CacheLogits, I7_of_pages_forks_saved_and_limited_caches_are_those_of_a_contiguous_one) {
  for (const std::int64_t page : {1, 7, 16, 63, 64, 128}) {
    const test::Threads set(page % 2 == 0 ? 1 : 2);
    const std::int64_t chunk = page == 1 ? 33 : page;
    PagedCache paged(pool(page), kTokens);
    EXPECT_TRUE(test::same_bits(logits(paged, 0, kTokens, chunk), expected_)) << at(page);

    paged.truncate(kRead);
    const auto child = paged.fork_paged(), grandchild = child->fork_paged();
    EXPECT_TRUE(test::same_bits(logits(*grandchild, kRead, kTokens, chunk), rest_)) << at(page);
    EXPECT_TRUE(test::same_bits(logits(*child, kRead, kTokens, 1), rest_)) << at(page);

    cache::save_cache(paged, "saved", "small", 1);
    const auto restored = SavedCache("saved").load(pool(page), kTokens);
    EXPECT_TRUE(test::same_bits(logits(*restored, kRead, kTokens, 9), rest_)) << at(page);

    const auto small = pool(page, true);
    ASSERT_TRUE(small->tier_counts());
    PagedCache limited(small, kTokens);
    EXPECT_TRUE(test::same_bits(logits(limited, 0, kTokens, 50), expected_)) << at(page);
    EXPECT_GT(small->tier_counts()->bytes_read, 0);
    limited.truncate(0);
    const auto reopened = SavedCache("saved").load(small, kTokens);
    EXPECT_TRUE(test::same_bits(logits(*reopened, kRead, kTokens, 20), rest_)) << at(page);
    // And what the limited one saves is what the other saved.
    reopened->truncate(kRead);
    cache::save_cache(*reopened, "again", "small", 1);
    EXPECT_TRUE(files_.content("again") == files_.content("saved")) << at(page);
  }
}

TEST_P(CacheLogits, I7_PAG_21_of_a_batch_are_those_of_each_alone) {
  const auto shared = pool(16);
  PagedCache document(shared, kTokens);
  logits(document, 0, kRead, 64);
  std::vector<std::unique_ptr<PagedCache>> forks;
  std::vector<PagedCache*> members;
  for (int b = 0; b < 3; ++b) {
    forks.push_back(document.fork_paged());
    members.push_back(forks.back().get());
  }
  for (std::int64_t n = kRead; n < kTokens; ++n) {
    cache::PagedBatch batch(members, {1, 1, 1});
    const std::vector<std::int32_t> ids(3, ids_[static_cast<std::size_t>(n)]);
    const Tensor hidden_ND = model_->forward(ids, batch);
    const Tensor logits_NV = model_->logits(hidden_ND);
    for (std::int64_t b = 0; b < 3; ++b)
      ASSERT_EQ(std::memcmp(logits_NV.data<float>() + b * 40, expected_.data() + n * 40, 160), 0)
          << "sequence " << b << ", token " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, CacheLogits, testing::ValuesIn(kKvForms),
                         [](const auto& form) { return std::string(to_string(form.param)); });

}  // namespace
}  // namespace quire::model

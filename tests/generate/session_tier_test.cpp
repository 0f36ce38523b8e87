// Sessions whose cache lies partly on a disk that spoils what it holds: the lost part is read
// again, and the answer is the one of a session that never lost anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "quire/base/error.h"
#include "quire/cache/paged.h"
#include "quire/generate/answers.h"
#include "quire/generate/session.h"
#include "tests/generate/fake_model.h"
#include "tests/support/memory_scratch.h"
#include "tests/support/stalling_scratch.h"

namespace quire::generate {
namespace {

using testing::ElementsAreArray;
using Ids = std::vector<std::int32_t>;

/// Spoils every n-th record that is read, for good; with 1 all that is ever read, with 0 nothing.
class Spoiling final : public test::MemoryScratch {
 public:
  explicit Spoiling(const int& every) : every_(every) {}
  void read(std::span<Transfer> transfers) override {
    for (Transfer& t : transfers) {
      if (every_ > 1 && ++count_ % every_ == 0) flip(t.offset + 200);
    }
    MemoryScratch::read(transfers);
    for (Transfer& t : transfers) {
      if (every_ == 1) t.parts[0][103] ^= std::byte{1};
    }
  }

 private:
  const int& every_;
  int count_ = 0;
};

constexpr std::int64_t kLayers = 6, kWidth = 32, kVocabulary = 320;

/// Layers of attention and nothing else, over random embeddings.
class SmallModel final : public model::Model {
 public:
  SmallModel() : embedding_VD_(Tensor::empty({kVocabulary, kWidth}, DType::kF32)) {
    Rng rng(7);
    for (std::int64_t i = 0; i < embedding_VD_.elements(); ++i)
      embedding_VD_.mutable_data<float>()[i] = rng.normal();
  }
  const model::ModelFile& file() const override { throw std::logic_error("it has no file"); }
  model::Mode mode() const override { return model::Mode::kExact; }
  std::int64_t weight_bytes() const override { return 0; }

  Tensor forward(std::span<const std::int32_t> ids, cache::KvCache& cache) const override {
    const auto N = static_cast<std::int64_t>(ids.size());
    fed += N;
    Tensor hidden_ND = Tensor::empty({N, kWidth}, DType::kF32);
    float* hidden = hidden_ND.mutable_data<float>();
    for (std::int64_t n = 0; n < N; ++n)
      std::copy_n(embedding_VD_.data<float>() + ids[static_cast<std::size_t>(n)] * kWidth, kWidth,
                  hidden + n * kWidth);
    cache.begin_step(ids);
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      const Tensor all = hidden_ND.contiguous_copy().view({N, 1, kWidth});
      cache.append(layer, all, all);
      const Tensor seen = cache.attend(layer, all);
      for (std::int64_t i = 0; i < N * kWidth; ++i)
        hidden[i] = 0.7f * hidden[i] + seen.data<float>()[i];
    }
    cache.advance(N);
    return hidden_ND;
  }
  Tensor logits(const Tensor& hidden_ND) const override {
    Tensor out = Tensor::zeros({hidden_ND.size(0), kVocabulary}, DType::kF32);
    for (std::int64_t v = 0; v < kVocabulary; ++v)
      for (std::int64_t d = 0; d < kWidth; ++d)
        out.mutable_data<float>()[v] +=
            hidden_ND.data<float>()[d] * embedding_VD_.data<float>()[v * kWidth + d];
    return out;
  }

  mutable std::int64_t fed = 0;  // tokens

 private:
  Tensor embedding_VD_;
};

class SessionTier : public testing::Test {
 protected:
  SessionTier() {
    Rng rng(1);
    while (document_.size() < 200)
      document_.push_back(static_cast<std::int32_t>(rng.below(kVocabulary)));
    std::vector<std::string> tokens;
    for (std::int32_t id = 0; id < kVocabulary; ++id) tokens.push_back(concat("t", id, " "));
    tokenizer_ = std::make_shared<test::FakeTokenizer>(tokens);
    spec_.max_tokens = 40;
  }

  Session session(cache::MemoryLimit memory, std::int64_t budget = 256) {
    cache::PagedSpec spec;
    cache::LayerSpec layer{1, 1, kWidth, kWidth, {}};
    spec.layers.assign(kLayers, layer);
    spec.kv = DType::kF16;
    spec.budget_tokens = budget;
    spec.page_tokens = 16;
    spec.memory = memory;
    if (spec.memory.ram_bytes > 0) spec.memory.ram_bytes = least_ram_bytes(spec);
    pool_ = std::make_shared<cache::PagedPool>(spec);
    return Session(model_, tokenizer_, std::make_unique<cache::PagedCache>(pool_, 256), {});
  }
  std::vector<std::int32_t> answer(Session session) {
    session.read(document_, {}, 50);
    return session.generate(spec_).ids;
  }

  SmallModel model_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  test::Gate gate_;  // of disks that stall; they end before it
  std::shared_ptr<cache::PagedPool> pool_;
  Ids document_;
  GenerateSpec spec_;
};

TEST_F(SessionTier, I7_I24_what_a_disk_loses_is_read_again) {
  const auto expected = answer(session({}));
  int every = 0;
  const test::ScratchFileOps ops(
      [&](const std::string&) { return std::make_unique<Spoiling>(every); });
  EXPECT_THAT(answer(session({1, "/tmp", 0})), ElementsAreArray(expected));
  ASSERT_TRUE(pool_->tier_counts());
  EXPECT_EQ(pool_->tier_counts()->lost, 0);
  every = 601;
  EXPECT_THAT(answer(session({1, "/tmp", 0})), ElementsAreArray(expected));
  EXPECT_GT(pool_->tier_counts()->lost, 0);
}

TEST_F(SessionTier, D10_a_disk_that_stalls_changes_no_id) {
  const auto expected = answer(session({}));
  const test::ScratchFileOps ops([&](const std::string&) {
    return std::make_unique<test::StallingScratch>(gate_, test::StallingScratch::Stalls::kReads);
  });
  for (const std::int64_t given_up : {1, 2}) {
    Session stalls = session({1, "/tmp", 0, 200});
    stalls.read(document_, {}, 50);
    gate_.close_after(30);
    const test::OpensWhen opener(gate_, [&] { return pool_->tier_counts()->given_up >= given_up; });
    EXPECT_THAT(stalls.generate(spec_).ids, ElementsAreArray(expected));
    EXPECT_GT(pool_->tier_counts()->given_up, 0);
    if (given_up == 2) {
      EXPECT_GT(pool_->tier_counts()->lost, 0) << "the second try was in vain too";
    }
  }
}

class QuestionsTier : public SessionTier {
 protected:
  QuestionsTier() {
    Rng rng(2);
    for (const std::size_t length : {1u, 9u, 20u, 3u, 17u}) {
      Ids ids;
      while (ids.size() < length) ids.push_back(static_cast<std::int32_t>(rng.below(kVocabulary)));
      questions_.push_back(ids);
    }
    spec_.max_tokens = 20;
  }

  Session with_document(cache::MemoryLimit memory) {
    Session out = session(memory, 448);
    out.read(document_, {}, 50);
    return out;
  }
  /// The ids of all answers. What is streamed is told once.
  std::vector<Ids> answers(Session document) {
    std::vector<std::string> streamed(questions_.size());
    AnswerEvents events;
    events.text = [&](std::size_t question, std::string_view text) {
      streamed[question] += text;
      return true;
    };
    std::vector<Ids> out;
    for (const GenerateResult& result : answer_each(document, questions_, spec_, events)) {
      EXPECT_EQ(streamed[out.size()], result.text);
      out.push_back(result.ids);
    }
    return out;
  }

  std::vector<Ids> questions_;
};

TEST_F(QuestionsTier, I7_I24_PAG_21_what_a_disk_loses_of_a_batch_is_read_again) {
  const auto expected = answers(with_document({}));
  ASSERT_THAT(expected, testing::Each(testing::SizeIs(20)));
  int every = 0, lost = 0;
  const test::ScratchFileOps ops(
      [&](const std::string&) { return std::make_unique<Spoiling>(every); });
  for (const int each : {0, 2'003, 997, 401}) {
    every = each;
    EXPECT_EQ(answers(with_document({1, "/tmp", 0})), expected) << each;
    ASSERT_TRUE(pool_->tier_counts());
    EXPECT_EQ(pool_->tier_counts()->lost > 0, each > 0) << each;
    lost += static_cast<int>(pool_->tier_counts()->lost);
  }
  EXPECT_GT(lost, 5);
}

TEST_F(QuestionsTier, a_lost_page_of_the_document_is_read_once_for_all_answers) {
  const auto expected = answers(with_document({}));
  test::MemoryScratch* disk = nullptr;
  const test::ScratchFileOps ops([&](const std::string&) {
    auto made = std::make_unique<test::MemoryScratch>();
    disk = made.get();
    return made;
  });
  std::int64_t own = 0;
  for (const Ids& question : questions_) own += std::ssize(question) + spec_.max_tokens;
  Session document = with_document({1, "/tmp", 0});
  const auto page = dynamic_cast<cache::PagedCache&>(document.cache()).table()[1];
  for (std::int64_t layer = 0; layer < kLayers; ++layer)
    disk->flip(static_cast<std::size_t>(
        (layer * pool_->counts().blocks + page) * pool_->tier_counts()->record_bytes + 200));
  model_.fed = 0;
  EXPECT_EQ(answers(document), expected);
  EXPECT_EQ(pool_->tier_counts()->lost, 1);
  EXPECT_GT(model_.fed, own);
  EXPECT_LE(model_.fed, own + std::ssize(document_) + own) << "each would read 200 tokens";
  EXPECT_EQ(document.cache().length(), std::ssize(document_));
}

TEST_F(QuestionsTier, D10_a_disk_that_stalls_changes_no_answer) {
  const auto expected = answers(with_document({}));
  const test::ScratchFileOps ops([&](const std::string&) {
    return std::make_unique<test::StallingScratch>(gate_, test::StallingScratch::Stalls::kReads);
  });
  Session stalls = with_document({1, "/tmp", 0, 200});
  gate_.close_after(40);
  const test::OpensWhen opener(gate_, [&] { return pool_->tier_counts()->given_up >= 2; });
  EXPECT_EQ(answers(stalls), expected);
  EXPECT_GT(pool_->tier_counts()->lost, 0);
}

TEST_F(QuestionsTier, a_disk_that_loses_everything_ends_the_batch) {
  int every = 0;
  const test::ScratchFileOps ops(
      [&](const std::string&) { return std::make_unique<Spoiling>(every); });
  Session document = with_document({1, "/tmp", 0});
  every = 1;
  EXPECT_THROW(answers(document), IoError);
}

TEST_F(SessionTier, a_disk_that_loses_everything_is_given_up) {
  const int every = 1;
  const test::ScratchFileOps ops(
      [&](const std::string&) { return std::make_unique<Spoiling>(every); });
  EXPECT_THROW(answer(session({1, "/tmp", 0})), IoError);
}

}  // namespace
}  // namespace quire::generate

// The real model on the beginning of the licence: what must hold whatever the machine.
#include "tests/support/real_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "quire/cache/policies/policies.h"
#include "quire/eval/compare.h"
#include "quire/eval/fidelity.h"
#include "quire/eval/tasks.h"
#include "quire/text/tokenizer.h"

namespace quire::eval {
namespace {

using testing::Each;

class RealModel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ =
        model::Model::load(model::ModelFile::open(test::real_model()), {model::Mode::kFast, {}});
    tokenizer_ = text::Tokenizer::make(model_->file().tokenizer_spec());
    std::ifstream file("/usr/share/common-licenses/GPL-3", std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    ids_ = tokenizer_->encode(text.str(), text::Origin::kData);
    ids_.resize(1200);
    reading_ = std::move(*read_text(*model_, ids_, 96, DType::kF16, 0));
  }
  static void TearDownTestSuite() {
    reading_ = Reading();
    model_.reset();
  }

  static Candidate policy(const std::string& name, double fraction, DType kv = DType::kF16) {
    return {name, "", [=](std::int64_t document, std::int64_t capacity) {
              cache::Budget budget;
              budget.tokens = static_cast<std::int64_t>(fraction * static_cast<double>(document));
              return cache::make_policy_cache(name, budget, model_->paged_spec(kv).layers, capacity,
                                              kv);
            }};
  }
  static Row row(const Candidate& candidate) {
    const Comparison window = *compare(*model_, reading_, policy("window", 0.1));
    return summarise(candidate, *compare(*model_, reading_, candidate), far_positions(window));
  }

  static std::unique_ptr<model::Model> model_;
  static std::shared_ptr<const text::Tokenizer> tokenizer_;
  static std::vector<std::int32_t> ids_;
  static Reading reading_;
};

std::unique_ptr<model::Model> RealModel::model_;
std::shared_ptr<const text::Tokenizer> RealModel::tokenizer_;
std::vector<std::int32_t> RealModel::ids_;
Reading RealModel::reading_;

TEST_F(RealModel, TheFullCacheIsExactAndEightBitsAreNearly) {
  const Comparison full = *compare(*model_, reading_, policy("full", 1));
  EXPECT_THAT(full.kl, Each(0.0));
  const Row int8 = row(policy("int8", 1));
  EXPECT_GT(int8.kl_mean, 0);
  EXPECT_LE(int8.kl_mean, 3e-4);
  EXPECT_LT(static_cast<double>(int8.bytes_stored), 0.55 * static_cast<double>(full.bytes_stored));
}

TEST_F(RealModel, TheOracleIsTheCeilingAndTheWindowTheFloor) {
  const Row window = row(policy("window", 0.1)), oracle = row(policy("oracle", 0.1));
  EXPECT_LT(5 * oracle.kl_mean, window.kl_mean);
  EXPECT_LT(oracle.dnll_far, window.dnll_far);
  EXPECT_LT(oracle.kl_interval.high, window.kl_interval.low);
  const Fidelity seen = *fidelity(reading_, DType::kF16, policy("window", 0.1));
  const Fidelity best = *fidelity(reading_, DType::kF16, policy("oracle", 0.1));
  EXPECT_GT(best.mass_mean, seen.mass_mean);
  EXPECT_LT(best.error_mean, seen.error_mean);
}

TEST_F(RealModel, FindsThePasskeyOnlyWhereItIsKept) {
  const Task task = passkey_task(*tokenizer_, ids_, {4, 1, 600, 0});
  const std::vector<Candidate> candidates{policy("full", 1), policy("window", 0.1),
                                          policy("oracle", 0.2)};
  const auto scores = *run_task(*model_, task, DType::kF16, candidates);
  EXPECT_GE(scores[0].cells, 3);
  EXPECT_EQ(scores[0].passed, scores[0].cells);
  EXPECT_LE(scores[1].passed, 1) << "only a key in the window can be read there";
  EXPECT_GE(scores[2].passed, scores[2].cells - 1);
}

}  // namespace
}  // namespace quire::eval

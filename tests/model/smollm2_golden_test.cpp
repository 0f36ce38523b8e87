// SmolLM2-135M-Instruct over the licence text, against double precision (tests/goldens/README.md).
// Needs the model of scripts/fetch_model smollm2.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "quire/base/file_ops.h"
#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "tests/model/model_runs.h"
#include "tests/support/real_model.h"

namespace quire::model {
namespace {

constexpr std::int64_t kSlice = 64;               // rows whose logits are in memory at once
constexpr std::int64_t kFirst = 7, kEnd = 2'048;  // positions at which the modes are compared

/// Everything below shares one reading of the text: it is most of the time.
struct Shared {
  std::unique_ptr<Model> exact, fast;
  Tensor ids_N, at_P, truth_PV, truth_nll;
  std::vector<float> hidden;  // of exact mode, [N, D]

  std::span<const std::int32_t> ids() const {
    return {ids_N.data<std::int32_t>(), static_cast<std::size_t>(ids_N.elements())};
  }
};

Shared read_everything() {
  Shared s;
  const auto file = ModelFile::open(test::real_model());
  s.exact = Model::load(file, {Mode::kExact, {}});
  s.fast = Model::load(file, {Mode::kFast, {}});
  const io::SafetensorsFile golden(test::golden_path("smollm2-135m/gpl3.safetensors"));
  s.ids_N = golden.read("ids");
  s.at_P = golden.read("at");
  s.truth_PV = golden.read("logits");
  s.truth_nll = golden.read("nll");
  s.hidden = test::run(*s.exact, s.ids(), 256);
  return s;
}

class SmolLm2 : public testing::Test {
 protected:
  static Shared& shared() {
    static Shared s = read_everything();
    return s;
  }
  static Tensor rows(std::vector<float>& hidden, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t D = 576;
    return Tensor::wrap(hidden.data() + begin * D, {end - begin, D}, DType::kF32);
  }
};

double log_sum(const float* logits, std::int64_t V) {
  const double largest = double{*std::max_element(logits, logits + V)};
  double sum = 0;
  for (std::int64_t v = 0; v < V; ++v) sum += std::exp(double{logits[v]} - largest);
  return largest + std::log(sum);
}

/// KL(p ‖ q) of the distributions that two rows of logits stand for.
double divergence(const float* p, const float* q, std::int64_t V) {
  const double p_sum = log_sum(p, V), q_sum = log_sum(q, V);
  double kl = 0;
  for (std::int64_t v = 0; v < V; ++v) {
    const double log_p = double{p[v]} - p_sum;
    kl += std::exp(log_p) * (log_p - (double{q[v]} - q_sum));
  }
  return kl;
}

TEST_F(SmolLm2, exact_logits_agree_with_double_precision_over_the_whole_context) {
  Shared& s = shared();
  ASSERT_EQ(s.at_P.elements(), 6);
  const std::int64_t V = s.truth_PV.size(1);
  ASSERT_EQ(V, 49'152);
  for (std::int64_t p = 0; p < s.at_P.elements(); ++p) {
    const std::int64_t at = s.at_P.data<std::int32_t>()[p];
    const Tensor logits = s.exact->logits(rows(s.hidden, at, at + 1));
    const double error = test::nmse(logits.data<float>(), s.truth_PV.data<float>() + p * V, V);
    std::cout << "position " << at << ": NMSE " << error << "\n";
    EXPECT_LE(error, 1e-10) << "position " << at;
  }
  EXPECT_EQ(s.at_P.data<std::int32_t>()[5], 7'638);
}

TEST_F(SmolLm2, exact_likelihood_of_every_token) {
  Shared& s = shared();
  const std::int64_t N = s.ids_N.elements(), V = s.truth_PV.size(1);
  ASSERT_EQ(s.truth_nll.elements(), N - 1);
  std::vector<double> nll(static_cast<std::size_t>(N - 1));
  for (std::int64_t begin = 0; begin < N - 1; begin += kSlice) {
    const std::int64_t end = std::min(begin + kSlice, N - 1);
    const Tensor logits = s.exact->logits(rows(s.hidden, begin, end));
    const float* data = logits.data<float>();
    thread_pool().run(end - begin, [&](std::int64_t row) {
      const auto next = s.ids()[static_cast<std::size_t>(begin + row + 1)];
      nll[static_cast<std::size_t>(begin + row)] =
          log_sum(data + row * V, V) - double{data[row * V + next]};
    });
  }
  double sum = 0, truth_sum = 0, largest = 0;
  for (std::int64_t i = 0; i < N - 1; ++i) {
    const double own = nll[static_cast<std::size_t>(i)], truth = s.truth_nll.data<double>()[i];
    ASSERT_NEAR(own, truth, 5e-4) << "token " << i + 1;
    largest = std::max(largest, std::abs(own - truth));
    sum += own;
    truth_sum += truth;
  }
  const double count = static_cast<double>(N - 1);
  std::cout << "NLL: largest error " << largest << ", of the mean "
            << std::abs(sum - truth_sum) / count << ", perplexity " << std::exp(sum / count)
            << "\n";
  EXPECT_NEAR(sum / count, truth_sum / count, 1e-6);
  EXPECT_NEAR(std::exp(sum / count), 15.62094, 0.00005);
}

TEST_F(SmolLm2, greedy_continuations_are_the_golden_ones) {
  const std::string path = test::golden_path("smollm2-135m/gpl3.greedy.json");
  const auto file = file_ops().open(path);
  std::string text(file->size(), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(text)));
  const Json prompts = Json::parse(text, path);
  ASSERT_GE(prompts.as_array().size(), 3u);
  for (const Json& prompt : prompts.as_array()) {
    std::vector<std::int32_t> ids, golden;
    std::vector<double> gaps;
    for (const Json& id : prompt.find("ids")->as_array())
      ids.push_back(static_cast<std::int32_t>(id.as_int()));
    for (const Json& id : prompt.find("continuation")->as_array())
      golden.push_back(static_cast<std::int32_t>(id.as_int()));
    for (const Json& gap : prompt.find("gap")->as_array()) gaps.push_back(gap.as_double());
    ASSERT_EQ(golden.size(), gaps.size());
    golden.resize(test::clear_steps(gaps));
    ASSERT_GE(golden.size(), 8u);
    EXPECT_EQ(test::greedy(*shared().exact, ids, golden.size()), golden)
        << prompt.find("text")->as_string();
  }
}

TEST_F(SmolLm2, fast_mode_stays_close_to_exact_mode) {
  Shared& s = shared();
  std::vector<float> hidden = test::run(*s.fast, s.ids().first(kEnd), 256);
  const std::int64_t V = s.truth_PV.size(1);
  std::vector<double> kl(kEnd - kFirst);
  for (std::int64_t begin = kFirst; begin < kEnd; begin += kSlice) {
    const std::int64_t end = std::min(begin + kSlice, kEnd);
    const Tensor exact = s.exact->logits(rows(s.hidden, begin, end)),
                 fast = s.fast->logits(rows(hidden, begin, end));
    const float *p = exact.data<float>(), *q = fast.data<float>();
    thread_pool().run(end - begin, [&](std::int64_t row) {
      kl[static_cast<std::size_t>(begin - kFirst + row)] = divergence(p + row * V, q + row * V, V);
    });
  }
  double sum = 0, squares = 0;
  for (const double x : kl) {
    EXPECT_GE(x, -1e-9);
    sum += x;
    squares += x * x;
  }
  const double count = static_cast<double>(kl.size()), mean = sum / count;
  const double error = std::sqrt((squares / count - mean * mean) / (count - 1));
  std::cout << "KL of fast mode to exact mode, positions " << kFirst << " to " << kEnd - 1 << ": "
            << mean << " ± " << error << "\n";
  EXPECT_LE(mean, 3.0e-3);
  EXPECT_GT(mean, 1e-6) << "the two modes compute the same: one of them is not what it says";
}

TEST_F(SmolLm2, chunks_and_threads_do_not_change_a_bit) {
  const std::span<const std::int32_t> prompt = shared().ids().first(300);
  for (const Model* model : {shared().exact.get(), shared().fast.get()}) {
    std::vector<float> expected, expected_logits;
    for (const int threads : {1, 2}) {
      const test::Threads set(threads);
      for (const std::size_t chunk : {256u, 7u, 1u}) {
        std::vector<float> hidden = test::run(*model, prompt, chunk);
        // The head takes 20 rows of logits in the same portions.
        std::vector<float> logits;
        const auto portion = static_cast<std::int64_t>(chunk);
        for (std::int64_t begin = 280; begin < 300; begin += portion) {
          const Tensor part =
              model->logits(rows(hidden, begin, std::min<std::int64_t>(begin + portion, 300)));
          logits.insert(logits.end(), part.data<float>(), part.data<float>() + part.elements());
        }
        if (expected.empty()) expected = hidden, expected_logits = logits;
        const char* mode = model->mode() == Mode::kExact ? "exact" : "fast";
        EXPECT_TRUE(test::same_bits(hidden, expected)) << mode << " " << chunk << " " << threads;
        EXPECT_TRUE(test::same_bits(logits, expected_logits))
            << mode << " " << chunk << " " << threads;
      }
    }
  }
}

TEST_F(SmolLm2, what_the_cache_held_before_does_not_matter) {
  const std::span<const std::int32_t> ids = shared().ids();
  const Model& model = *shared().fast;
  const auto cache = model.make_cache(400, model.default_kv());
  test::run(model, ids.first(100), *cache, 256);
  test::run(model, ids.subspan(1'000, 300), *cache, 256);
  cache->truncate(100);
  const std::vector<float> rest = test::run(model, ids.subspan(100, 100), *cache, 256);
  const std::vector<float> whole = test::run(model, ids.first(200), 256);
  EXPECT_TRUE(test::same_bits(rest, {whole.begin() + 100 * 576, whole.end()}));
}

}  // namespace
}  // namespace quire::model

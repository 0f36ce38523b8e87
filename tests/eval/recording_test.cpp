#include "quire/eval/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

using testing::ElementsAreArray;

class Recorded : public testing::Test {
 protected:
  std::unique_ptr<model::Model> model = test::tiny_llama();
  std::vector<std::int32_t> ids = test::random_ids(90, 320);

  RecordingCache record(std::int64_t capacity, std::int64_t queries_from) const {
    return {model->paged_spec(DType::kF32).layers, capacity, DType::kF32, queries_from};
  }
  static bool same_bits(const Tensor& a, const Tensor& b) {
    const Tensor x = a.contiguous_copy(), y = b.contiguous_copy();
    return x.shape() == y.shape() &&
           std::memcmp(x.data<float>(), y.data<float>(), static_cast<std::size_t>(x.bytes())) == 0;
  }
};

TEST_F(Recorded, IsAnExactCache) {
  RecordingCache recording = record(100, 0);
  const auto plain = model->make_cache(100, DType::kF32);
  const Tensor a = model->forward(ids, recording), b = model->forward(ids, *plain);
  EXPECT_TRUE(same_bits(a, b));
  EXPECT_EQ(recording.length(), 90);
  EXPECT_EQ(recording.bytes(), plain->bytes());
  EXPECT_EQ(recording.report().bytes_stored, plain->bytes()) << "what it remembers counts nowhere";
  EXPECT_THAT(recording.ids(), ElementsAreArray(ids));
}

TEST_F(Recorded, KeepsWhatTheModelComputedHoweverItWasCut) {
  RecordingCache whole = record(90, 0), cut = record(90, 50);
  model->forward(ids, whole);
  for (std::size_t begin = 0; begin < ids.size(); begin += 7)
    model->forward(std::span(ids).subspan(begin, std::min<std::size_t>(7, ids.size() - begin)),
                   cut);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_TRUE(same_bits(whole.k_NGK(layer, 0, 90), cut.k_NGK(layer, 0, 90)));
    EXPECT_TRUE(same_bits(whole.v_NGU(layer, 3, 80), cut.v_NGU(layer, 3, 80)));
    EXPECT_TRUE(same_bits(whole.q_NHK(layer, 50, 90), cut.q_NHK(layer, 50, 90)));
  }
  EXPECT_EQ(whole.q_NHK(1, 0, 90).shape(), (Shape{90, 4, 16}));
  EXPECT_THROW(cut.q_NHK(0, 49, 90), ArgumentError) << "queries that were not kept";
  EXPECT_THROW(cut.k_NGK(0, 0, 91), ArgumentError);
  EXPECT_THROW(cut.k_NGK(2, 0, 1), ArgumentError);
}

TEST_F(Recorded, ReplaysToAnotherCacheAsIfItHadRead) {
  RecordingCache recording = record(90, 90);
  model->forward(ids, recording);
  const auto read = model->make_cache(100, DType::kF32),
             given = model->make_cache(100, DType::kF32);
  model->forward(std::span(ids).first(80), *read);
  std::vector<std::int64_t> done;
  EXPECT_TRUE(replay(recording, 80, *given, 80, 32, [&](std::int64_t tokens) {
    done.push_back(tokens);
    return true;
  }));
  EXPECT_THAT(done, testing::ElementsAre(32, 64, 80));
  EXPECT_EQ(given->length(), 80);
  const std::int32_t next = 17;
  EXPECT_TRUE(same_bits(model->forward({&next, 1}, *read), model->forward({&next, 1}, *given)));
}

TEST_F(Recorded, ReplayAsksWithTheQueriesThatACacheWants) {
  RecordingCache recording = record(90, 0);
  model->forward(ids, recording);
  for (const char* name : {"h2o", "snapkv", "expected_attention", "quest"}) {
    const Candidate candidate = test::policy(*model, name, 70);
    const auto read = candidate.make(80, 100), given = candidate.make(80, 100);
    model->forward(std::span(ids).first(80), *read);
    replay(recording, 80, *given, first_query_wanted(*given, 80));
    read->end_reading();
    given->end_reading();
    const std::int32_t next = 17;
    EXPECT_TRUE(same_bits(model->forward({&next, 1}, *read), model->forward({&next, 1}, *given)))
        << name;
  }
}

TEST_F(Recorded, StopsAndRefuses) {
  RecordingCache recording = record(90, 40);
  model->forward(std::span(ids).first(60), recording);
  const auto to = model->make_cache(100, DType::kF32);
  EXPECT_FALSE(replay(recording, 60, *to, 60, 8, [](std::int64_t done) { return done < 16; }));
  EXPECT_EQ(to->length(), 16);
  EXPECT_THROW(replay(recording, 61, *to, 61), ArgumentError);
  EXPECT_THROW(replay(recording, 10, *to, 10), ArgumentError) << "it holds more already";
  EXPECT_THROW(replay(recording, 60, *to, 60, 0), ArgumentError);
  EXPECT_THROW(replay(recording, 60, *to, 20), ArgumentError) << "queries that were not kept";
  EXPECT_THROW(record(10, 11), ArgumentError);
  EXPECT_THROW(record(0, 0), ArgumentError);
  RecordingCache small = record(10, 0);
  EXPECT_THROW(model->forward(std::span(ids).first(11), small), ArgumentError);
}

TEST_F(Recorded, TruncatedAndReadOnItIsTheNewText) {
  RecordingCache recording = record(90, 0), fresh = record(90, 0);
  model->forward(ids, recording);
  recording.truncate(30);
  const std::vector<std::int32_t> other = test::random_ids(40, 320, 9);
  model->forward(other, recording);
  std::vector<std::int32_t> text(ids.begin(), ids.begin() + 30);
  text.insert(text.end(), other.begin(), other.end());
  model->forward(text, fresh);
  EXPECT_THAT(recording.ids(), ElementsAreArray(text));
  EXPECT_TRUE(same_bits(recording.k_NGK(1, 0, 70), fresh.k_NGK(1, 0, 70)));
  EXPECT_TRUE(same_bits(recording.q_NHK(1, 0, 70), fresh.q_NHK(1, 0, 70)));
}

TEST(RecordingBytes, CountKeysValuesAndQueries) {
  const std::vector<cache::LayerSpec> layers{{.H = 4, .G = 2, .K = 16, .U = 8, .attention = {}}};
  EXPECT_EQ(recording_bytes(layers, 10, 0), 10 * 2 * (16 + 8) * 4);
  EXPECT_EQ(recording_bytes(layers, 10, 3), 10 * 2 * (16 + 8) * 4 + 3 * 4 * 16 * 4);
}

}  // namespace
}  // namespace quire::eval

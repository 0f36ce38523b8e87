#include "quire/eval/reading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "tests/eval/tiny.h"
#include "tests/support/message_of.h"

namespace quire::eval {
namespace {

using testing::HasSubstr;

TEST(ReadText, KeepsWhatTheFullCacheSaysAtEachPosition) {
  const auto model = test::tiny_llama();
  const std::vector<std::int32_t> ids = test::random_ids(120, 320);
  std::vector<std::int64_t> done;
  const auto reading = read_text(*model, ids, 30, DType::kF32, 89, [&](std::int64_t tokens) {
    done.push_back(tokens);
    return true;
  });
  ASSERT_TRUE(reading.has_value());
  EXPECT_THAT(done, testing::ElementsAre(89, 119));
  EXPECT_EQ(reading->document, 89);
  EXPECT_EQ(reading->recording->length(), 119) << "nobody continues the last token";
  const auto cache = model->make_cache(120, DType::kF32);
  const Tensor whole_ND = model->forward(std::span(ids).first(119), *cache);
  const Tensor wanted = whole_ND.slice(0, 89, 119).contiguous_copy();
  ASSERT_EQ(reading->hidden_ND.shape(), wanted.shape());
  EXPECT_EQ(std::memcmp(reading->hidden_ND.data<float>(), wanted.data<float>(),
                        static_cast<std::size_t>(wanted.bytes())),
            0);
}

TEST(ReadText, RefusesTextsThatAreTooShortOrTooLong) {
  const auto model = test::tiny_llama();
  const auto ids = test::random_ids(400, 320);
  const auto read = [&](std::size_t tokens, std::int64_t positions, std::int64_t queries_from) {
    return read_text(*model, std::span(ids).first(tokens), positions, DType::kF32, queries_from);
  };
  EXPECT_THAT(test::message_of<ArgumentError>([&] { read(31, 30, 0); }),
              HasSubstr("the text has 31 tokens; 30 positions need at least 32"));
  EXPECT_THAT(test::message_of<ArgumentError>([&] { read(258, 30, 0); }),
              HasSubstr("the text has 258 tokens, but this model's context is 256"));
  EXPECT_THROW(read(100, 0, 0), ArgumentError);
  EXPECT_THROW(read(100, 30, 70), ArgumentError) << "queries of all positions are needed";
  EXPECT_TRUE(read(257, 255, 1).has_value()) << "the last token is never fed";
}

TEST(ReadText, StopsWhenAsked) {
  const auto model = test::tiny_llama();
  const auto ids = test::random_ids(100, 320);
  EXPECT_FALSE(
      read_text(*model, ids, 10, DType::kF32, 0, [](std::int64_t) { return false; }).has_value());
}

}  // namespace
}  // namespace quire::eval

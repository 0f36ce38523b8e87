#include "quire/generate/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "quire/base/error.h"
#include "tests/generate/fake_model.h"

namespace quire::generate {
namespace {

using test::FakeCache;
using test::FakeModel;
using test::FakeTokenizer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

using Ids = std::vector<std::int32_t>;

const std::vector<std::string> kTokens = {"a",        "b",        "c",  " ", "<|end|>",
                                          "\xf0\x9f", "\x99\x82", "EN", "D", "<|user|>"};
constexpr std::int32_t kEnd = 4;
constexpr std::int64_t V = 12;  // two more than the tokenizer has

std::vector<float> one_hot(std::int32_t id) {
  std::vector<float> out(V, 0.0f);
  out[static_cast<std::size_t>(id)] = 10;
  return out;
}

/// Says `script` after a prompt of `prompt` tokens, then the end token for ever.
FakeModel scripted(std::size_t prompt, Ids script) {
  return FakeModel(V, [=](std::span<const std::int32_t> ids) {
    const std::size_t at = ids.size() - prompt;
    return one_hot(at < script.size() ? script[at] : kEnd);
  });
}

/// Any token, by a hash of everything before: one id more or less and the answer is another.
FakeModel hashed() {
  return FakeModel(V, [](std::span<const std::int32_t> ids) {
    std::uint64_t hash = 1469598103934665603u;
    for (const std::int32_t id : ids)
      hash = (hash ^ static_cast<std::uint64_t>(id)) * 1099511628211u;
    std::vector<float> out(V);
    for (std::size_t v = 0; v < V; ++v) out[v] = static_cast<float>((hash >> (4 * v)) % 64) / 16;
    return out;
  });
}

Session session(const FakeModel& model, std::int64_t context = 100) {
  return Session(model, std::make_shared<FakeTokenizer>(kTokens),
                 std::make_unique<FakeCache>(context), {kEnd});
}

std::vector<float> values(const Tensor& x) {
  return {x.data<float>(), x.data<float>() + x.elements()};
}

TEST(Session, ReadsInChunks) {
  const FakeModel model = scripted(10, {});
  Session s = session(model);
  std::vector<std::int64_t> done;
  EXPECT_TRUE(s.read(
      Ids(10, 1),
      [&](std::int64_t n) {
        done.push_back(n);
        return true;
      },
      4));
  EXPECT_THAT(model.calls, ElementsAre(4, 4, 2));
  EXPECT_THAT(done, ElementsAre(4, 8, 10));
  EXPECT_EQ(s.ids().size(), 10u);
  EXPECT_EQ(s.cache().length(), 10);
  EXPECT_TRUE(s.read({}));
  EXPECT_THAT(model.rows_of_logits, IsEmpty()) << "nobody asked for logits";
}

TEST(Session, ChunksAreNeverLargerThanTheModelTakes) {
  const FakeModel model = scripted(600, {});
  Session s = session(model, 600);
  s.read(Ids(600, 1), {}, 1'000'000);
  EXPECT_THAT(model.calls, ElementsAre(256, 256, 88));
  EXPECT_THROW(s.read({}, {}, 0), ArgumentError);
}

TEST(Session, StopsReadingWhenAsked) {
  const FakeModel model = scripted(4, {0, 1});
  Session s = session(model);
  EXPECT_FALSE(s.read(
      Ids{0, 1, 2, 3, 0, 1}, [](std::int64_t n) { return n < 4; }, 2));
  EXPECT_THAT(s.ids(), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(s.generate({}).text, "ab") << "what was read stays";
}

TEST(Session, RefusesWhatTheContextCannotHold) {
  const FakeModel model = scripted(0, {});
  Session s = session(model, 8);
  s.read(Ids(5, 1));
  model.calls.clear();
  EXPECT_THAT([&] { s.read(Ids(4, 1)); },
              ThrowsMessage<ArgumentError>(
                  HasSubstr("the prompt has 4 tokens, but the context holds 8 (5 already used)")));
  EXPECT_THAT(model.calls, IsEmpty());
  EXPECT_EQ(s.ids().size(), 5u);
  EXPECT_TRUE(s.read(Ids(3, 1)));
}

TEST(Session, AnUnknownIdLeavesWhatWasRead) {
  const FakeModel model = scripted(0, {});
  Session s = session(model);
  EXPECT_THROW(s.read(Ids{0, 1, 2, 99}, {}, 2), ArgumentError);
  EXPECT_THAT(s.ids(), ElementsAre(0, 1));
}

TEST(Session, NeedsAnEmptyCacheAndSomethingToContinue) {
  const FakeModel model = scripted(0, {});
  auto used = std::make_unique<FakeCache>(4);
  used->ids = {1};
  EXPECT_THROW(Session(model, std::make_shared<FakeTokenizer>(kTokens), std::move(used), {}),
               ArgumentError);
  Session s = session(model);
  EXPECT_THAT([&] { (void)s.last_logits(); },
              ThrowsMessage<ArgumentError>(HasSubstr("nothing has been read")));
  EXPECT_THROW((void)s.generate({}), ArgumentError);
}

/// A cache that cannot give up what it has read, as one that left some of it out.
class KeepingCache : public FakeCache {
 public:
  KeepingCache(std::int64_t capacity, std::int64_t kept) : FakeCache(capacity), kept_(kept) {}
  void truncate(std::int64_t length) override {
    QUIRE_CHECK(length >= kept_, "truncate to ", length, " of ", kept_);
    FakeCache::truncate(length);
  }

 private:
  std::int64_t kept_;
};

TEST(Session, AfterATruncationItReadsOnWithoutReadingTheLastTokenAgain) {
  const FakeModel model = hashed();
  Session s(model, std::make_shared<FakeTokenizer>(kTokens), std::make_unique<KeepingCache>(100, 3),
            {kEnd});
  s.read(Ids{0, 1, 2});
  s.read(Ids{3, 5});
  const Tensor first = s.last_logits();
  s.truncate(3);
  s.read(Ids{6});
  s.truncate(3);
  s.read(Ids{3, 5});
  EXPECT_THAT(std::vector<float>(first.data<float>(), first.data<float>() + V),
              testing::ElementsAreArray(s.last_logits().data<float>(), V));
  s.truncate(3);
  EXPECT_THAT([&] { static_cast<void>(s.last_logits()); },
              ThrowsMessage<ArgumentError>(HasSubstr("truncate to 2 of 3")));
}

TEST(Session, LastLogitsAreThoseOfTheLastToken) {
  const FakeModel model = hashed();
  Session at_once = session(model), one_by_one = session(model);
  const Ids ids = {0, 1, 2, 3, 2, 1};
  at_once.read(ids);
  for (const std::int32_t id : ids) one_by_one.read(Ids{id});
  EXPECT_EQ(values(at_once.last_logits()), values(one_by_one.last_logits()));
  EXPECT_THAT(at_once.last_logits().shape(), ElementsAre(V));
  const std::vector<float> before = values(at_once.last_logits());
  EXPECT_EQ(model.rows_of_logits.size(), 2u) << "computed once, for one row";
  at_once.read(Ids{0});
  EXPECT_NE(values(at_once.last_logits()), before);
}

TEST(Generate, GoesOnUntilAStopToken) {
  const FakeModel model = scripted(2, {0, 3, 1});
  Session s = session(model);
  s.read(Ids{1, 1});
  std::vector<std::string> streamed;
  const GenerateResult result = s.generate({}, [&](std::string_view text) {
    streamed.emplace_back(text);
    return true;
  });
  EXPECT_EQ(result.text, "a b");
  EXPECT_THAT(result.ids, ElementsAre(0, 3, 1));
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_THAT(streamed, ElementsAre("a", " ", "b"));
  EXPECT_THAT(s.ids(), ElementsAre(1, 1, 0, 3, 1)) << "without the stop token";
}

TEST(Generate, StopsAtMaxTokensAndGoesOnFromThere) {
  const FakeModel model = hashed();
  GenerateSpec spec;
  spec.ignore_eos = true;
  Session whole = session(model), parts = session(model);
  whole.read(Ids{1, 2});
  parts.read(Ids{1, 2});
  spec.max_tokens = 9;
  const GenerateResult nine = whole.generate(spec);
  EXPECT_EQ(nine.ids.size(), 9u);
  EXPECT_EQ(nine.finish_reason, FinishReason::kLength);
  Ids joined;
  for (const std::int64_t tokens : {0, 1, 3, 5}) {
    spec.max_tokens = tokens;
    const GenerateResult part = parts.generate(spec);
    EXPECT_EQ(part.finish_reason, FinishReason::kLength);
    joined.insert(joined.end(), part.ids.begin(), part.ids.end());
  }
  EXPECT_EQ(joined, nine.ids);
  EXPECT_EQ(values(parts.last_logits()), values(whole.last_logits()));
  EXPECT_EQ(parts.cache().length(), 11) << "the last token was read when its logits were asked for";
}

TEST(Generate, TheContextIsAnEnd) {
  const FakeModel model = hashed();
  GenerateSpec spec;
  spec.ignore_eos = true;
  Session s = session(model, 6);
  s.read(Ids{1, 2, 3});
  const GenerateResult result = s.generate(spec);
  EXPECT_EQ(result.ids.size(), 3u);
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_EQ(s.ids().size(), 6u);
  EXPECT_THAT(s.generate(spec).ids, IsEmpty());
  Session full = session(model, 2);
  full.read(Ids{1, 2});
  EXPECT_EQ(full.generate(spec).finish_reason, FinishReason::kLength);
}

TEST(Generate, IgnoresEosWhenTold) {
  const FakeModel model = scripted(1, {0, kEnd, 1});
  GenerateSpec spec;
  spec.ignore_eos = true;
  spec.max_tokens = 4;
  Session s = session(model);
  s.read(Ids{1});
  const GenerateResult result = s.generate(spec);
  EXPECT_THAT(result.ids, ElementsAre(0, kEnd, 1, kEnd));
  EXPECT_EQ(result.text, "ab") << "special tokens are not shown";
}

TEST(Generate, AStopStringSplitOverTokens) {
  const FakeModel model = scripted(1, {0, 7, 8, 1});  // "a" "EN" "D" "b"
  GenerateSpec spec;
  spec.stops = {"END"};
  Session s = session(model);
  s.read(Ids{1});
  std::string streamed;
  const GenerateResult result = s.generate(spec, [&](std::string_view text) {
    streamed += text;
    return true;
  });
  EXPECT_EQ(result.text, "a");
  EXPECT_EQ(streamed, "a") << "never a part of the stop";
  EXPECT_THAT(result.ids, ElementsAre(0, 7, 8));
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
}

TEST(Generate, WhatWasNoStopAfterAllIsShown) {
  const FakeModel model = scripted(1, {7, 1, 7});  // "EN" "b" "EN", and the end
  GenerateSpec spec;
  spec.stops = {"END"};
  Session s = session(model);
  s.read(Ids{1});
  std::vector<std::string> streamed;
  const GenerateResult result = s.generate(spec, [&](std::string_view text) {
    streamed.emplace_back(text);
    return true;
  });
  EXPECT_EQ(result.text, "ENbEN");
  EXPECT_THAT(streamed, ElementsAre("", "ENb", "", "EN"));
}

TEST(Generate, CharactersSplitOverTokensStayWhole) {
  const FakeModel model = scripted(1, {5, 6, 5, 0, 5});
  Session s = session(model);
  s.read(Ids{1});
  std::vector<std::string> streamed;
  const GenerateResult result = s.generate({}, [&](std::string_view text) {
    streamed.emplace_back(text);
    return true;
  });
  EXPECT_EQ(result.text,
            "\xf0\x9f\x99\x82\xef\xbf\xbd"
            "a\xef\xbf\xbd");
  EXPECT_THAT(streamed, ElementsAre("", "\xf0\x9f\x99\x82", "",
                                    "\xef\xbf\xbd"
                                    "a",
                                    "", "\xef\xbf\xbd"));
}

TEST(Generate, TheStreamInterrupts) {
  const FakeModel model = scripted(1, {0, 1, 7, 2});
  GenerateSpec spec;
  spec.stops = {"END"};
  Session s = session(model);
  s.read(Ids{1});
  int calls = 0;
  const GenerateResult result = s.generate(spec, [&](std::string_view) { return ++calls < 3; });
  EXPECT_EQ(calls, 3) << "not called again after it said no";
  EXPECT_EQ(result.finish_reason, FinishReason::kInterrupted);
  EXPECT_EQ(result.text, "abEN") << "held text belongs to the answer";
  EXPECT_EQ(s.generate({}).text, "c") << "and the session goes on";
}

TEST(Generate, IdsBeyondTheTokenizerHaveNoText) {
  const FakeModel model = scripted(1, {0, 11, 1});
  Session s = session(model);
  s.read(Ids{1});
  const GenerateResult result = s.generate({});
  EXPECT_EQ(result.text, "ab");
  EXPECT_THAT(result.ids, ElementsAre(0, 11, 1));
}

TEST(Generate, TheSameSeedGivesTheSameAnswer) {
  const FakeModel model = hashed();
  GenerateSpec spec;
  spec.sample.temperature = 1;
  spec.ignore_eos = true;
  spec.max_tokens = 30;
  const auto answer = [&](std::uint64_t seed) {
    Session s = session(model);
    s.read(Ids{1});
    spec.seed = seed;
    return s.generate(spec).ids;
  };
  EXPECT_EQ(answer(1), answer(1));
  EXPECT_NE(answer(1), answer(2));
}

TEST(Generate, ThePenaltySeesPromptAndAnswer) {
  // "a" is likeliest by little, then "b", then "c"; each occurs but the last.
  const FakeModel model(V, [](std::span<const std::int32_t>) {
    std::vector<float> out(V, -10.0f);
    out[0] = 3;
    out[1] = 2.9f;
    out[2] = 2.8f;
    return out;
  });
  GenerateSpec spec;
  spec.sample.repeat_penalty = 1.5;
  spec.max_tokens = 2;
  Session s = session(model);
  s.read(Ids{0});
  EXPECT_THAT(s.generate(spec).ids, ElementsAre(1, 2));
}

TEST(Generate, RefusesASpecOutOfRange) {
  const FakeModel model = scripted(1, {});
  Session s = session(model);
  s.read(Ids{1});
  GenerateSpec spec;
  spec.max_tokens = -2;
  EXPECT_THROW((void)s.generate(spec), ArgumentError);
  spec = {};
  spec.sample.top_p = 0;
  EXPECT_THROW((void)s.generate(spec), ArgumentError);
  spec = {};
  spec.stops = {""};
  EXPECT_THROW((void)s.generate(spec), ArgumentError);
}

TEST(Session, TruncatesAndGoesOnAsIfNothingHadBeen) {
  const FakeModel model = hashed();
  GenerateSpec spec;
  spec.ignore_eos = true;
  spec.max_tokens = 5;
  Session s = session(model), fresh = session(model);
  s.read(Ids{1, 2, 3, 0});
  (void)s.generate(spec);
  s.truncate(2);
  fresh.read(Ids{1, 2});
  EXPECT_THAT(s.ids(), ElementsAre(1, 2));
  EXPECT_EQ(s.cache().length(), 2);
  EXPECT_EQ(values(s.last_logits()), values(fresh.last_logits()));
  EXPECT_EQ(s.generate(spec).ids, fresh.generate(spec).ids);
  s.truncate(2);
  s.read(Ids{7});
  fresh.truncate(2);
  fresh.read(Ids{7});
  EXPECT_EQ(values(s.last_logits()), values(fresh.last_logits()));
  s.truncate(0);
  EXPECT_THROW((void)s.generate(spec), ArgumentError);
  EXPECT_THROW(s.truncate(1), ArgumentError);
  EXPECT_THROW(s.truncate(-1), ArgumentError);
}

TEST(Session, TruncatingTheTokenThatTheCacheHasNotSeen) {
  const FakeModel model = hashed();
  GenerateSpec spec;
  spec.ignore_eos = true;
  spec.max_tokens = 3;
  Session s = session(model), fresh = session(model);
  s.read(Ids{1});
  const Ids three = s.generate(spec).ids;
  s.truncate(3);
  fresh.read(Ids{1, three[0], three[1]});
  EXPECT_EQ(values(s.last_logits()), values(fresh.last_logits()));
}

TEST(FinishReason, Names) {
  EXPECT_EQ(to_string(FinishReason::kStop), "stop");
  EXPECT_EQ(to_string(FinishReason::kLength), "length");
  EXPECT_EQ(to_string(FinishReason::kInterrupted), "interrupted");
}

}  // namespace
}  // namespace quire::generate

// Texts longer than a model was trained for, from the command line, with a tiny model of 256
// positions.
#include <gmock/gmock.h>

#include "quire/base/json.h"
#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::HasSubstr;

using Words = std::vector<std::string>;

const Json& at(const Json& object, const char* key) {
  const Json* value = object.find(key);
  if (value == nullptr) throw std::runtime_error(std::string("no key ") + key);
  return *value;
}

std::string repeated(int times) {
  std::string out;
  for (int i = 0; i < times; ++i)
    out += "the quick brown fox number " + std::to_string(i) + " jumps over the lazy dog\n";
  return out;
}

Words joined(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class PositionsCommand : public testing::Test {
 protected:
  PositionsCommand()
      : model_(tiny_model()),
        short_(scratch_file("short", repeated(1))),
        long_(scratch_file("long", repeated(40))) {}
  Words run(const Words& more) const {
    return joined({"run", model_, "--raw", "--ignore-eos", "--max-tokens", "6"}, more);
  }
  Json json(const Words& more) const {
    const Ended ended = quire(joined(run(more), {"--json"}));
    EXPECT_EQ(ended.code, 0) << ended.err;
    const std::size_t line = ended.out.rfind('\n', ended.out.size() - 2);
    return Json::parse(ended.out.substr(line == std::string::npos ? 0 : line + 1), "stdout");
  }

  const Words window_{"--positions", "cache", "--cache", "window"},
      tiered_{"--positions", "cache", "--cache", "tiered"};
  std::string model_, short_, long_;
};

TEST_F(PositionsCommand, a_text_beyond_the_trained_context_is_read_only_when_it_was_asked_for) {
  for (const Words& own : {Words{}, Words{"--cache", "tiered"}, Words{"--positions", "model"}}) {
    const Ended refused = quire(run(joined({"--file", long_, "why"}, own)));
    EXPECT_EQ(refused.code, 2);
    EXPECT_THAT(refused.err, HasSubstr("the context has room for 256"));
  }
  for (const Words& kind : {window_, tiered_}) {
    const Json out = json(joined({"--file", long_, "why"}, kind));
    const Json& cache = at(out, "cache");
    const std::int64_t prompt = at(out, "prompt_tokens").as_int();
    EXPECT_GT(prompt, 512);
    EXPECT_EQ(at(out, "generated_tokens").as_int(), 6);
    EXPECT_EQ(at(cache, "policy").as_string(), kind.back());
    EXPECT_EQ(at(cache, "positions").as_string(), "cache");
    EXPECT_EQ(at(cache, "tokens").as_int(), prompt + 5);  // the last token is never read
    EXPECT_EQ(at(cache, "near").as_int() + at(cache, "sinks").as_int(), 128);
    EXPECT_EQ(at(at(out, "bytes"), "cache").as_int(), at(cache, "bytes_stored").as_int());
    EXPECT_LT(at(cache, "bytes_read").as_int(), at(cache, "bytes_stored").as_int());
    if (kind == window_) continue;
    EXPECT_EQ(at(at(cache, "far"), "tokens").as_int(), prompt + 5 - at(cache, "near").as_int());
    EXPECT_GT(at(cache, "mass").as_double(), 0);
  }
  const Ended tight = quire(run(joined({"--file", long_, "why", "--context", "300"}, window_)));
  EXPECT_EQ(tight.code, 2);
  EXPECT_THAT(tight.err, HasSubstr("the context has room for 300"));
}

TEST_F(PositionsCommand, a_short_text_has_the_answer_of_the_full_cache) {
  const std::string full = at(json({"--file", short_, "why"}), "ids").dump();
  for (const Words& kind : {window_, tiered_, joined(window_, {"--budget", "100"})})
    EXPECT_EQ(at(json(joined({"--file", short_, "why"}, kind)), "ids").dump(), full);
}

TEST_F(PositionsCommand, questions_have_the_same_answers_as_when_asked_alone) {
  const std::string file = scratch_file("questions", "why\nwho is it?\nwhen\n");
  for (const Words& kind : {window_, tiered_, joined(tiered_, {"--budget", "20"})}) {
    const Ended all = quire(run(joined({"--questions", file, "--file", long_, "--quiet"}, kind)));
    ASSERT_EQ(all.code, 0) << all.err;
    for (const char* question : {"why", "who is it?", "when"}) {
      const Ended alone = quire(run(joined({question, "--file", long_, "--quiet"}, kind)));
      EXPECT_THAT(all.out, HasSubstr("> " + std::string(question) + "\n" + alone.out));
    }
  }
}

TEST_F(PositionsCommand, a_window_keeps_no_more_of_a_longer_document) {
  const std::string longer = scratch_file("longer", repeated(200));
  const auto stored = [&](const std::string& file) {
    return at(at(json(joined({"--file", file, "why"}, window_)), "cache"), "bytes_stored").as_int();
  };
  const Json one = json(joined({"--file", short_, "why"}, window_));
  const std::int64_t token =
      at(at(one, "cache"), "bytes_stored").as_int() / (at(one, "prompt_tokens").as_int() + 5 + 16);
  EXPECT_LE(std::abs(stored(longer) - stored(long_)), 256 * token);
}

TEST_F(PositionsCommand, caches_that_cannot_count_their_positions_say_so) {
  const auto message = [&](const Words& more) {
    const Ended ended = quire(run(joined({"--file", long_, "why", "--positions", "cache"}, more)));
    EXPECT_EQ(ended.code, 2);
    return ended.err;
  };
  EXPECT_THAT(message({}), HasSubstr("--cache full has the model's own"));
  for (const char* kind : {"full", "paged", "quest", "merged"})
    EXPECT_THAT(message({"--cache", kind}), HasSubstr(std::string("--cache ") + kind));
  for (const char* kind : {"window", "tiered"}) {
    EXPECT_THAT(message({"--cache", kind, "--save-cache", "x"}), HasSubstr("cannot be saved"));
    EXPECT_THAT(message({"--cache", kind, "--cache-ram", "1G"}), HasSubstr("no slow tier"));
  }
  EXPECT_THAT(message({"--cache", "window", "--budget", "5%"}), HasSubstr("not a part"));
  EXPECT_THAT(message({"--cache", "window", "--budget", "16"}), HasSubstr("at least 17"));
  EXPECT_THAT(message({"--cache", "window", "--budget", "257"}),
              HasSubstr("this model's context is 256"));
  EXPECT_THAT(message({"--cache", "tiered", "--budget", "mass:2"}), HasSubstr("--budget"));
  EXPECT_THAT(message({"--cache", "tiered", "--kv", "i4"}), HasSubstr("i4"));
  const Ended unknown = quire(run({"why", "--positions", "caches"}));
  EXPECT_THAT(unknown.err, HasSubstr("did you mean cache?"));
}

}  // namespace
}  // namespace quire::test

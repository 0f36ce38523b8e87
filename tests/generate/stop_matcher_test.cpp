#include "quire/generate/stop_matcher.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/tensor/rng.h"

namespace quire::generate {
namespace {

TEST(StopMatcher, WithoutStopsEverythingIsCertain) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.found());
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  const std::vector<std::string> stops = {"END"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("theE"), "the");
  EXPECT_EQ(matcher.push("N"), "");
  EXPECT_EQ(matcher.push("E"), "EN");
  EXPECT_EQ(matcher.push("ND tail"), "");
  EXPECT_TRUE(matcher.found());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, GivesBackWhatWasHeldWhenTheTextEnds) {
  const std::vector<std::string> stops = {"\n\n"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("a\n"), "a");
  EXPECT_EQ(matcher.finish(), "\n");
}

TEST(StopMatcher, TheStopThatIsCompleteFirstCounts) {
  const std::vector<std::string> stops = {"abcd", "bc"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("xabcd"), "xa");
}

TEST(StopMatcher, OfThoseTheLongest) {
  const std::vector<std::string> stops = {"c", "abc"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("xabc"), "x");
  EXPECT_TRUE(matcher.found());
}

TEST(StopMatcher, SelfOverlappingStops) {
  const std::vector<std::string> stops = {"aab"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("aaaa"), "aa");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_TRUE(matcher.found());
}

TEST(StopMatcher, HeldTextBeginsAtACharacter) {
  // Two characters that share their first two bytes.
  const std::vector<std::string> stops = {"\xe2\x82\xac!"};
  StopMatcher matcher(stops);
  EXPECT_EQ(matcher.push("\xe2\x82\xab\xe2\x82\xac"), "\xe2\x82\xab");
  EXPECT_EQ(matcher.push("?"), "\xe2\x82\xac?");
}

TEST(StopMatcher, RefusesStopsThatWouldCutEverywhereOrInsideACharacter) {
  const std::vector<std::string> empty = {"x", ""}, half = {"\x82"};
  EXPECT_THROW(StopMatcher{empty}, ArgumentError);
  EXPECT_THROW(StopMatcher{half}, ArgumentError);
}

// The naive rule: the first end at which any stop is complete, and there the longest.
std::pair<std::string, bool> naive(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopMatcher, DoesNotDependOnWhereTheTextIsCut) {
  Rng rng(3);
  const auto word = [&](std::uint64_t length) {
    std::string out;
    for (std::uint64_t i = 0; i < length; ++i) out += static_cast<char>('a' + rng.below(2));
    return out;
  };
  int found = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (std::uint64_t i = rng.below(3); i-- > 0;) stops.push_back(word(3 + rng.below(4)));
    const std::string text = word(rng.below(20));
    StopMatcher matcher(stops);
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = 1 + rng.below(4);
      shown += matcher.push(std::string_view(text).substr(at, n));
      at += n;
      if (matcher.found()) break;
      for (const std::string& stop : stops) ASSERT_EQ(shown.find(stop), std::string::npos);
    }
    shown += matcher.finish();
    const auto [expected, stopped] = naive(text, stops);
    ASSERT_EQ(shown, expected) << text;
    ASSERT_EQ(matcher.found(), stopped) << text;
    found += stopped ? 1 : 0;
  }
  EXPECT_GT(found, 500);
}

}  // namespace
}  // namespace quire::generate

#include "cli/number.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quire/base/error.h"

namespace quire::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr IntegerRange kAny{0, std::numeric_limits<std::int64_t>::max()};

TEST(Number, SizesHaveSuffixes) {
  EXPECT_EQ(parse_integer("--context", "8k", kAny, Suffix::kSize), 8'000);
  EXPECT_EQ(parse_integer("--context", "8Ki", kAny, Suffix::kSize), 8'192);
  EXPECT_EQ(parse_integer("--context", "3M", kAny, Suffix::kSize), 3'000'000);
  EXPECT_EQ(parse_integer("--context", "2Mi", kAny, Suffix::kSize), 2 << 20);
  EXPECT_EQ(parse_integer("--context", "1G", kAny, Suffix::kSize), 1'000'000'000);
  EXPECT_EQ(parse_integer("--context", "1Gi", kAny, Suffix::kSize), 1 << 30);
  EXPECT_THROW(parse_integer("--context", "10000000000G", kAny, Suffix::kSize), ArgumentError);
  EXPECT_THROW(parse_integer("--threads", "2k", kAny), ArgumentError);
}

TEST(Number, RefusesWhatIsNoWholeNumberInRange) {
  for (const char* text : {"", " 5", "5 ", "+5", "0x10", "1e3", "abc", "5.0", "k", "10K", "-1",
                           "99999999999999999999"}) {
    EXPECT_THROW(parse_integer("--context", text, kAny, Suffix::kSize), ArgumentError) << text;
  }
}

TEST(Number, NamesOptionTextAndRange) {
  EXPECT_THAT(
      [] {
        parse_integer("--threads", "0", {1, 1024});
      },
      ThrowsMessage<ArgumentError>("--threads is '0'; it must be a whole number from 1 to "
                                   "1024"));
  EXPECT_THAT(
      [] {
        parse_number("--top-p", "0", {0, 1, true});
      },
      ThrowsMessage<ArgumentError>("--top-p is '0'; it must be a number above 0 and at most 1"));
}

TEST(Number, SeedsUseAll64Bits) {
  EXPECT_EQ(parse_unsigned("--seed", "18446744073709551615"), ~std::uint64_t{0});
  EXPECT_THROW(parse_unsigned("--seed", "18446744073709551616"), ArgumentError);
  EXPECT_THROW(parse_unsigned("--seed", "-1"), ArgumentError);
}

TEST(Number, NumbersAreFinite) {
  EXPECT_EQ(parse_number("--temperature", "0.75", {0, 1e300}), 0.75);
  EXPECT_EQ(parse_number("--temperature", "1e-3", {0, 1e300}), 1e-3);
  for (const char* text : {"nan", "inf", "-inf", "1e999", "-0.1", "hot", "", "1,5"}) {
    EXPECT_THROW(parse_number("--temperature", text, {0, 1e300}), ArgumentError) << text;
  }
}

TEST(Number, Percents) {
  EXPECT_EQ(parse_percent("--budget", "12.5%"), .125);
  EXPECT_EQ(parse_percent("--budget", "100%"), 1);
  for (const char* text : {"", "%", "0%", "-1%", "100.1%", "nan%", "inf%", "5", "5 %", "5%%"}) {
    EXPECT_THROW(parse_percent("--budget", text), ArgumentError) << text;
  }
}

TEST(Number, Lists) {
  EXPECT_THAT(parse_integers("--at", "0,7,100", kAny), ElementsAre(0, 7, 100));
  EXPECT_THAT([] { parse_integers("--at", "0,,7", kAny); },
              ThrowsMessage<ArgumentError>(HasSubstr("--at is ''")));
}

}  // namespace
}  // namespace quire::cli

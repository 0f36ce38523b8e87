#include "quire/base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>

namespace quire {
namespace {

TEST(Concat, writes_strings_characters_and_numbers) {
  EXPECT_EQ(concat(), "");
  EXPECT_EQ(concat("a", std::string("b"), std::string_view("c"), 'd', 1, -2, 3u), "abcd1-23");
  EXPECT_EQ(concat(std::numeric_limits<std::int64_t>::min(), " ",
                   std::numeric_limits<std::uint64_t>::max()),
            "-9223372036854775808 18446744073709551615");
  EXPECT_EQ(concat(0.1, " ", 1e300, " ", -2.5), "0.1 1e+300 -2.5");
}

TEST(Error, has_a_stable_code) {
  EXPECT_STREQ(Error("x").code(), "internal");
  EXPECT_STREQ(ArgumentError("x").code(), "argument");
  EXPECT_STREQ(FormatError("x").code(), "format");
  EXPECT_STREQ(IoError("f", "cannot read", 0).code(), "io");
  EXPECT_STREQ(DeviceError("x").code(), "device");
  EXPECT_STREQ(OutOfMemory("x").code(), "out_of_memory");
}

TEST(Error, is_caught_by_its_kind) {
  EXPECT_THROW(throw OutOfMemory("x"), DeviceError);
  EXPECT_THROW(throw FormatError("x"), Error);
  EXPECT_THROW(throw IoError("f", "x", 0), std::runtime_error);
}

TEST(FormatError, names_the_file_and_the_offset) {
  EXPECT_STREQ(FormatError("m.gguf", "is empty").what(), "m.gguf: is empty");
  EXPECT_STREQ(FormatError("m.gguf", 24, "is odd").what(), "m.gguf: at byte 24: is odd");
  EXPECT_STREQ(FormatError("m.gguf", std::numeric_limits<std::uint64_t>::max(), "x").what(),
               "m.gguf: at byte 18446744073709551615: x");
}

TEST(FormatError, takes_braces_and_percent_signs_as_they_are) {
  EXPECT_STREQ(FormatError("{}", "{0} %s {").what(), "{}: {0} %s {");
}

TEST(IoError, adds_the_text_of_the_error_number) {
  EXPECT_STREQ(IoError("f", "cannot open", ENOENT).what(),
               "f: cannot open: No such file or directory");
  EXPECT_STREQ(IoError("f", "is a directory, not a file", 0).what(),
               "f: is a directory, not a file");
}

int evaluations = 0;
int counted() { return ++evaluations; }

TEST(Check, throws_the_parts_and_evaluates_them_only_then) {
  evaluations = 0;
  EXPECT_NO_THROW(QUIRE_CHECK(1 + 1 == 2, "never ", counted()));
  EXPECT_EQ(evaluations, 0);
  try {
    QUIRE_CHECK(evaluations == 7, "src_ND: N is ", 4, ", but index_N has N = ", 5);
    FAIL() << "did not throw";
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "src_ND: N is 4, but index_N has N = 5");
  }
}

TEST(Check, is_one_statement) {
  // Must bind to this `if`, not swallow the `else`.
  bool reached = false;
  if (evaluations < -1)
    QUIRE_CHECK(false, "unreachable");
  else
    reached = true;
  EXPECT_TRUE(reached);
}

}  // namespace
}  // namespace quire

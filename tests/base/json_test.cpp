#include "quire/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "quire/base/error.h"

namespace quire {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  try {
    Json::parse(text, "f.json", limits);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(JsonParse, reads_every_kind_and_keeps_the_order_of_keys) {
  const Json json = Json::parse(R"( {"z": null, "a": [true, false, -3, 2.5, "x"], "m": {}} )", "f");
  EXPECT_EQ(json.as_object()[0].first, "z");
  EXPECT_EQ(json.as_object()[1].first, "a");
  EXPECT_TRUE(json.find("z")->is_null());
  const Json::Array& array = json.find("a")->as_array();
  EXPECT_TRUE(array[0].as_bool());
  EXPECT_FALSE(array[1].as_bool());
  EXPECT_EQ(array[2].as_int(), -3);
  EXPECT_EQ(array[3].as_double(), 2.5);
  EXPECT_EQ(array[4].as_string(), "x");
  EXPECT_TRUE(json.find("m")->as_object().empty());
  EXPECT_EQ(json.find("absent"), nullptr);
  EXPECT_EQ(array[0].find("x"), nullptr);
}

TEST(JsonParse, integers_stay_integers_as_far_as_they_fit) {
  EXPECT_EQ(Json::parse("9223372036854775807", "f").as_int(),
            std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(Json::parse("-9223372036854775808", "f").as_int(),
            std::numeric_limits<std::int64_t>::min());
  for (const char* big :
       {"9223372036854775808", "18446744073709551615", "99999999999999999999", "1.0", "1e2"}) {
    const Json json = Json::parse(big, "f");
    EXPECT_FALSE(json.is_int()) << big;
    EXPECT_TRUE(json.is_number()) << big;
    EXPECT_EQ(json.as_double(), std::stod(big)) << big;
  }
  EXPECT_EQ(Json(std::uint64_t{5}).as_int(), 5);
  EXPECT_EQ(Json(std::numeric_limits<std::uint64_t>::max()).as_double(), 0x1p64);
  EXPECT_EQ(Json(7).as_double(), 7.0);
}

TEST(JsonParse, decodes_escapes_and_surrogate_pairs) {
  EXPECT_EQ(Json::parse(R"("\u0041\n\"\\\/\ud83d\ude00é")", "f").as_string(),
            "A\n\"\\/\xF0\x9F\x98\x80é");
  EXPECT_EQ(Json::parse(R"("\u0000x")", "f").as_string(), std::string("\0x", 2));
}

TEST(JsonParse, C1_refuses_what_is_not_json_with_line_and_column) {
  EXPECT_THAT(refusal(""),
              StartsWith("f.json: line 1, column 1: not JSON: unexpected end of input"));
  EXPECT_THAT(refusal("nul"), HasSubstr("line 1, column 3: not JSON: invalid literal"));
  EXPECT_THAT(refusal("[1,\n 2,\n  x]"), HasSubstr("line 3, column 3: "));
  EXPECT_THAT(refusal("[1, 2"), HasSubstr("not JSON: unexpected end of input"));
  EXPECT_THAT(refusal("[1,]"), HasSubstr("line 1, column 4: "));
  EXPECT_THAT(refusal("{\"a\" 1}"), HasSubstr("expected ':'"));
  EXPECT_THAT(refusal("{1: 2}"), HasSubstr("expected string literal"));
  EXPECT_THAT(refusal("'a'"), HasSubstr("not JSON"));
  EXPECT_THAT(refusal("01"), HasSubstr("line 1, column 2: "));
  EXPECT_THAT(refusal("\"a\nb\""), HasSubstr("not JSON: invalid string: control character"));
  EXPECT_THAT(refusal("\"\\ud800\""), HasSubstr("invalid string: surrogate"));
}

TEST(JsonParse, C1_refuses_comments_nan_and_infinite_numbers) {
  EXPECT_THAT(refusal("[1] // x"), HasSubstr("line 1, column 5: "));
  EXPECT_THAT(refusal("/* x */ 1"), HasSubstr("line 1, column 1: "));
  for (const char* text : {"NaN", "Infinity", "-Infinity", "nan", "+1", ".5", "1.", "0x10"}) {
    EXPECT_THAT(refusal(text), HasSubstr("line 1, column ")) << text;
  }
  EXPECT_THAT(refusal("[1e400]"), HasSubstr("a number is out of range"));
}

TEST(JsonParse, C1_refuses_trailing_text_a_mark_and_a_nul) {
  EXPECT_THAT(refusal("{} x"), HasSubstr("line 1, column 4: not JSON: "));
  EXPECT_THAT(refusal("1 2"), HasSubstr("expected end of input"));
  EXPECT_THAT(refusal("\xEF\xBB\xBF{}"), HasSubstr("line 1, column 1: a byte-order mark"));
  EXPECT_THAT(refusal(std::string_view("{}\n\0 garbage", 12)),
              HasSubstr("line 2, column 1: not JSON: a NUL byte"));
  EXPECT_EQ(refusal(" \t\r\n{} \n"), "accepted");
}

TEST(JsonParse, refuses_invalid_utf8) {
  for (const char* bad : {"\"\xFF\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                          "\"\xE2\x82\"", "{\"\x80\": 1}"}) {
    EXPECT_THAT(refusal(bad), HasSubstr("not JSON: invalid string: ill-formed UTF-8 byte"));
  }
}

TEST(JsonParse, refuses_a_duplicate_key_where_it_stands) {
  EXPECT_THAT(refusal("{\"a\": 1,\n \"b\": 2, \"a\": 3}"),
              HasSubstr("line 2, column 12: key \"a\" stands twice"));
  EXPECT_THAT(refusal(R"({"a": 1, "\u0061": 2})"), HasSubstr("key \"a\" stands twice"));
  EXPECT_EQ(refusal(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]})"), "accepted");
}

TEST(JsonParse, a_message_quotes_neither_the_whole_text_nor_bad_bytes) {
  const std::string long_token = "\"" + std::string(100'000, 'x') + "\xFF\"";
  EXPECT_LT(refusal(long_token).size(), 200u);
  const std::string key = "\"" + std::string(100'000, 'k') + "\"";
  EXPECT_LT(refusal("{" + key + ":1," + key + ":2}").size(), 300u);
}

TEST(JsonLimits, depth_is_refused_at_the_level_above_it) {
  JsonLimits limits;
  limits.depth = 3;
  EXPECT_EQ(refusal("[[[1]]]", limits), "accepted");
  EXPECT_THAT(refusal("[[[[1]]]]", limits), HasSubstr("column 4: nested deeper than 3 levels"));
  EXPECT_THAT(refusal(R"({"a":{"b":{"c":{}}}})", limits), HasSubstr("nested deeper than 3 levels"));
  limits.depth = 0;
  EXPECT_EQ(refusal("1", limits), "accepted");
  EXPECT_THAT(refusal("[]", limits), HasSubstr("nested deeper than 0 levels"));
}

TEST(JsonLimits, C1_a_hundred_thousand_levels_are_an_error) {
  EXPECT_THAT(refusal(std::string(100'000, '[')), HasSubstr("nested deeper than 32 levels"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(refusal(objects), HasSubstr("nested deeper than 32 levels"));
}

TEST(JsonLimits, bytes_and_values) {
  JsonLimits limits;
  limits.bytes = 4;
  EXPECT_EQ(refusal("1234", limits), "accepted");
  EXPECT_EQ(refusal("12345", limits), "f.json: the text has 5 bytes, the limit is 4");
  limits = {};
  limits.values = 4;
  EXPECT_EQ(refusal(R"({"a": 1, "b": [2]})", limits), "accepted");
  EXPECT_THAT(refusal(R"({"a": 1, "b": [2, 3]})", limits), HasSubstr("more than 4 values"));
}

TEST(JsonDump, is_compact_or_indented) {
  const Json json = Json::parse(R"({"b":[1,{"c":[]},{}],"a":"x"})", "f");
  EXPECT_EQ(json.dump(), R"({"b":[1,{"c":[]},{}],"a":"x"})");
  EXPECT_EQ(
      json.dump(2),
      "{\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    },\n    {}\n  ],\n  \"a\": \"x\"\n}");
  EXPECT_EQ(Json().dump(), "null");
  EXPECT_EQ(Json(true).dump(), "true");
}

TEST(JsonDump, doubles_are_the_shortest_that_read_back_the_same) {
  EXPECT_EQ(Json(0.1).dump(), "0.1");
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(-0.0).dump(), "-0.0");
  EXPECT_EQ(Json(1e300).dump(), "1e+300");
  std::uint64_t state = 1;
  for (int i = 0; i < 20'000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    double value;
    static_assert(sizeof value == sizeof state);
    std::memcpy(&value, &state, sizeof value);
    if (!std::isfinite(value)) continue;
    const Json back = Json::parse(Json(value).dump(), "f");
    ASSERT_FALSE(back.is_int());
    ASSERT_EQ(back.as_double(), value);
  }
}

TEST(JsonDump, nan_and_infinities_are_null) {
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(-std::numeric_limits<double>::infinity()).dump(), "null");
}

TEST(JsonDump, strings_are_escaped_and_invalid_bytes_replaced) {
  EXPECT_EQ(Json("a\"\\\n\t\r\x01\x7F"
                 "é")
                .dump(),
            "\"a\\\"\\\\\\n\\t\\r\\u0001\\u007fé\"");
  EXPECT_EQ(Json("\xFF"
                 "a\xE2\x82")
                .dump(),
            "\"\xEF\xBF\xBD"
            "a\xEF\xBF\xBD\"");
  EXPECT_EQ(Json(std::string("\0", 1)).dump(), "\"\\u0000\"");
}

TEST(JsonDump, every_byte_string_becomes_json_that_reads_back) {
  std::uint32_t state = 7;
  for (int i = 0; i < 5'000; ++i) {
    std::string bytes;
    for (std::uint32_t n = state % 12; n > 0; --n) {
      state = state * 1664525u + 1013904223u;
      bytes += static_cast<char>(static_cast<unsigned char>(state >> 24));
    }
    state = state * 1664525u + 1013904223u;
    const std::string once = Json(bytes).dump();
    EXPECT_EQ(Json::parse(once, "f").dump(), once);
  }
}

TEST(Json, access_of_another_kind_names_both) {
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const FormatError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([] { Json("x").as_int(); }), "expected an integer, found a string");
  EXPECT_EQ(message([] { Json(1.5).as_int(); }), "expected an integer, found a number");
  EXPECT_EQ(message([] { Json().as_object(); }), "expected an object, found null");
  EXPECT_EQ(message([] { Json(1).as_bool(); }), "expected a boolean, found an integer");
  EXPECT_EQ(message([] { Json(true).as_double(); }), "expected a number, found a boolean");
  EXPECT_EQ(message([] { Json(Json::Array()).as_string(); }), "expected a string, found an array");
  EXPECT_EQ(message([] { Json(Json::Object()).as_array(); }), "expected an array, found an object");
}

TEST(Json, objects_and_arrays_grow_from_null) {
  Json json;
  json["a"]["b"] = 1;
  json["list"].push_back("x");
  json["list"].push_back(2);
  json["a"]["b"] = 3;
  EXPECT_EQ(json.dump(), R"({"a":{"b":3},"list":["x",2]})");
  EXPECT_THROW(json["list"]["x"], ArgumentError);
  EXPECT_THROW(json.push_back(1), ArgumentError);
}

}  // namespace
}  // namespace quire

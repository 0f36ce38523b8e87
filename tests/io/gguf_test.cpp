#include "quire/io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "quire/base/error.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file_ops.h"

namespace quire::io {
namespace {

using test::gguf_number;
using test::GgufWriter;
using testing::HasSubstr;

GgufFile open_bytes(const std::string& bytes) {
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  return GgufFile("m.gguf");
}

std::string refusal(const std::string& bytes) {
  try {
    open_bytes(bytes);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

// Where the first key stands.
constexpr std::uint64_t kFirst = 24;

// ---- what is right ----

TEST(Gguf, reads_every_type_of_value) {
  GgufWriter writer;
  writer.number("u8", std::uint8_t{200}).number("i8", std::int8_t{-100});
  writer.number("u16", std::uint16_t{60'000}).number("i16", std::int16_t{-30'000});
  writer.number("u32", std::uint32_t{4'000'000'000}).number("i32", std::int32_t{-2'000'000'000});
  writer.number("u64", std::uint64_t{1} << 62)
      .number("i64", std::numeric_limits<std::int64_t>::min());
  writer.number("huge", std::uint64_t{1} << 63);
  writer.number("f32", 0.1f).number("f64", 0.1).number("yes", true).number("no", false);
  writer.text("text", "a\xC3\xA9").text("empty", "");
  const std::string bytes = writer.bytes();
  const GgufFile file = open_bytes(bytes);
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i8"), -100);
  EXPECT_EQ(file.integer("u16"), 60'000);
  EXPECT_EQ(file.integer("i16"), -30'000);
  EXPECT_EQ(file.integer("u32"), 4'000'000'000);
  EXPECT_EQ(file.integer("i32"), -2'000'000'000);
  EXPECT_EQ(file.integer("u64"), std::int64_t{1} << 62);
  EXPECT_EQ(file.integer("i64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(std::get<std::uint64_t>(*file.find("huge")), std::uint64_t{1} << 63);
  EXPECT_EQ(file.number("f32"), double{0.1f});
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_TRUE(file.boolean("yes", false));
  EXPECT_FALSE(file.boolean("no", true));
  EXPECT_EQ(file.text("text"), "a\xC3\xA9");
  EXPECT_EQ(file.text("empty"), "");
  EXPECT_EQ(file.metadata().size(), 15u);
  EXPECT_EQ(file.metadata()[2].first, "u16");
  EXPECT_EQ(file.file_bytes(), bytes.size());
  EXPECT_EQ(file.path(), "m.gguf");
}

TEST(Gguf, reads_arrays_and_widens_their_numbers) {
  GgufWriter writer;
  writer.numbers("u8", std::vector<std::uint8_t>{1, 255})
      .numbers("i16", std::vector<std::int16_t>{-1});
  writer.numbers("u64", std::vector<std::uint64_t>{7}).numbers("none", std::vector<std::int32_t>{});
  writer.numbers("f32", std::vector<float>{0.5f, -2.0f}).texts("texts", {"a", "", "ccc"});
  writer.raw("bools", test::kGgufArray,
             gguf_number(std::uint32_t{test::kGgufBool}) + gguf_number(std::uint64_t{2}) +
                 std::string("\1\0", 2));
  const GgufFile file = open_bytes(writer.bytes());
  EXPECT_EQ(*file.integers("u8"), (std::vector<std::int64_t>{1, 255}));
  EXPECT_EQ(*file.integers("i16"), (std::vector<std::int64_t>{-1}));
  EXPECT_EQ(*file.integers("u64"), (std::vector<std::int64_t>{7}));
  EXPECT_TRUE(file.integers("none")->empty());
  EXPECT_EQ(std::get<std::vector<double>>(*file.find("f32")), (std::vector<double>{0.5, -2.0}));
  EXPECT_EQ(*file.texts("texts"), (std::vector<std::string>{"a", "", "ccc"}));
  EXPECT_EQ(std::get<std::vector<bool>>(*file.find("bools")), (std::vector<bool>{true, false}));
  EXPECT_EQ(file.texts("absent"), nullptr);
  EXPECT_EQ(file.integers("absent"), nullptr);
}

TEST(Gguf, reads_tensors_and_their_data) {
  for (const std::uint32_t version : {2u, 3u}) {
    GgufWriter writer;
    writer.version = version;
    std::string blocks;
    for (int i = 0; i < 2 * 2 * 20; ++i) blocks += static_cast<char>(i);
    writer.tensor("a", 0, {3}, "abcdefghijkl")
        .tensor("b", 3, {64, 2}, blocks)
        .tensor("c", 24, {2, 3, 1, 1}, "uvwxyz");
    const std::string bytes = writer.bytes();
    test::MemoryFileOps files;
    files.put("m.gguf", bytes);
    const GgufFile file("m.gguf");
    EXPECT_EQ(file.version(), version);
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{3}));
    const GgufTensor& b = *file.tensor("b");
    EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 64}));  // outermost first
    EXPECT_EQ(b.type, 3u);
    EXPECT_EQ(b.bytes, 80u);
    EXPECT_EQ(b.offset, file.tensors()[0].offset + 32);
    EXPECT_EQ(file.tensor("c")->shape, (std::vector<std::int64_t>{1, 1, 3, 2}));
    EXPECT_EQ(file.tensor("d"), nullptr);
    std::string out(70, ' ');
    file.read(b, 10, std::as_writable_bytes(std::span(out)));
    EXPECT_EQ(out, blocks.substr(10));
    file.read(b, 80, {});
    EXPECT_THROW(file.read(b, 11, std::as_writable_bytes(std::span(out))), ArgumentError);
    EXPECT_THROW(file.read(b, 81, {}), ArgumentError);
    EXPECT_THROW(file.read(b, ~std::uint64_t{0}, std::as_writable_bytes(std::span(out))),
                 ArgumentError);
  }
}

TEST(Gguf, honours_the_alignment) {
  for (const std::uint32_t alignment : {8u, 32u, 4096u, 1u << 20}) {
    GgufWriter writer;
    writer.number("general.alignment", alignment);
    writer.alignment = alignment;
    writer.tensor("a", 24, {1}, "x").tensor("b", 24, {1}, "y");
    const std::string bytes = writer.bytes();
    test::MemoryFileOps files;
    files.put("m.gguf", bytes);
    const GgufFile file("m.gguf");
    EXPECT_EQ(file.tensor("b")->offset, file.tensor("a")->offset + alignment);
    EXPECT_EQ(file.tensor("a")->offset % alignment, 0u);
    EXPECT_EQ(bytes[file.tensor("b")->offset], 'y');
    EXPECT_EQ(file.integer("general.alignment"), std::int64_t{alignment});
  }
}

TEST(Gguf, a_file_without_keys_and_tensors_is_one) {
  EXPECT_EQ(refusal(GgufWriter().bytes()), "accepted");
  EXPECT_EQ(refusal(GgufWriter().bytes().substr(0, 24)), "accepted");
}

TEST(Gguf, tensors_of_no_elements_are_left_to_the_model) {
  EXPECT_EQ(refusal(GgufWriter().tensor("a", 0, {0}, "").tensor("b", 0, {4, 0, 3}, "").bytes()),
            "accepted");
}

// ---- typed access ----

TEST(Gguf, G16_typed_access_names_the_key_and_both_types) {
  GgufWriter writer;
  writer.text("s", "x")
      .number("f", 1.5f)
      .number("i", std::int32_t{-3})
      .number("huge", ~std::uint64_t{0})
      .texts("t", {});
  const GgufFile file = open_bytes(writer.bytes());
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const FormatError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([&] { file.integer("k"); }), "m.gguf: the key 'k' is missing");
  EXPECT_EQ(message([&] { file.number("k"); }), "m.gguf: the key 'k' is missing");
  EXPECT_EQ(message([&] { file.text("k"); }), "m.gguf: the key 'k' is missing");
  EXPECT_EQ(message([&] { file.integer("s"); }),
            concat("m.gguf: at byte ", kFirst + 8 + 1 + 4,
                   ": the key 's' is a string, expected an integer below 2^63"));
  EXPECT_THAT(message([&] { file.integer("s", 5); }), HasSubstr("the key 's' is a string"));
  EXPECT_THAT(message([&] { file.integer("f"); }),
              HasSubstr("the key 'f' is the number 1.5, expected an integer"));
  EXPECT_THAT(message([&] { file.integer("huge"); }),
              HasSubstr("is the integer 18446744073709551615, expected an integer below 2^63"));
  EXPECT_THAT(message([&] { file.number("s", 1.0); }),
              HasSubstr("the key 's' is a string, expected a number"));
  EXPECT_THAT(message([&] { file.boolean("i", true); }),
              HasSubstr("the key 'i' is the integer -3, expected a boolean"));
  EXPECT_THAT(message([&] { file.text("i", "x"); }),
              HasSubstr("the key 'i' is the integer -3, expected a string"));
  EXPECT_THAT(message([&] { file.texts("s"); }), HasSubstr("expected an array of strings"));
  EXPECT_THAT(message([&] { file.integers("t"); }),
              HasSubstr("is an array of strings, expected an array of integers"));
  EXPECT_EQ(file.integer("k", -7), -7);
  EXPECT_EQ(file.number("k", 2.5), 2.5);
  EXPECT_EQ(file.number("i"), -3.0);
  EXPECT_EQ(file.number("huge"), 0x1p64);
  EXPECT_TRUE(file.boolean("k", true));
  EXPECT_EQ(file.text("k", "other"), "other");
}

// ---- types ----

TEST(GgufTypes, G13_sizes_of_blocks) {
  // Bits per weight as the format's documentation states them.
  const std::vector<std::tuple<std::uint32_t, std::string, double>> bits = {
      {0, "F32", 32},         {1, "F16", 16},          {2, "Q4_0", 4.5},
      {3, "Q4_1", 5},         {6, "Q5_0", 5.5},        {7, "Q5_1", 6},
      {8, "Q8_0", 8.5},       {9, "Q8_1", 9},          {10, "Q2_K", 2.625},
      {11, "Q3_K", 3.4375},   {12, "Q4_K", 4.5},       {13, "Q5_K", 5.5},
      {14, "Q6_K", 6.5625},   {15, "Q8_K", 9.125},     {16, "IQ2_XXS", 2.0625},
      {17, "IQ2_XS", 2.3125}, {18, "IQ3_XXS", 3.0625}, {19, "IQ1_S", 1.5625},
      {20, "IQ4_NL", 4.5},    {21, "IQ3_S", 3.4375},   {22, "IQ2_S", 2.5625},
      {23, "IQ4_XS", 4.25},   {24, "I8", 8},           {25, "I16", 16},
      {26, "I32", 32},        {27, "I64", 64},         {28, "F64", 64},
      {29, "IQ1_M", 1.75},    {30, "BF16", 16},        {34, "TQ1_0", 1.6875},
      {35, "TQ2_0", 2.0625},  {39, "MXFP4", 4.25}};
  std::size_t known = 0;
  for (const auto& [number, name, weight_bits] : bits) {
    const GgufType* type = gguf_type(number);
    ASSERT_NE(type, nullptr) << name;
    EXPECT_EQ(type->name, name);
    EXPECT_EQ(gguf_type_name(number), name);
    EXPECT_EQ(8.0 * type->block_bytes / type->block, weight_bits) << name;
  }
  for (std::uint32_t number = 0; number < 1000; ++number) known += gguf_type(number) != nullptr;
  EXPECT_EQ(known, bits.size());
  EXPECT_EQ(gguf_type_name(99), "type 99");
  EXPECT_EQ(gguf_type_name(4), "type 4");  // Q4_2, removed
}

}  // namespace
}  // namespace quire::io

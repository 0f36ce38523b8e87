#include "quire/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>
#include <string>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/base/half.h"
#include "quire/io/gguf.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/memory_file_ops.h"

namespace quire::io {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string number(std::uint64_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A file with this header and so many bytes of data.
std::string with_header(const std::string& header, std::size_t data_bytes = 0) {
  return number(header.size()) + header + std::string(data_bytes, '\1');
}

std::string refusal(const std::string& bytes, std::uint64_t size) {
  test::MemoryFileOps files;
  files.put("t.safetensors", bytes, size);
  try {
    const SafetensorsFile file("t.safetensors");
    for (const auto& entry : file.entries()) file.read(entry.name);
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), StartsWith("t.safetensors: "));
    return error.what();
  }
  return "accepted";
}
std::string refusal(const std::string& bytes) { return refusal(bytes, bytes.size()); }

/// What the reader says of one entry `t`.
std::string refusal_of(const std::string& entry, std::size_t data_bytes = 0) {
  return refusal(with_header("{\"t\":" + entry + "}", data_bytes));
}

std::string bytes_of(const Tensor& tensor) {
  const Tensor whole = tensor.contiguous_copy();
  if (whole.bytes() == 0) return "";
  return {static_cast<const char*>(whole.data<void>()), static_cast<std::size_t>(whole.bytes())};
}

// ---- what is right ----

TEST(Safetensors, reads_a_hand_made_file) {
  const std::string header =
      R"({"__metadata__":{"who":"me"},"b":{"dtype":"I16","shape":[2,1],"data_offsets":[4,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  )";
  const std::string bytes =
      number(header.size()) + header + std::string("\0\0\x80\x3F\xFE\xFF\x05\x00", 8);
  test::MemoryFileOps files;
  files.put("t", bytes);
  const SafetensorsFile file("t");
  EXPECT_EQ(file.path(), "t");
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.entries()[0].name, "b");
  EXPECT_EQ(file.entries()[0].offset, 8 + header.size() + 4);
  EXPECT_EQ(file.entries()[0].bytes, 4u);
  EXPECT_EQ(file.metadata().at("who"), "me");
  const Tensor a = file.read("a"), b = file.read("b");
  EXPECT_EQ(a.rank(), 0);
  EXPECT_EQ(a.data<float>()[0], 1.0f);
  EXPECT_EQ(b.shape(), (Shape{2, 1}));
  EXPECT_EQ(b.data<std::int16_t>()[0], -2);
  EXPECT_EQ(b.data<std::int16_t>()[1], 5);
  EXPECT_EQ(file.find("c"), nullptr);
  try {
    file.read("c");
    FAIL() << "read an absent tensor";
  } catch (const FormatError& error) {
    EXPECT_STREQ(error.what(), "t: there is no tensor 'c'");
  }
}

TEST(Safetensors, reads_what_another_program_wrote) {
  // Written by the Python package `safetensors`: tests/goldens/io/make_safetensors.py.
  const SafetensorsFile file(QUIRE_SOURCE_DIR "/tests/goldens/io/python.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "np");
  const Tensor f32 = file.read("f32"), f64 = file.read("f64"), i64 = file.read("i64"),
               flags = file.read("bool");
  EXPECT_EQ(f32.shape(), (Shape{2, 3}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(f32.data<float>()[i], static_cast<float>(i) - 2.5f);
  EXPECT_EQ(f64.data<double>()[1], 1e-300);
  EXPECT_EQ(i64.data<std::int64_t>()[0], std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(file.read("i32").data<std::int32_t>()[2], 2'000'000'000);
  EXPECT_EQ(file.read("i16").data<std::int16_t>()[0], -32'768);
  EXPECT_EQ(file.read("i8").data<std::int8_t>()[0], -128);
  EXPECT_EQ(file.read("u8").data<std::uint8_t>()[0], 255);
  EXPECT_TRUE(flags.data<bool>()[0]);
  EXPECT_FALSE(flags.data<bool>()[1]);
  EXPECT_EQ(to_float(file.read("f16").data<Half>()[1]), 65504.0f);
  EXPECT_EQ(file.read("none").shape(), (Shape{0, 4}));
  EXPECT_EQ(file.read("scalar").data<float>()[0], 7.0f);
  EXPECT_EQ(file.entries().size(), 11u);
}

TEST(Safetensors, G13_blocks_of_another_program_have_the_sizes_of_our_table) {
  // tests/goldens/make_quants.py: `TYPE.blocks` holds 8 rows of 512 values each.
  const SafetensorsFile file(QUIRE_SOURCE_DIR "/tests/goldens/quants.safetensors");
  int checked = 0;
  for (std::uint32_t number = 0; number < 64; ++number) {
    const GgufType* type = gguf_type(number);
    const auto* blocks = type == nullptr ? nullptr : file.find(std::string(type->name) + ".blocks");
    if (blocks == nullptr) continue;
    EXPECT_EQ(blocks->shape, (Shape{8, 512 / type->block * type->block_bytes})) << type->name;
    EXPECT_EQ(file.read(std::string(type->name) + ".values").shape(), (Shape{8, 512}));
    ++checked;
  }
  EXPECT_EQ(checked, 15);
}

TEST(Safetensors, I2_what_was_written_is_read_and_written_again_alike) {
  constexpr DType kAll[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64,
                            DType::kI32, DType::kI16, DType::kI8,   DType::kU8,  DType::kBool};
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    test::MemoryFileOps files;
    std::vector<std::pair<std::string, Tensor>> tensors;
    std::map<std::string, std::string> metadata;
    for (std::uint64_t n = random() % 6; n > 0; --n) {
      Shape shape;
      for (std::uint64_t rank = random() % 4; rank > 0; --rank)
        shape.push_back(static_cast<std::int64_t>(random() % 5));
      Tensor tensor = Tensor::empty(shape, kAll[random() % std::size(kAll)]);
      auto* data = static_cast<unsigned char*>(tensor.mutable_data<void>());
      for (std::int64_t i = 0; i < tensor.bytes(); ++i) {
        data[i] =
            static_cast<unsigned char>(tensor.dtype() == DType::kBool ? random() % 2 : random());
      }
      // Every other one as a view whose rows are not contiguous.
      if (tensor.rank() >= 2 && random() % 2 == 0) tensor = tensor.transpose(0, 1);
      tensors.emplace_back("name \"" + std::to_string(n) + "\" \xE2\x82\xAC\n", tensor);
    }
    if (random() % 2 == 0) metadata["key\t"] = "value \\ \xC3\xA9";
    write_safetensors("a", tensors, metadata);
    const SafetensorsFile file("a");
    EXPECT_EQ(file.metadata(), metadata);
    ASSERT_EQ(file.entries().size(), tensors.size());
    std::vector<std::pair<std::string, Tensor>> again;
    std::uint64_t data_begin = file.entries().empty() ? 0 : file.entries()[0].offset;
    EXPECT_EQ(data_begin % 64, 0u);
    for (const auto& [name, tensor] : tensors) {
      const Tensor read = file.read(name);
      EXPECT_EQ(read.dtype(), tensor.dtype());
      EXPECT_EQ(read.shape(), tensor.shape());
      EXPECT_EQ(bytes_of(read), bytes_of(tensor));
      EXPECT_EQ(file.find(name)->offset % size_of(tensor.dtype()), 0u);
      again.emplace_back(name, read);
    }
    write_safetensors("b", again, metadata);
    EXPECT_EQ(read_text("a", 1 << 20), read_text("b", 1 << 20));
  }
}

TEST(Safetensors, the_writer_refuses_names_that_cannot_be_read_back) {
  test::MemoryFileOps files;
  const Tensor t = Tensor::zeros({1}, DType::kF32);
  EXPECT_THROW(write_safetensors("a", {{"", t}}), ArgumentError);
  EXPECT_THROW(write_safetensors("a", {{"__metadata__", t}}), ArgumentError);
  EXPECT_THROW(write_safetensors("a", {{"x", t}, {"y", t}, {"x", t}}), ArgumentError);
  EXPECT_THROW(write_safetensors("a", {{"\xFF", t}}), ArgumentError);
  EXPECT_THROW(write_safetensors("a", {{"x", t}}, {{"k", "\xFF"}}), ArgumentError);
  EXPECT_FALSE(files.exists("a"));
}

TEST(Safetensors, a_fault_of_any_file_operation_is_an_io_error) {
  test::MemoryFileOps files;
  write_safetensors("a", {{"x", Tensor::zeros({3}, DType::kF32)}});
  std::int64_t fail_at = 1;
  for (;; ++fail_at) {
    test::FaultFileOps faults(fail_at);
    try {
      SafetensorsFile("a").read("x");
      write_safetensors("b", {{"x", Tensor::zeros({3}, DType::kF32)}});
      break;
    } catch (const IoError&) {
      EXPECT_FALSE(files.exists("b"));
    }
  }
  EXPECT_EQ(fail_at, 1 + 4 + 1);  // open, length, header, tensor; write; then none is left to fail
}

// ---- the catalogue ----

TEST(SafetensorsHostile, S1_length_of_the_header) {
  for (std::size_t size = 0; size < 8; ++size) {
    EXPECT_THAT(
        refusal(std::string(size, '\0')),
        HasSubstr(concat("truncated: a safetensors file has at least 10 bytes, this one has ",
                         std::uint64_t{size})));
  }
  EXPECT_THAT(refusal(number(5) + "{}"),
              HasSubstr("at byte 0: truncated: the header has 5 bytes, the file has 2"));
  EXPECT_THAT(refusal(number(~std::uint64_t{0}) + "{}"),
              HasSubstr("its header would have 18446744073709551615 bytes, allowed are 100000000"));
  EXPECT_THAT(refusal(number(100'000'001), std::uint64_t{1} << 40),
              HasSubstr("allowed are 100000000"));
  EXPECT_EQ(refusal(with_header("{}")), "accepted");
}

TEST(SafetensorsHostile, S2_not_a_header) {
  EXPECT_THAT(refusal(with_header("")), HasSubstr("its header must begin with '{'"));
  EXPECT_THAT(refusal(with_header(" {}")),
              HasSubstr("at byte 8: not a safetensors file: its header must begin with '{'"));
  EXPECT_THAT(refusal(with_header("[]")), HasSubstr("must begin with '{'"));
  EXPECT_THAT(refusal(with_header("{} x")), HasSubstr("header: line 1, column 4: not JSON"));
  EXPECT_THAT(refusal(with_header("{\"a\":")), HasSubstr("header: line 1, column 5: not JSON"));
  EXPECT_THAT(refusal(with_header("{\"\xFF\":1}")), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(refusal(with_header("{}" + std::string(3, '\0'))), HasSubstr("a NUL byte"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_NE(refusal(with_header(deep)), "accepted");
  EXPECT_NE(refusal(with_header("{\"t\":{\"dtype\":\"U8\",\"shape\":" + std::string(100'000, '['))),
            "accepted");
  EXPECT_EQ(refusal(with_header("{}   \n")), "accepted");
}

TEST(SafetensorsHostile, S2_many_entries) {
  std::string header = "{";
  for (int i = 0; i < 262'145; ++i) {
    header +=
        concat(i == 0 ? "" : ",", "\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  }
  EXPECT_THAT(refusal(with_header(header + "}")), HasSubstr("more than 262144 tensors"));
}

TEST(SafetensorsHostile, S3_duplicate_keys) {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  EXPECT_THAT(refusal(with_header("{\"t\":" + entry + ",\"t\":" + entry + "}")),
              HasSubstr("key \"t\" stands twice"));
  EXPECT_THAT(refusal_of(R"({"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]})"),
              HasSubstr("key \"dtype\" stands twice"));
  EXPECT_THAT(refusal(with_header(R"({"__metadata__":{"a":"x","a":"y"}})")),
              HasSubstr("key \"a\" stands twice"));
}

TEST(SafetensorsHostile, S4_offsets) {
  const auto two = [](const std::string& a, const std::string& b, std::size_t data) {
    return refusal(with_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                                   R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                               data));
  };
  EXPECT_EQ(two("[0,4]", "[4,8]", 8), "accepted");
  EXPECT_EQ(two("[4,8]", "[0,4]", 8), "accepted");
  EXPECT_THAT(two("[4,0]", "[4,8]", 8), HasSubstr("tensor 'a': its data_offsets are 4 and 0"));
  EXPECT_THAT(two("[0,4]", "[0,4]", 8),
              HasSubstr("its data begin at 0, overlapping data that end at 4"));
  EXPECT_THAT(two("[0,4]", "[3,7]", 8), HasSubstr("tensor 'b': its data begin at 3, overlapping"));
  EXPECT_THAT(two("[0,4]", "[5,9]", 9),
              HasSubstr("tensor 'b': its data begin at 5, leaving a hole from 4"));
  EXPECT_THAT(two("[1,5]", "[5,9]", 9),
              HasSubstr("tensor 'a': its data begin at 1, leaving a hole from 0"));
  EXPECT_THAT(two("[0,4]", "[4,8]", 7),
              HasSubstr("truncated: tensor 'b' has 4 bytes from 4 of the data, the file has 7"));
  EXPECT_THAT(two("[0,4]", "[4,8]", 9), HasSubstr("the file has 1 bytes after the last tensor"));
  EXPECT_THAT(two("[0,4]", "[9223372036854775803,9223372036854775807]", 8),
              HasSubstr("truncated: tensor 'b'"));
  for (const char* offsets : {"[]", "[0]", "[0,4,4]", "[-1,3]", "[0.0,4]", "[\"0\",4]", "[null,4]",
                              "[[0],4]", "{}", "\"0\"", "4"}) {
    EXPECT_THAT(two("[0,4]", offsets, 8), HasSubstr("tensor 'b': its ")) << offsets;
  }
  EXPECT_EQ(refusal_of(R"({"dtype":"F32","shape":[0,9],"data_offsets":[0,0]})"), "accepted");
  EXPECT_THAT(refusal(with_header("{}", 1)), HasSubstr("1 bytes after the last tensor"));
}

TEST(SafetensorsHostile, S5_shapes) {
  const auto shape = [](const std::string& text) {
    return refusal_of("{\"dtype\":\"U8\",\"shape\":" + text + ",\"data_offsets\":[0,4]}", 4);
  };
  EXPECT_EQ(shape("[2,2]"), "accepted");
  EXPECT_THAT(shape("[4294967296,4294967296]"), HasSubstr("the product of its shape overflows"));
  EXPECT_THAT(shape("[0,4294967296,4294967296]"), HasSubstr("the product of its shape overflows"));
  EXPECT_THAT(shape("[9223372036854775807,2]"), HasSubstr("the product of its shape overflows"));
  EXPECT_THAT(shape("[-4]"), HasSubstr("a size in its shape is -4"));
  EXPECT_THAT(shape("[4.0]"), HasSubstr("its shape has a number that is not a whole one"));
  EXPECT_THAT(shape("[1e400]"), HasSubstr("a number is out of range"));
  EXPECT_THAT(shape("[18446744073709551616]"),
              HasSubstr("its shape has a number that is not a whole one below 2^63"));
  EXPECT_THAT(shape("[\"4\"]"), HasSubstr("its shape has a string"));
  EXPECT_THAT(shape("[[4]]"), HasSubstr("its shape has an array"));
  EXPECT_THAT(shape("4"), HasSubstr("its field 'shape' is a number"));
  std::string ones = "[1";
  for (int i = 1; i < 100; ++i) ones += ",1";
  EXPECT_THAT(shape(ones + "]"), HasSubstr("its rank is above 16"));
}

TEST(SafetensorsHostile, S6_dtypes) {
  for (const char* name : {"F4", "F8_E4M3", "U64", "f32", ""}) {
    EXPECT_THAT(
        refusal_of(concat(R"({"dtype":")", name, R"(","shape":[0],"data_offsets":[0,0]})")),
        HasSubstr(concat("tensor 't': dtype '", name, "' is not supported, allowed are F64 F32")));
  }
  EXPECT_THAT(refusal_of(R"({"dtype":7,"shape":[0],"data_offsets":[0,0]})"),
              HasSubstr("its field 'dtype' is a number"));
}

TEST(SafetensorsHostile, S7_metadata) {
  for (const char* value : {"1", "null", "true", "1.5", "[\"x\"]", "{\"x\":\"y\"}"}) {
    EXPECT_THAT(refusal(with_header(concat(R"({"__metadata__":{"a":)", value, "}}"))),
                HasSubstr("__metadata__ 'a' is "));
  }
  EXPECT_NE(refusal(with_header(R"({"__metadata__":"x"})")), "accepted");
  EXPECT_THAT(
      refusal(with_header(R"({"__metadata__":{"a":")" + std::string(17 << 20, 'x') + "\"}}")),
      HasSubstr("__metadata__ has more than 16777216 bytes"));
}

TEST(SafetensorsHostile, S8_size_against_shape) {
  EXPECT_THAT(refusal_of(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", 4),
              HasSubstr("tensor 't': its shape and dtype make 8 bytes, its data_offsets 4"));
  EXPECT_THAT(refusal_of(R"({"dtype":"F32","shape":[0],"data_offsets":[0,4]})", 4),
              HasSubstr("make 0 bytes"));
}

TEST(SafetensorsHostile, fields_are_the_three_and_all_of_them) {
  EXPECT_THAT(refusal_of(R"({"shape":[0],"data_offsets":[0,0]})"),
              HasSubstr("tensor 't': dtype is missing"));
  EXPECT_THAT(refusal_of(R"({"dtype":"U8","data_offsets":[0,0]})"), HasSubstr("shape is missing"));
  EXPECT_THAT(refusal_of(R"({"dtype":"U8","shape":[0]})"), HasSubstr("data_offsets is missing"));
  EXPECT_THAT(refusal_of(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1})"),
              HasSubstr("unknown field 'x'"));
  for (const char* entry : {"1", "null", "\"x\"", "[]", "false", "0.5"}) {
    EXPECT_THAT(refusal_of(entry), HasSubstr("tensor 't': the entry is ")) << entry;
  }
}

TEST(SafetensorsHostile, a_bool_is_zero_or_one) {
  std::string bytes = with_header(R"({"t":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", 2);
  EXPECT_EQ(refusal(bytes), "accepted");
  bytes.back() = '\2';
  EXPECT_THAT(refusal(bytes), HasSubstr(concat("at byte ", std::uint64_t{bytes.size() - 1},
                                               ": tensor 't': a bool is 2")));
}

TEST(SafetensorsHostile, every_truncation_and_flipped_bit_is_survived) {
  test::MemoryFileOps files;
  write_safetensors(
      "a", {{"x", Tensor::zeros({2, 3}, DType::kF32)}, {"y", Tensor::zeros({3}, DType::kBool)}},
      {{"k", "v"}});
  std::string bytes = read_text("a", 1 << 20);
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_NE(refusal(bytes, size), "accepted") << size;
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<char>(1 << bit % 8);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ mask);
    refused += refusal(bytes) != "accepted";
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ mask);
  }
  EXPECT_GT(refused, 500u);
}

}  // namespace
}  // namespace quire::io

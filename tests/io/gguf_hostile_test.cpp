#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <string>

#include "quire/base/error.h"
#include "quire/io/gguf.h"
#include "tests/support/folder.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file_ops.h"

namespace quire::io {
namespace {

using test::gguf_number;
using test::gguf_text;
using test::GgufWriter;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

/// What the reader says about these bytes; "accepted" when it takes them. `size` makes the file
/// longer (sparse) or shorter.
std::string refusal(const std::string& bytes, std::uint64_t size) {
  test::MemoryFileOps files;
  files.put("m.gguf", bytes, size);
  try {
    GgufFile file("m.gguf");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}
std::string refusal(const std::string& bytes) { return refusal(bytes, bytes.size()); }
std::string refusal(const GgufWriter& writer) { return refusal(writer.bytes()); }

/// A message that begins with the file and this offset.
auto at(std::uint64_t offset, const std::string& what) {
  return AllOf(StartsWith(concat("m.gguf: at byte ", offset, ": ")), HasSubstr(what));
}

// Where the first key stands, and the first tensor of a file without keys.
constexpr std::uint64_t kFirst = 24;

std::string zeros(std::size_t n) { return std::string(n, '\0'); }

// ---- the catalogue ----

TEST(GgufHostile, G01_empty_and_G02_magic_only) {
  EXPECT_EQ(refusal(""),
            "m.gguf: at byte 0: not a GGUF file: it must begin with 'GGUF', found nothing; it "
            "looks like an empty file");
  for (const char* head : {"G", "GG", "GGU"})
    EXPECT_THAT(refusal(head), at(0, "truncated: a GGUF file has at least 24 bytes"));
  EXPECT_THAT(refusal("GGUF"), at(4, "truncated: the version needs 4 bytes, the file has 0 left"));
}

TEST(GgufHostile, G03_wrong_magic_names_the_likely_kind) {
  const auto kind = [](const std::string& head) { return refusal(head + zeros(300)); };
  EXPECT_THAT(kind(std::string("\x40\0\0\0\0\0\0\0{\"a\":", 13)),
              at(0, "it looks like a safetensors file"));
  EXPECT_THAT(kind("PK\x03\x04"), at(0, "a zip archive"));
  EXPECT_THAT(kind("PK\x03\x04" + zeros(26) + "archive/data.pkl"), at(0, "a PyTorch checkpoint"));
  EXPECT_THAT(kind("\x80\x02"), at(0, "a PyTorch checkpoint"));
  EXPECT_THAT(kind("\n <!DocType html><html>"), at(0, "an HTML page"));
  EXPECT_THAT(kind("<html>"), at(0, "an HTML page"));
  EXPECT_THAT(kind("version https://git-lfs.github.com/spec/v1\n"), at(0, "a Git LFS pointer"));
  EXPECT_THAT(kind("FUGG"), at(0, "a byte-swapped GGUF file"));
  EXPECT_THAT(kind("tjgg"), at(0, "a GGML file from before GGUF"));
  EXPECT_THAT(kind("\x1f\x8b"), at(0, "a gzip archive"));
  EXPECT_THAT(kind("{\"a\": 1}"), at(0, "a JSON text"));
  EXPECT_EQ(kind("abcd"),
            "m.gguf: at byte 0: not a GGUF file: it must begin with 'GGUF', found 'abcd'");
  EXPECT_THAT(kind("\xFF\x1B\n\x07"),
              HasSubstr("found '????"));  // nothing that moves a terminal's cursor
}

TEST(GgufHostile, G04_version) {
  GgufWriter writer;
  for (const std::uint32_t version : {0u, 1u, 4u, 0x80000001u, ~0u}) {
    writer.version = version;
    EXPECT_THAT(refusal(writer),
                at(4, concat("GGUF version ", version, " is not supported, allowed are 2 and 3")));
  }
  for (const std::uint32_t version : {0x03000000u, 0x02000000u, 0x80000000u}) {
    writer.version = version;
    EXPECT_THAT(refusal(writer), at(4, "the other byte order (big-endian)"));
  }
}

TEST(GgufHostile, G05_counts_are_refused_before_anything_is_made) {
  for (const std::uint64_t count : {std::uint64_t{1} << 63, ~std::uint64_t{0},
                                    std::uint64_t{1} << 40, std::uint64_t{10'000'000}}) {
    GgufWriter tensors, pairs;
    tensors.tensor_count = count;
    pairs.pair_count = count;
    EXPECT_THAT(refusal(tensors), at(8, concat("the number of tensors is ", count)));
    EXPECT_THAT(refusal(pairs), at(16, concat("the number of keys is ", count)));
  }
  // Within the limit, but more than the file could hold.
  GgufWriter writer;
  writer.tensor_count = 5;
  EXPECT_THAT(refusal(writer),
              at(8, "truncated: the number of tensors is 5, which takes at least 165 bytes"));
  writer.tensor_count.reset();
  writer.pair_count = 5;
  EXPECT_THAT(refusal(writer),
              at(16, "truncated: the number of keys is 5, which takes at least 70 bytes"));
  writer.pair_count = 1;
  EXPECT_THAT(refusal(writer.bytes() + zeros(40)), at(kFirst, "the key '' is empty"));
}

TEST(GgufHostile, G06_many_keys_take_linear_time_or_are_refused) {
  GgufWriter writer;
  for (int i = 0; i < 65'536; ++i) writer.number("key" + std::to_string(i), std::uint8_t{1});
  EXPECT_EQ(refusal(writer), "accepted");
  writer.number("one more", std::uint8_t{1});
  EXPECT_THAT(refusal(writer), at(16, "the number of keys is 65537, allowed are at most 65536"));
  writer.pair_count = 1'000'000;
  EXPECT_THAT(refusal(writer), at(16, "the number of keys is 1000000"));
}

TEST(GgufHostile, G07_keys) {
  const auto with_key = [](const std::string& key_bytes) {
    GgufWriter writer;
    writer.pair_count = 1;
    return refusal(writer.bytes().substr(0, kFirst) + key_bytes + zeros(100));
  };
  EXPECT_THAT(with_key(gguf_number(std::uint64_t{1} << 63)),
              at(kFirst, "a key has a length of 9223372036854775808 bytes"));
  EXPECT_THAT(with_key(gguf_number(~std::uint64_t{0})), at(kFirst, "truncated"));
  EXPECT_THAT(with_key(gguf_text("")), at(kFirst, "the key '' is empty"));
  EXPECT_THAT(with_key(gguf_text(std::string(65'536, 'k'))),
              at(kFirst, "a key has a length of 65536 bytes, allowed are 65535"));
  EXPECT_EQ(refusal(GgufWriter().number(std::string(65'535, 'k'), 1.0f)), "accepted");
  EXPECT_THAT(with_key(gguf_text("a\xFF")), at(kFirst, "the key 'a?' is not UTF-8"));
  EXPECT_THAT(with_key(gguf_text("a\nb")), at(kFirst, "the key 'a?b' has a control character"));
  EXPECT_THAT(with_key(gguf_text(std::string("a\0b", 3))), at(kFirst, "has a control character"));
  GgufWriter writer;
  writer.text("one", "x").number("two", 1.0f).text("one", "y");
  const std::uint64_t second = writer.bytes().find("y");
  EXPECT_THAT(refusal(writer), at(second - 8, "the key 'one' stands twice"));
}

TEST(GgufHostile, G08_strings) {
  GgufWriter writer;
  writer.raw("k", test::kGgufText, gguf_number(std::uint64_t{1000}) + "abc");
  const std::uint64_t value = kFirst + 8 + 1 + 4;
  EXPECT_THAT(refusal(writer), at(value, "truncated: a value has a length of 1000 bytes"));
  for (const std::uint64_t length : {~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    EXPECT_THAT(refusal(GgufWriter().raw("k", test::kGgufText, gguf_number(length))),
                at(value, "truncated"));
  }
  // 900 MiB of nothing in a sparse file.
  writer = {};
  writer.raw("k", test::kGgufText, gguf_number(std::uint64_t{900} << 20));
  EXPECT_THAT(refusal(writer.bytes(), std::uint64_t{1} << 40), at(value, "allowed are 67108864"));
}

TEST(GgufHostile, G08_a_header_does_not_go_on_for_ever) {
  // Each string is allowed; three of them are more than a header may have.
  GgufWriter writer;
  writer.pair_count = 3;
  std::string bytes = writer.bytes().substr(0, kFirst);
  bytes.reserve(std::size_t{200} << 20);
  std::string pair = gguf_text("a") + gguf_number(std::uint32_t{test::kGgufText}) +
                     gguf_number((std::uint64_t{64} << 20) - 64);
  for (char key = 'a'; key < 'd'; ++key) {
    pair[8] = key;
    bytes += pair;
    bytes.resize(bytes.size() + (std::size_t{64} << 20) - 64);
  }
  EXPECT_THAT(refusal(bytes), HasSubstr("the header goes on after 134217728 bytes"));
}

TEST(GgufHostile, G09_arrays) {
  const std::uint64_t type_at = kFirst + 8 + 1 + 4, count_at = type_at + 4;
  const auto with_array = [](std::uint32_t type, std::uint64_t count, std::uint64_t size) {
    GgufWriter writer;
    writer.raw("k", test::kGgufArray, gguf_number(type) + gguf_number(count));
    return refusal(writer.bytes(), size);
  };
  constexpr std::uint64_t kBig = std::uint64_t{1} << 40;
  for (const std::uint64_t count : {~std::uint64_t{0}, std::uint64_t{1} << 63,
                                    std::uint64_t{1} << 62, std::uint64_t{1} << 61}) {
    for (const std::uint32_t type :
         {test::kGgufU8, test::kGgufU32, test::kGgufText, test::kGgufF64}) {
      EXPECT_THAT(with_array(type, count, kBig), at(count_at, "does not fit the"))
          << count << " of " << type;
    }
  }
  EXPECT_THAT(with_array(test::kGgufU32, 100, 200),
              at(count_at, "truncated: key 'k': an array of 100 u32 does not fit the"));
  EXPECT_THAT(with_array(test::kGgufU8, (4u << 20) + 1, kBig),
              at(count_at, "an array has 4194305 elements"));
  EXPECT_THAT(with_array(test::kGgufText, (2u << 20) + 1, kBig),
              at(count_at, "an array has 2097153 elements"));
  EXPECT_THAT(with_array(test::kGgufArray, 1, kBig),
              at(type_at, "arrays of arrays are not supported"));
  EXPECT_THAT(with_array(99, 1, kBig),
              at(type_at, "the type of an array's elements is 99, allowed are 0 to 12"));
  GgufWriter writer;
  writer.raw("k", 13, "");
  EXPECT_THAT(refusal(writer.bytes() + zeros(10)),
              at(kFirst + 9, "the value's type is 13, allowed are 0 to 12"));
  writer = {};
  writer.numbers("k", std::vector<std::uint64_t>{1, std::uint64_t{1} << 63});
  EXPECT_THAT(refusal(writer), at(count_at + 16, "an array has the number 9223372036854775808"));
}

TEST(GgufHostile, G09_the_limit_on_elements_is_one_for_all_arrays) {
  GgufWriter writer;
  writer.numbers("a", std::vector<std::uint8_t>(3u << 20))
      .numbers("b", std::vector<std::uint8_t>(1u << 20));
  EXPECT_EQ(refusal(writer), "accepted");
  writer.numbers("c", std::vector<std::uint8_t>(1));
  EXPECT_THAT(
      refusal(writer),
      HasSubstr("key 'c': an array has 1 elements; all arrays together may have 4194304 numbers"));
}

TEST(GgufHostile, a_boolean_is_zero_or_one) {
  EXPECT_THAT(refusal(GgufWriter().raw("k", test::kGgufBool, "\2")),
              at(kFirst + 13, "a boolean is 2, allowed are 0 and 1"));
}

TEST(GgufHostile, G10_alignment) {
  const std::string key = "general.alignment";
  const std::uint64_t type_at = kFirst + 8 + key.size(), value_at = type_at + 4;
  for (const std::uint32_t value : {0u, 1u, 3u, 4u, 24u, 33u, 1u << 21, 1u << 31}) {
    EXPECT_THAT(
        refusal(GgufWriter().number(key, value)),
        at(value_at, concat("general.alignment is ", value, ", allowed are powers of two from 8")));
  }
  EXPECT_THAT(refusal(GgufWriter().number(key, std::int32_t{32})),
              at(type_at, "general.alignment has type i32, it must be u32"));
  EXPECT_THAT(refusal(GgufWriter().number(key, std::uint64_t{32})), at(type_at, "has type u64"));
  EXPECT_THAT(refusal(GgufWriter().text(key, "32")), at(type_at, "has type string"));
  EXPECT_THAT(refusal(GgufWriter().numbers(key, std::vector<std::uint32_t>{32})),
              at(type_at, "has type array"));
  EXPECT_THAT(refusal(GgufWriter().number(key, 32u).number(key, 64u)),
              HasSubstr("the key 'general.alignment' stands twice"));
}

// The fields of the first tensor of a file without keys, whose name is "t".
constexpr std::uint64_t kRankAt = kFirst + 8 + 1, kDimAt = kRankAt + 4;

std::string refusal_of_shape(std::vector<std::int64_t> dims, std::uint32_t type = 0) {
  return refusal(GgufWriter().tensor("t", type, std::move(dims), zeros(64)));
}

TEST(GgufHostile, G11_shapes) {
  EXPECT_THAT(refusal(GgufWriter().tensor("t", 0, {}, zeros(64))),
              at(kRankAt, "the rank is 0, allowed are 1 to 4"));
  EXPECT_THAT(refusal_of_shape({1, 1, 1, 1, 1}), at(kRankAt, "the rank is 5"));
  std::string bytes = GgufWriter().tensor("t", 0, {1}, zeros(64)).bytes();
  bytes.replace(kRankAt, 4, gguf_number(std::uint32_t{1} << 31));
  EXPECT_THAT(refusal(bytes), at(kRankAt, "the rank is 2147483648"));
  EXPECT_THAT(refusal_of_shape({-1}), at(kDimAt, "tensor 't': dimension 0 is -1"));
  EXPECT_THAT(refusal_of_shape({2, std::numeric_limits<std::int64_t>::min()}),
              at(kDimAt + 8, "dimension 1 is -9223372036854775808"));
  EXPECT_THAT(refusal_of_shape({(std::int64_t{1} << 42) + 1}),
              at(kFirst, "truncated: tensor 't' has 17592186044420 bytes"));
  for (const auto& dims : std::vector<std::vector<std::int64_t>>{
           {std::int64_t{1} << 32, std::int64_t{1} << 32},
           {std::int64_t{1} << 62, 4},
           {std::int64_t{1} << 62},
           {std::int64_t{1} << 21, std::int64_t{1} << 21, std::int64_t{1} << 21, 2},
           {0, std::int64_t{1} << 62, 4},
           {std::int64_t{1} << 62, 4, 0}}) {
    EXPECT_THAT(refusal_of_shape(dims), at(kRankAt, "the product of its dimensions overflows"));
  }
}

TEST(GgufHostile, G12_padding_cannot_wrap) {
  // Sizes just below 2^63 and 2^64: neither their sum nor its padding may come out small.
  EXPECT_THAT(refusal_of_shape({std::numeric_limits<std::int64_t>::max()}, 24),
              at(kFirst, "truncated: tensor 't' has 9223372036854775807 bytes"));
  EXPECT_THAT(refusal_of_shape({std::numeric_limits<std::int64_t>::max() / 8 + 1}, 28),
              at(kRankAt, "overflows"));
  EXPECT_THAT(refusal_of_shape({(std::int64_t{1} << 61) - 1, 8}, 24), at(kRankAt, "overflows"));
  GgufWriter writer;
  writer.tensor("t", 24, {std::numeric_limits<std::int64_t>::max()}, "")
      .tensor("u", 24, {std::numeric_limits<std::int64_t>::max()}, "");
  EXPECT_THAT(refusal(writer.bytes(), ~std::uint64_t{0}),
              HasSubstr("tensor 'u': its offset is 0, after the tensors before it must come "
                        "9223372036854775808"));
  writer.tensors[1].offset = std::uint64_t{1} << 63;
  EXPECT_THAT(refusal(writer.bytes(), ~std::uint64_t{0}), HasSubstr("truncated: tensor 'u'"));
}

TEST(GgufHostile, G13_types) {
  const std::uint64_t type_at = kDimAt + 8;
  for (const std::uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 42u, 99u, ~0u}) {
    EXPECT_THAT(refusal_of_shape({256}, type),
                at(type_at, concat("tensor 't': type ", type, " is unknown or was removed")));
  }
  EXPECT_THAT(refusal_of_shape({33}, 3),
              at(kRankAt, "tensor 't': a row has 33 elements, Q4_1 needs a multiple of 32"));
  EXPECT_THAT(refusal_of_shape({32, 4}, 12),
              at(kRankAt, "a row has 32 elements, Q4_K needs a multiple of 256"));
}

TEST(GgufHostile, G14_offsets) {
  const auto with_offsets = [](std::vector<std::uint64_t> offsets, std::uint64_t cut = 0) {
    GgufWriter writer;
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      writer.tensor(std::string(1, static_cast<char>('a' + i)), 0, {16}, zeros(64));
      writer.tensors.back().offset = offsets[i];
    }
    const std::string bytes = writer.bytes();
    return refusal(bytes, bytes.size() - cut);
  };
  constexpr std::uint64_t kEntry = 8 + 1 + 4 + 8 + 4 + 8;
  EXPECT_EQ(with_offsets({0, 64, 128}), "accepted");
  EXPECT_THAT(with_offsets({0, 32, 128}),
              at(kFirst + kEntry,
                 "tensor 'b': its offset is 32, after the tensors before it must come 64"));
  EXPECT_THAT(with_offsets({0, 0}), at(kFirst + kEntry, "its offset is 0"));
  EXPECT_THAT(with_offsets({64, 0}), at(kFirst, "tensor 'a': its offset is 64"));
  EXPECT_THAT(with_offsets({0, 65}), at(kFirst + kEntry, "its offset is 65"));
  EXPECT_THAT(with_offsets({0, 96}), at(kFirst + kEntry, "its offset is 96"));
  EXPECT_THAT(with_offsets({~std::uint64_t{0}}), at(kFirst, "its offset is 18446744073709551615"));
  EXPECT_THAT(with_offsets({0, 64}, 1),
              at(kFirst + kEntry, "truncated: tensor 'b' has 64 bytes from byte"));
  EXPECT_THAT(with_offsets({0, 64}, 65), at(kFirst, "truncated: tensor 'a'"));
}

TEST(GgufHostile, G15_names) {
  const auto with_name = [](const std::string& name) {
    return refusal(GgufWriter().tensor(name, 0, {1}, zeros(4)));
  };
  EXPECT_EQ(with_name(std::string(63, 'n')), "accepted");
  EXPECT_THAT(with_name(std::string(64, 'n')),
              at(kFirst, "a tensor's name has a length of 64 bytes, allowed are 63"));
  EXPECT_THAT(with_name(""), at(kFirst, "the tensor name '' is empty"));
  EXPECT_THAT(with_name(std::string("a\0b", 3)), at(kFirst, "has a control character"));
  EXPECT_THAT(with_name("a\x80"), at(kFirst, "the tensor name 'a?' is not UTF-8"));
  EXPECT_THAT(with_name("../../etc/passwd"), at(kFirst, "has '../'"));
  GgufWriter writer;
  writer.tensor("a", 0, {1}, zeros(4)).tensor("b", 0, {1}, zeros(4)).tensor("a", 0, {1}, zeros(4));
  EXPECT_THAT(refusal(writer),
              at(kFirst + 2 * (8 + 1 + 4 + 8 + 4 + 8), "the tensor 'a' stands twice"));
}

TEST(GgufHostile, G21_split_files_are_refused_by_name) {
  EXPECT_THAT(refusal(GgufWriter().number("split.count", std::uint16_t{3})),
              HasSubstr("one of 3 parts of a split model (split.count)"));
  EXPECT_EQ(refusal(GgufWriter().number("split.count", std::uint16_t{1})), "accepted");
  EXPECT_EQ(refusal(GgufWriter().number("split.count", std::uint16_t{0})), "accepted");
  EXPECT_THAT(refusal(GgufWriter().text("split.count", "3")),
              HasSubstr("split.count must be a whole number"));
  EXPECT_THAT(refusal(GgufWriter().number("split.count", std::int32_t{-1})),
              HasSubstr("split.count must be a whole number"));
}

TEST(GgufHostile, G24_what_is_no_file) {
  const test::Folder made;
  const std::string& folder = made.path();
  ASSERT_EQ(::mkfifo((folder + "/pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("loop", folder + "/loop");
  EXPECT_THROW(GgufFile(folder + "/absent"), IoError);
  EXPECT_THROW(GgufFile{folder}, IoError);
  EXPECT_THROW(GgufFile(folder + "/pipe"), IoError);
  EXPECT_THROW(GgufFile(folder + "/loop"), IoError);
  EXPECT_THROW(GgufFile("/dev/zero"), IoError);
}

}  // namespace
}  // namespace quire::io

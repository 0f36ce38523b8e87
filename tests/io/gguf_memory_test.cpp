// What the reader takes while it reads or refuses: bounded by what it has read, never by what a
// file claims.
#include <gtest/gtest.h>

#include <string>

#include "quire/base/error.h"
#include "quire/io/gguf.h"
#include "tests/io/small_gguf.h"
#include "tests/support/allocation_counter.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file_ops.h"

namespace quire::io {
namespace {

struct Taken {
  std::int64_t peak;
  std::int64_t read;
  bool accepted;
};

Taken taken(const std::string& bytes, std::uint64_t size) {
  test::MemoryFileOps files;
  files.put("m.gguf", bytes, size);
  bool accepted = true;
  const std::int64_t peak = test::peak_bytes([&] {
    try {
      GgufFile file("m.gguf");
    } catch (const FormatError&) {
      accepted = false;
    }
  });
  return {peak, static_cast<std::int64_t>(files.bytes_read()), accepted};
}

// The promise of quire/io/gguf.h.
constexpr std::int64_t kAllowance = 128 << 20;

TEST(GgufMemory, the_counter_counts) {
  EXPECT_GE(test::peak_bytes([] { std::string(1 << 20, 'x').shrink_to_fit(); }), 1 << 20);
}

TEST(GgufMemory, a_small_file_takes_little_whatever_it_claims) {
  // Each 8-byte place of the header in turn claims the largest, and a large but plausible, count.
  const std::string good = test::small_gguf().bytes();
  for (std::size_t at = 0; at + 8 <= good.size(); ++at) {
    for (const std::uint64_t claim :
         {~std::uint64_t{0}, std::uint64_t{1} << 33, std::uint64_t{1} << 20}) {
      std::string bytes = good;
      bytes.replace(at, 8, test::gguf_number(claim));
      EXPECT_LE(taken(bytes, bytes.size()).peak,
                20'000 + 10 * static_cast<std::int64_t>(bytes.size()))
          << at;
    }
  }
}

TEST(GgufMemory, a_sparse_file_does_not_help_a_claim) {
  constexpr std::uint64_t kSize = std::uint64_t{1} << 42;
  const std::string array_of_texts =
      test::gguf_number(std::uint32_t{test::kGgufText}) + test::gguf_number(std::uint64_t{2} << 20);
  const std::string array_of_bytes =
      test::gguf_number(std::uint32_t{test::kGgufU8}) + test::gguf_number(std::uint64_t{4} << 20);
  test::GgufWriter tensors, text, texts, numbers, all;
  tensors.tensor_count = 262'144;
  text.raw("k", test::kGgufText, test::gguf_number(std::uint64_t{64} << 20));
  texts.raw("k", test::kGgufArray, array_of_texts);
  numbers.raw("k", test::kGgufArray, array_of_bytes);
  all.tensor_count = 262'144;
  all.raw("k", test::kGgufArray, array_of_bytes + std::string(4 << 20, '\0'))
      .raw("l", test::kGgufArray, array_of_texts);
  for (const test::GgufWriter& writer : {tensors, text, texts, numbers, all}) {
    const Taken result = taken(writer.bytes(), kSize);
    EXPECT_LE(result.peak, kAllowance + 2 * result.read);
    EXPECT_LT(result.read, 100 << 20);
  }
}

TEST(GgufMemory, G05_as_many_tensors_as_are_allowed) {
  test::GgufWriter writer;
  for (int i = 0; i < 262'144; ++i) writer.tensor(concat("t", i), 24, {0, 1, 1, 1}, "");
  const std::string bytes = writer.bytes();
  const Taken result = taken(bytes, bytes.size());
  EXPECT_TRUE(result.accepted);
  EXPECT_LE(result.peak, kAllowance + 2 * result.read);
}

TEST(GgufMemory, texts_of_the_costliest_length) {
  // One byte more than a std::string holds in itself.
  test::GgufWriter writer;
  writer.texts("k", std::vector<std::string>(1 << 20, std::string(16, 'x')));
  const std::string bytes = writer.bytes();
  const Taken result = taken(bytes, bytes.size());
  EXPECT_TRUE(result.accepted);
  EXPECT_LE(result.peak, kAllowance + 2 * result.read);
}

}  // namespace
}  // namespace quire::io

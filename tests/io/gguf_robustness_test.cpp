// Damage of every kind to a good file: the reader says FormatError or accepts, and nothing else
// ever comes out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "quire/base/error.h"
#include "quire/io/gguf.h"
#include "tests/io/small_gguf.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/memory_file_ops.h"

namespace quire::io {
namespace {

enum class Outcome { kAccepted, kRefused };

/// Opens and uses the file; any exception but FormatError goes through and fails the test.
Outcome outcome(std::string_view bytes) {
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  try {
    test::use_all(GgufFile("m.gguf"));
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("m.gguf: at byte "));
    return Outcome::kRefused;
  }
  return Outcome::kAccepted;
}

TEST(GgufRobustness, G01_every_truncation_is_refused) {
  const std::string bytes = test::small_gguf().bytes();
  ASSERT_EQ(outcome(bytes), Outcome::kAccepted);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(outcome(std::string_view(bytes).substr(0, size)), Outcome::kRefused) << size;
  }
}

TEST(GgufRobustness, every_flipped_bit_is_survived) {
  std::string bytes = test::small_gguf().bytes();
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<char>(1 << bit % 8);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ mask);
    refused += outcome(bytes) == Outcome::kRefused;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ mask);
  }
  EXPECT_GT(refused, 1000u);  // most of the header is lengths, counts and types
}

TEST(GgufRobustness, random_damage_is_survived) {
  const std::string good = test::small_gguf().bytes();
  std::mt19937_64 random(20'261'121);
  std::size_t refused = 0, accepted = 0;
  for (int round = 0; round < 30'000; ++round) {
    std::string bytes = good;
    for (std::uint64_t n = 1 + random() % 8; n > 0; --n) {
      const std::size_t at = random() % bytes.size();
      // Edges of lengths as often as single bits: a flipped bit alone rarely makes 2^64 - 1.
      if (random() % 2 == 0) {
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
      } else {
        const std::uint64_t edges[] = {0,
                                       1,
                                       255,
                                       1u << 31,
                                       ~0u,
                                       std::uint64_t{1} << 61,
                                       std::uint64_t{1} << 63,
                                       ~std::uint64_t{0}};
        const std::string edge = test::gguf_number(edges[random() % std::size(edges)]);
        for (std::size_t i = 0; i < edge.size() && at + i < bytes.size(); ++i)
          bytes[at + i] = edge[i];
      }
    }
    (outcome(bytes) == Outcome::kRefused ? refused : accepted) += 1;
  }
  EXPECT_GT(refused, 10'000u);
  EXPECT_GT(accepted, 100u);
}

TEST(GgufRobustness, a_fault_of_any_file_operation_is_an_io_error) {
  const std::string bytes = test::small_gguf().bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  std::int64_t fail_at = 1;
  for (;; ++fail_at) {
    test::FaultFileOps faults(fail_at);
    try {
      test::use_all(GgufFile("m.gguf"));
      break;
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("Input/output error"));
    }
  }
  EXPECT_EQ(
      fail_at,
      1 + 1 + 2 + 3);  // open, the magic, the window, three tensors; then none is left to fail
}

TEST(GgufRobustness, G22_a_file_cut_after_its_header_was_read_is_a_format_error) {
  const std::string bytes = test::small_gguf().bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  const GgufFile file("m.gguf");
  files.cut("m.gguf", bytes.size() - 10);
  EXPECT_THROW(test::use_all(file), FormatError);
}

}  // namespace
}  // namespace quire::io

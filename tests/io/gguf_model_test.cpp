// The header of a real model, cut at every field (of the 98,000 tokens and merges a sample) and
// every 4 KiB, and with flipped bits. Needs the model of scripts/fetch_model smollm2.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/io/gguf.h"
#include "tests/io/small_gguf.h"
#include "tests/support/memory_file_ops.h"
#include "tests/support/real_model.h"

namespace quire::io {
namespace {

/// Walks over a good header and notes where each field begins. It checks nothing: the file is known
/// to be right.
class FieldWalk {
 public:
  explicit FieldWalk(std::string_view bytes) : bytes_(bytes) {
    skip(4);
    skip(4);
    const auto tensors = number<std::uint64_t>();
    const auto pairs = number<std::uint64_t>();
    for (std::uint64_t i = 0; i < pairs; ++i) pair();
    for (std::uint64_t i = 0; i < tensors; ++i) tensor();
    fields_.push_back(at_);
  }
  const std::vector<std::size_t>& fields() const { return fields_; }
  std::size_t end() const { return at_; }

 private:
  void skip(std::size_t bytes) {
    fields_.push_back(at_);
    at_ += bytes;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    skip(sizeof value);
    return value;
  }
  void text() { skip(static_cast<std::size_t>(number<std::uint64_t>())); }
  void value(std::uint32_t type) {
    constexpr std::size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    type == test::kGgufText ? text() : skip(kBytes[type]);
  }
  void pair() {
    text();
    const auto type = number<std::uint32_t>();
    if (type != test::kGgufArray) return value(type);
    const auto element = number<std::uint32_t>();
    const auto count = number<std::uint64_t>();
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::size_t before = fields_.size();
      value(element);
      // 200,000 fields of tokens and merges are alike: a prime step keeps some of each.
      if (i >= 3 && i + 3 < count && i % 997 != 0) fields_.resize(before);
    }
  }
  void tensor() {
    text();
    for (auto rank = number<std::uint32_t>(); rank > 0; --rank) number<std::int64_t>();
    number<std::uint32_t>();
    number<std::uint64_t>();
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
  std::vector<std::size_t> fields_;
};

class GgufModel : public testing::Test {
 protected:
  void SetUp() override {
    const auto file = file_ops().open(test::real_model());
    model_bytes_ = file->size();
    header_.resize(8u << 20);
    file->read_at(0, std::as_writable_bytes(std::span(header_)));
    header_.resize(FieldWalk(header_).end());
    files_ = std::make_unique<test::MemoryFileOps>();  // from here on
  }

  /// True when the model's header, in a file of `size` bytes, is accepted; any error but
  /// FormatError goes through.
  bool accepted(std::string_view header, std::uint64_t size) {
    files_->put("m.gguf", header, size);
    try {
      GgufFile file("m.gguf");
      return true;
    } catch (const FormatError&) {
      return false;
    }
  }

  std::string header_;
  std::uint64_t model_bytes_ = 0;
  std::unique_ptr<test::MemoryFileOps> files_;
};

TEST_F(GgufModel, is_accepted_whole) {
  files_->put("m.gguf", header_, model_bytes_);
  const GgufFile file("m.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.tensors().size(), 272u);
  EXPECT_EQ(file.texts("tokenizer.ggml.tokens")->size(), 49'152u);
  EXPECT_EQ(file.texts("tokenizer.ggml.merges")->size(), 48'900u);
  const GgufTensor& last = file.tensors().back();
  EXPECT_EQ(last.offset + last.bytes, model_bytes_);
}

TEST_F(GgufModel, G01_truncated_at_every_field_of_the_header) {
  const std::vector<std::size_t> fields = FieldWalk(header_).fields();
  EXPECT_GT(fields.size(), 2000u);
  for (const std::size_t size : fields) EXPECT_FALSE(accepted(header_, size)) << size;
}

TEST_F(GgufModel, G01_truncated_at_every_4_KiB_of_the_header) {
  for (std::size_t size = 0; size < header_.size(); size += 4096) {
    EXPECT_FALSE(accepted(header_, size)) << size;
  }
}

TEST_F(GgufModel, G01_truncated_in_the_data) {
  for (std::uint64_t size = header_.size(); size < model_bytes_; size += 1u << 20) {
    EXPECT_FALSE(accepted(header_, size)) << size;
  }
  EXPECT_FALSE(accepted(header_, model_bytes_ - 1));
}

TEST_F(GgufModel, flipped_bits_are_survived) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 1'000; ++round) {
    // Half of them among the keys, half among the tensors at the end.
    const std::size_t span = std::min<std::size_t>(header_.size(), 20'000);
    const std::size_t at =
        random() % 2 == 0 ? random() % span : header_.size() - 1 - random() % span;
    const char before = header_[at];
    header_[at] = static_cast<char>(before ^ (1 << random() % 8));
    accepted(header_, model_bytes_);
    header_[at] = before;
  }
}

}  // namespace
}  // namespace quire::io

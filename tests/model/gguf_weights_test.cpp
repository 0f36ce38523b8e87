#include "quire/model/gguf_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "quire/tensor/tensor.h"
#include "tests/model/llama_gguf.h"
#include "tests/support/memory_file_ops.h"

namespace quire::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct Case {
  std::uint32_t type;
  WeightType weight;
};
constexpr Case kCases[] = {{test::kTypeF32, WeightType::kF32},
                           {test::kTypeF16, WeightType::kF16},
                           {test::kTypeBF16, WeightType::kBF16},
                           {test::kTypeQ4_1, WeightType::kQ4_1},
                           {test::kTypeQ8_0, WeightType::kQ8_0}};

class GgufWeights : public testing::Test {
 protected:
  /// A file with a matrix "m" of `rows` × 64 and a vector "v" of 96.
  io::GgufFile open(std::uint32_t type, std::int64_t rows) {
    Rng rng(9);
    matrix_ = test::random_numbers(rng, type, rows * 64, 1.0f);
    vector_ = test::random_numbers(rng, type, 96, 1.0f);
    test::GgufWriter writer;
    writer.text("general.architecture", "llama");
    writer.tensor("m", type, {64, rows}, matrix_.file).tensor("v", type, {96}, vector_.file);
    bytes_ = writer.bytes();
    files_.put("w.gguf", bytes_);
    return io::GgufFile("w.gguf");
  }

  test::StoredNumbers matrix_, vector_;
  std::string bytes_;
  test::MemoryFileOps files_;
};

TEST_F(GgufWeights, reads_matrices_of_every_type_number_by_number) {
  for (const Case& c : kCases) {
    for (const std::int64_t rows : {1, 15, 16, 17, 200}) {
      const io::GgufFile file = open(c.type, rows);
      WeightReader reader(file, {});
      const Weight weight = reader.matrix("m");
      EXPECT_EQ(weight.type(), c.weight);
      ASSERT_EQ(weight.rows(), rows);
      ASSERT_EQ(weight.columns(), 64);
      EXPECT_EQ(reader.bytes(), weight.bytes());
      std::string read(matrix_.floats.size(), '\0');
      for (std::int64_t row = 0; row < rows; ++row) {
        float out[64];
        weight.row(row, out);
        std::memcpy(read.data() + row * 256, out, 256);
      }
      EXPECT_EQ(read, matrix_.floats) << to_string(c.weight) << ", " << rows << " rows";
    }
  }
}

TEST_F(GgufWeights, reads_vectors_of_every_type_as_floats) {
  for (const Case& c : kCases) {
    const io::GgufFile file = open(c.type, 1);
    WeightReader reader(file, {});
    const Tensor vector = reader.vector("v");
    EXPECT_EQ(vector.shape(), (Shape{96}));
    const std::string read(reinterpret_cast<const char*>(vector.data<float>()), 96 * 4);
    EXPECT_EQ(read, vector_.floats) << to_string(c.weight);
    EXPECT_EQ(reader.bytes(), 96 * 4);
  }
}

TEST_F(GgufWeights, progress_goes_up_to_the_bytes_of_all_tensors) {
  const io::GgufFile file = open(test::kTypeQ8_0, 100);
  std::vector<std::int64_t> seen;
  WeightReader reader(file, [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, (100 * 2 + 3) * 34);
    seen.push_back(done);
  });
  reader.matrix("m");
  reader.vector("v");
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), (100 * 2 + 3) * 34);
}

TEST_F(GgufWeights, a_missing_tensor_is_named) {
  const io::GgufFile file = open(0, 1);
  WeightReader reader(file, {});
  for (const std::string name : {"x", "", "M"}) {
    try {
      reader.matrix(name);
      FAIL() << "found " << name;
    } catch (const FormatError& e) {
      EXPECT_THAT(e.what(),
                  AllOf(HasSubstr("w.gguf"), HasSubstr("tensor " + name), HasSubstr("missing")));
    }
    EXPECT_THROW(reader.vector(name), FormatError);
  }
}

TEST_F(GgufWeights, a_type_that_is_not_read_is_named_with_those_that_are) {
  test::GgufWriter writer;
  writer.text("general.architecture", "llama");
  writer.tensor("m", test::kTypeQ5_0, {32, 2}, std::string(44, '\0'));
  const std::string bytes = writer.bytes();
  files_.put("w.gguf", bytes);
  const io::GgufFile file("w.gguf");
  try {
    weight_type(file, *file.tensor("m"));
    FAIL();
  } catch (const FormatError& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("w.gguf"), HasSubstr("tensor m"), HasSubstr("Q5_0"),
                                HasSubstr("F32, F16, BF16, Q4_1, Q8_0")));
  }
  WeightReader reader(file, {});
  EXPECT_THROW(reader.matrix("m"), FormatError);
}

TEST_F(GgufWeights, nothing_of_the_file_form_stays_in_memory) {
  const io::GgufFile file = open(test::kTypeQ8_0, 64'000);  // 4.4 MB
  WeightReader reader(file, {});
  release_cached_bytes();
  reset_peak_allocated_bytes();
  const std::int64_t before = allocated_bytes();
  const Weight weight = reader.matrix("m");
  EXPECT_LE(peak_allocated_bytes() - before, weight.bytes() + (2 << 20));
}

TEST_F(GgufWeights, a_file_that_ends_early_is_an_error) {
  const io::GgufFile file = open(test::kTypeF32, 200);
  files_.cut("w.gguf", bytes_.size() / 2);
  WeightReader reader(file, {});
  EXPECT_THROW(reader.matrix("m"), Error);
}

}  // namespace
}  // namespace quire::model

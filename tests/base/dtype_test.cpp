#include "quire/base/dtype.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

struct Row {
  DType dtype;
  std::size_t bytes;
  const char* name;
  bool floating;
};

constexpr Row kRows[] = {
    {DType::kF64, 8, "f64", true},   {DType::kF32, 4, "f32", true},
    {DType::kBF16, 2, "bf16", true}, {DType::kF16, 2, "f16", true},
    {DType::kI64, 8, "i64", false},  {DType::kI32, 4, "i32", false},
    {DType::kI16, 2, "i16", false},  {DType::kI8, 1, "i8", false},
    {DType::kU8, 1, "u8", false},    {DType::kBool, 1, "bool", false},
};

TEST(DType, has_a_size_a_name_and_a_kind) {
  for (const Row& row : kRows) {
    EXPECT_EQ(size_of(row.dtype), row.bytes) << row.name;
    EXPECT_EQ(to_string(row.dtype), row.name);
    EXPECT_EQ(is_floating(row.dtype), row.floating) << row.name;
  }
}

}  // namespace
}  // namespace quire

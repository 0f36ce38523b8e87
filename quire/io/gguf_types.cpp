#include "quire/base/error.h"
#include "quire/io/gguf.h"

namespace quire::io {
namespace {

struct Row {
  std::uint32_t number;
  GgufType type;
};

// The sums are scales, minima, high bits and quants in the order of the format's structs.
constexpr Row kTypes[] = {
    {0, {"F32", 1, 4}},
    {1, {"F16", 1, 2}},
    {2, {"Q4_0", 32, 2 + 16}},
    {3, {"Q4_1", 32, 2 + 2 + 16}},
    {6, {"Q5_0", 32, 2 + 4 + 16}},
    {7, {"Q5_1", 32, 2 + 2 + 4 + 16}},
    {8, {"Q8_0", 32, 2 + 32}},
    {9, {"Q8_1", 32, 2 + 2 + 32}},
    {10, {"Q2_K", 256, 2 + 2 + 16 + 64}},
    {11, {"Q3_K", 256, 2 + 12 + 32 + 64}},
    {12, {"Q4_K", 256, 2 + 2 + 12 + 128}},
    {13, {"Q5_K", 256, 2 + 2 + 12 + 32 + 128}},
    {14, {"Q6_K", 256, 2 + 16 + 64 + 128}},
    {15, {"Q8_K", 256, 4 + 32 + 256}},
    {16, {"IQ2_XXS", 256, 2 + 64}},
    {17, {"IQ2_XS", 256, 2 + 8 + 64}},
    {18, {"IQ3_XXS", 256, 2 + 32 + 64}},
    {19, {"IQ1_S", 256, 2 + 16 + 32}},
    {20, {"IQ4_NL", 32, 2 + 16}},
    {21, {"IQ3_S", 256, 2 + 4 + 8 + 32 + 64}},
    {22, {"IQ2_S", 256, 2 + 16 + 64}},
    {23, {"IQ4_XS", 256, 2 + 2 + 4 + 128}},
    {24, {"I8", 1, 1}},
    {25, {"I16", 1, 2}},
    {26, {"I32", 1, 4}},
    {27, {"I64", 1, 8}},
    {28, {"F64", 1, 8}},
    {29, {"IQ1_M", 256, 8 + 16 + 32}},
    {30, {"BF16", 1, 2}},
    {34, {"TQ1_0", 256, 2 + 4 + 48}},
    {35, {"TQ2_0", 256, 2 + 64}},
    {39, {"MXFP4", 32, 1 + 16}},
};

}  // namespace

const GgufType* gguf_type(std::uint32_t type) {
  for (const Row& row : kTypes) {
    if (row.number == type) return &row.type;
  }
  return nullptr;
}

std::string gguf_type_name(std::uint32_t type) {
  const GgufType* known = gguf_type(type);
  return known != nullptr ? std::string(known->name) : concat("type ", type);
}

}  // namespace quire::io

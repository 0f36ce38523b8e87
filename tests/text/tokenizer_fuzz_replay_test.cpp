// Runs the tokenizer fuzz target over awkward bytes, with any compiler.
#include <gtest/gtest.h>

#include <string>

#include "tests/fuzz/text_tokenizer_fuzz.cpp"

namespace quire::text {
namespace {

TEST(TokenizerFuzzReplay, AwkwardBytesRoundTrip) {
  const std::string pool =
      std::string(
          "<s><|im_end|>>hello  aaaa\n12 \xE2\x82\xAC\xF0\x9F\x99\x82\xC0\xED\xA0\x80\xFF") +
      '\0';
  std::uint32_t state = 1;
  for (std::size_t i = 0; i < 20'000; ++i) {
    std::string input;
    const std::size_t size = i % 40;
    for (std::size_t k = 0; k <= size; ++k) {
      state = state * 1664525u + 1013904223u;
      input += pool[(state >> 16) % pool.size()];
    }
    EXPECT_EQ(
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()),
        0);
  }
}

}  // namespace
}  // namespace quire::text

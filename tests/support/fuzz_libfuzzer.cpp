// Drives a fuzz target by coverage with libFuzzer; tests/support/fuzz_main.cpp drives the same
// target with plain mutations. Build with -DQUIRE_LIBFUZZER=ON and clang.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/base/error.h"
#include "tests/support/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    quire::test::fuzz_one({reinterpret_cast<const char*>(data), size});
  } catch (const quire::Error&) {
  }
  return 0;
}

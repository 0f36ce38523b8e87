#include "quire/base/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "quire/base/error.h"

namespace quire {
namespace {

/// The environment is read once, so each value gets a process of its own. Exits with 0 when `ask`
/// says so.
template <class Ask>
void with_isa(const char* value, Ask ask) {
  EXPECT_EXIT(
      {
        if (value == nullptr) {
          ::unsetenv("QUIRE_ISA");
        } else {
          ::setenv("QUIRE_ISA", value, 1);
        }
        std::_Exit(ask() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "")
      << "QUIRE_ISA=" << (value == nullptr ? "(unset)" : value);
}

bool refuses(const std::string& part) {
  try {
    (void)isa();
  } catch (const ArgumentError& error) {
    return std::string(error.what()).find(part) != std::string::npos;
  }
  return false;
}

TEST(Isa, PortableIsAlwaysThere) {
  with_isa("portable", [] { return isa() == Isa::kPortable && isa() == Isa::kPortable; });
}

TEST(Isa, TheBestOneByDefault) {
  const bool best = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
  const Isa expected = best ? Isa::kAvx512 : Isa::kPortable;
  with_isa(nullptr, [&] { return isa() == expected; });
  with_isa("", [&] { return isa() == expected; });
  if (best) {
    with_isa("avx512", [] { return isa() == Isa::kAvx512; });
  } else {
    with_isa("avx512", [] { return refuses("this processor has no AVX-512"); });
  }
}

TEST(Isa, UnknownNamesAreRefused) {
  for (const char* name : {"avx2", "AVX512", "portable ", "x"})
    with_isa(name, [&] {
      return refuses(std::string("QUIRE_ISA is '") + name + "'; it may be avx512 or portable");
    });
}

TEST(Isa, DotProductsOfBf16WhereTheyAreFast) {
  const bool has = __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel");
  with_isa(nullptr, [&] { return has_bf16_dot() == (has && isa() == Isa::kAvx512); });
  with_isa("portable", [] { return !has_bf16_dot(); });
}

TEST(Isa, Names) {
  EXPECT_EQ(to_string(Isa::kAvx512), "avx512");
  EXPECT_EQ(to_string(Isa::kPortable), "portable");
}

}  // namespace
}  // namespace quire

#include "quire/base/isa.h"

#include <cstdlib>
#include <string>

#include "quire/base/error.h"

namespace quire {
namespace {

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

Isa choose() {
  const char* forced = std::getenv("QUIRE_ISA");
  if (forced == nullptr || *forced == '\0') return has_avx512() ? Isa::kAvx512 : Isa::kPortable;
  const std::string_view name = forced;
  if (name == "portable") return Isa::kPortable;
  QUIRE_CHECK(name == "avx512", "QUIRE_ISA is '", name, "'; it may be avx512 or portable");
  QUIRE_CHECK(
      has_avx512(),
      "QUIRE_ISA is avx512, but this processor has no AVX-512 with VNNI; use QUIRE_ISA=portable");
  return Isa::kAvx512;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

bool has_bf16_dot() {
  static const bool has =
      isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel");
  return has;
}

std::string_view to_string(Isa isa) { return isa == Isa::kAvx512 ? "avx512" : "portable"; }

}  // namespace quire

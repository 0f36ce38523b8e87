#pragma once

#include <string_view>

namespace quire {

/// The instruction sets that kernels are compiled for.
enum class Isa { kPortable, kAvx512 };

/// The best instruction set of this processor, or what QUIRE_ISA=avx512|portable forces. Read once.
/// Throws ArgumentError when QUIRE_ISA names an unknown set or one this processor lacks.
Isa isa();

/// Whether kernels multiply bf16 with the processor's own dot products (VDPBF16PS). They give the
/// bits of two FMAs, denormals aside, so nothing else depends on it. Not on Intel's processors:
/// there they do half as much in a cycle as FMAs of widened numbers.
bool has_bf16_dot();

/// "avx512" or "portable".
std::string_view to_string(Isa isa);

}  // namespace quire

/// The function `name` of quire::kernel::<instruction set> for this processor. A `*_simd.cpp` file
/// defines it once per instruction set, in namespace quire::kernel::QUIRE_ISA_NS.
#define QUIRE_FOR_ISA(name)                                                \
  (::quire::isa() == ::quire::Isa::kAvx512 ? ::quire::kernel::avx512::name \
                                           : ::quire::kernel::portable::name)

/// Declares a kernel once per instruction set.
#define QUIRE_DECLARE_KERNEL(result, name, ...) \
  namespace avx512 {                            \
  result name(__VA_ARGS__);                     \
  }                                             \
  namespace portable {                          \
  result name(__VA_ARGS__);                     \
  }

#pragma once

#include <string_view>

namespace quire {

/// The instruction sets that kernels are compiled for.
enum class Isa { kPortable, kAvx512 };

/// The best instruction set of this processor, or what QUIRE_ISA=avx512|portable forces. Read once.
/// Throws ArgumentError when QUIRE_ISA names an unknown set or one this processor lacks.
Isa isa();

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

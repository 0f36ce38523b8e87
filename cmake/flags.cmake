# Flags that every target of Quire gets, and the flags of each instruction set.
# No -ffast-math; an FMA is written as an FMA, so contraction is off: it would move bits with inlining.

set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(quire_flags INTERFACE)
target_compile_features(quire_flags INTERFACE cxx_std_20)
# -Wno-psabi: vectors pass between functions that are always inlined, so no binary interface depends on them.
target_compile_options(quire_flags INTERFACE -ffp-contract=off -fno-math-errno -Wno-psabi)
if(QUIRE_DEVELOPER)
  target_compile_options(quire_flags INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wnon-virtual-dtor -Werror)
endif()

# Instruction sets in order of preference; QUIRE_ISA at run time forces one (quire/base/isa.h).
set(QUIRE_ISAS avx512 portable)
# (bf16 only for intrinsics behind has_bf16_dot(): no compiler forms them from ordinary code.)
set(QUIRE_ISA_FLAGS_avx512
  -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mprefer-vector-width=512)
# g++ 12 places objects of 64 bytes wrongly on the stack that it keeps for use after return (GCC bug 110027).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "Sanitize")
  list(APPEND QUIRE_ISA_FLAGS_avx512 --param=asan-use-after-return=0)
endif()
set(QUIRE_ISA_FLAGS_portable "")

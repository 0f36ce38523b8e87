#include <cmath>

#include "quire/ops/math/activation_kernel.h"
#include "quire/ops/math/numbers.h"
#include "quire/ops/math/rows.h"

namespace quire::kernel {
namespace {

// 1 / (1 + e^−g), written with e^−|g|, which cannot overflow.
template <class T>
T sigmoid(T g) {
  const T e = std::exp(-std::abs(g));
  return (g < 0 ? e : T(1)) / (1 + e);
}

}  // namespace

void swiglu_cpu(const Swiglu& args) {
  const auto range = QUIRE_FOR_ISA(swiglu_range);
  // An exponential and a division weigh as much as four streamed numbers.
  for_rows(args.N, 4, [&](std::int64_t begin, std::int64_t end) { range(args, begin, end); });
}

void swiglu_f64_cpu(const SwigluF64& args) {
  for_rows(args.N, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      args.out_N[i] = args.gate_N[i] * sigmoid(args.gate_N[i]) * args.up_N[i];
  });
}

void swiglu_backward_cpu(const SwigluBackward& args) {
  with_floating(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    if constexpr (sizeof(T) >= sizeof(float)) {
      const T* dout = static_cast<const T*>(args.dout_N);
      const T* gate = static_cast<const T*>(args.gate_N);
      const T* up = static_cast<const T*>(args.up_N);
      T* dgate = static_cast<T*>(args.dgate_N);
      T* dup = static_cast<T*>(args.dup_N);
      for_rows(args.N, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const T slope = sigmoid(gate[i]);
          dgate[i] = dout[i] * up[i] * (slope * (1 + gate[i] * (1 - slope)));
          dup[i] = dout[i] * (gate[i] * slope);
        }
      });
    }
  });
}

}  // namespace quire::kernel

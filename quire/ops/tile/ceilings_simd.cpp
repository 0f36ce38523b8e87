// The loops whose speed is the ceiling of all others: one that only reads, and two whose operands
// stay in the first-level cache and whose chains hide each other's latency.

#include "quire/base/simd.h"
#include "quire/ops/tile/ceilings_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {

float stream_read(const float* x, std::int64_t count) {
  F32 sum[8];
  for (int i = 0; i < 8; ++i) sum[i] = zero();
  for (std::int64_t at = 0; at < count; at += 128) {
    for (int i = 0; i < 8; ++i) sum[i] = add(sum[i], load(x + at + 16 * i));
  }
  for (int i = 1; i < 8; ++i) sum[0] = add(sum[0], sum[i]);
  return reduce_add(sum[0]);
}

float fma_chains(const float* operands, std::int64_t steps) {
  F32 chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = load(operands + 16 * i);
  const F32 factor = load(operands + 16 * (kOperands - 1));
  for (std::int64_t step = 0; step < steps; ++step) {
    // The operand moves from step to step: a compiler must not find a closed form.
    const F32 operand = load(operands + 16 * (step % kOperands));
    for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], factor, operand);
  }
  for (int i = 1; i < kChains; ++i) chain[0] = add(chain[0], chain[i]);
  return reduce_add(chain[0]);
}

float dot4_chains(const std::uint8_t* operands, std::int64_t steps) {
  I32 chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = set1_i32(i);
  const Bytes weights = load_bytes(operands);
  for (std::int64_t step = 0; step < steps; ++step) {
    const Bytes operand = load_bytes(operands + 64 * (step % kOperands));
    for (int i = 0; i < kChains; ++i) chain[i] = dot4(chain[i], weights, operand);
  }
  F32 sum = to_f32(chain[0]);
  for (int i = 1; i < kChains; ++i) sum = add(sum, to_f32(chain[i]));
  return reduce_add(sum);
}

}  // namespace quire::kernel::QUIRE_ISA_NS

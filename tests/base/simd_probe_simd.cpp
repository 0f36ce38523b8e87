#include "quire/base/simd.h"

#include "tests/base/simd_probe.h"

namespace quire::kernel::QUIRE_ISA_NS {

static F32 compute(Probe operation, F32 a, F32 b, F32 c) {
  switch (operation) {
    case Probe::kLoadStore:
      return a;
    case Probe::kAdd:
      return add(a, b);
    case Probe::kSub:
      return sub(a, b);
    case Probe::kMul:
      return mul(a, b);
    case Probe::kDiv:
      return div(a, b);
    case Probe::kFma:
      return fma(a, b, c);
    case Probe::kMax:
      return max(a, b);
    case Probe::kMin:
      return min(a, b);
    case Probe::kAbs:
      return abs(a);
    case Probe::kSqrt:
      return sqrt(a);
    case Probe::kRound:
      return round(a);
    case Probe::kScaleByPower:
      return scale_by_power(a, b);
    case Probe::kSelectLess:
      return select_less(a, b, c, a);
    case Probe::kNotLess: {
      const unsigned lanes = not_less_bits(a, b);
      float out[16];
      for (int i = 0; i < 16; ++i) out[i] = (lanes >> i & 1u) != 0 ? 1.0f : 0.0f;
      return load(out);
    }
    case Probe::kFmaOne: {
      float x[16], y[16], z[16];
      store(x, a);
      store(y, b);
      store(z, c);
      for (int i = 0; i < 16; ++i) x[i] = fma_one(x[i], y[i], z[i]);
      return load(x);
    }
    case Probe::kExp:
      return exp(a);
    case Probe::kSet1: {
      float first[16];
      store(first, a);
      return set1(first[0]);
    }
    case Probe::kZero:
      return zero();
  }
  return zero();
}

void probe(Probe operation, const float* a, const float* b, const float* c, float* out) {
  store(out, compute(operation, load(a), load(b), load(c)));
}

void probe_widen(Widen from, const void* in, float* out) {
  store(out, from == Widen::kF16    ? load_f16(in)
             : from == Widen::kBF16 ? load_bf16(in)
             : from == Widen::kI8   ? load_i8(in)
                                    : load_u8(in));
}

void probe_narrow(Narrow to, const float* in, void* out) {
  if (to == Narrow::kF16) store_f16(out, load(in));
  if (to == Narrow::kBF16) store_bf16(out, load(in));
  if (to == Narrow::kI8) store_i8(out, load(in));
}

void probe_keep_lanes(const float* x, int begin, int end, const float* other, float* out) {
  store(out, keep_lanes(load(x), begin, end, load(other)));
}

void probe_first(const float* in, int n, float* loaded16, float* out) {
  const F32 x = load_first(in, n);
  store(loaded16, x);
  store_first(out, x, n);
}

void probe_transpose(float* square256) {
  F32 x[16];
  for (int i = 0; i < 16; ++i) x[i] = load(square256 + 16 * i);
  transpose(x);
  for (int i = 0; i < 16; ++i) store(square256 + 16 * i, x[i]);
}

bool probe_all_finite(const float* x) { return all_finite(load(x)); }
float probe_reduce_add(const float* x) { return reduce_add(load(x)); }
float probe_reduce_max(const float* x) { return reduce_max(load(x)); }

void probe_dot4(std::int32_t start, const std::uint8_t* a, const std::int8_t* b, float* out) {
  store(out, to_f32(dot4(set1_i32(start), load_bytes(a), load_bytes(b))));
}

void probe_nibbles(const std::uint8_t* in, std::uint8_t* low, std::uint8_t* high) {
  store_bytes(low, low_nibbles(load_bytes(in)));
  store_bytes(high, high_nibbles(load_bytes(in)));
}

void probe_repeat4(const std::uint8_t* in, std::uint8_t* out) { store_bytes(out, repeat4(in)); }

static Pairs pairs_of(Pairing operation, const std::uint16_t* a, const std::uint16_t* b) {
  Pairs both[2];
  switch (operation) {
    case Pairing::kLoadStore:
      return load_pairs(a);
    case Pairing::kRepeat:
      return repeat_pair(a);
    case Pairing::kUp:
      return pair_up(a, b);
    case Pairing::kHalves:
      return pair_halves(a);
    case Pairing::kUp32First:
      pair_up32(a, b, both);
      return both[0];
    case Pairing::kUp32Second:
      pair_up32(a, b, both);
      return both[1];
    case Pairing::kLow:
      return low_of(load_pairs(a));
    case Pairing::kHigh:
      return high_of(load_pairs(a));
  }
  return load_pairs(a);
}

void probe_pairs(Pairing operation, const std::uint16_t* a, const std::uint16_t* b,
                 std::uint16_t* out32) {
  store_pairs(out32, pairs_of(operation, a, b));
}

void probe_widen_pairs(const std::uint16_t* in32, float* low, float* high) {
  store(low, widen_low(load_pairs(in32)));
  store(high, widen_high(load_pairs(in32)));
}

void probe_round_pairs(const float* in32, std::uint16_t* out32) {
  store_pairs(out32, round_pairs(load(in32), load(in32 + 16)));
}

void probe_dot2(const float* acc, const std::uint16_t* a32, const std::uint16_t* b32, float* out) {
  store(out, dot2(load(acc), load_pairs(a32), load_pairs(b32)));
}

}  // namespace quire::kernel::QUIRE_ISA_NS

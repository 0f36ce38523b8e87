// Keys in two bits a number, compiled once per instruction set: products of codes with the codes of
// a query, 16 keys at a time.

#include "quire/base/simd.h"
#include "quire/ops/search/key_sketches_kernel.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

constexpr std::int64_t kSpan = 64;
constexpr float kStep = 0.996f;  // of the four steps that round a normal number of variance 1 best

/// The codes of 16 numbers that are told in standard deviations times kStep.
QUIRE_INLINE F32 codes_of(F32 y, F32 border) {
  const F32 one = set1(1.0f), none = zero();
  const F32 low = select_less(y, sub(none, border), none, one);
  const F32 middle = select_less(y, none, none, one);
  return add(add(low, middle), select_less(y, border, none, one));
}

template <int T>
QUIRE_INLINE void score_run(const SketchScores& a, std::int64_t row, std::int64_t c,
                            std::int64_t at) {
  const SketchRun& run = a.runs[c];
  for (std::int64_t i = 0; i < run.n; i += 16) {
    I32 sums[static_cast<std::size_t>(T)][4];
    for (int t = 0; t < T; ++t)
      for (int l = 0; l < 4; ++l) sums[t][l] = set1_i32(0);
    for (std::int64_t s = 0; s < a.spans; ++s) {
      const std::uint8_t* codes = a.codes[s] + 16 * (run.begin + i);
      const std::int8_t* q = a.q + (row * a.spans + s) * 4 * kSpan;
      const std::int64_t step = a.spans * 4 * kSpan;
#pragma GCC unroll 4
      for (int l = 0; l < 4; ++l) {
        const Bytes four = load_bytes(codes + kSpan * l);
        const Bytes part[] = {two_bits<0>(four), two_bits<1>(four), two_bits<2>(four),
                              two_bits<3>(four)};
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          for (int t = 0; t < T; ++t)
            sums[t][l] = dot4(sums[t][l], part[j], load_bytes(q + t * step + kSpan * j));
      }
    }
    const F32 scale = load_bf16(a.scale + run.begin + i);
    for (int t = 0; t < T; ++t) {
      F32 parts[4];
      for (int l = 0; l < 4; ++l) parts[l] = to_f32(sums[t][l]);
      const std::int64_t r = row + t;
      const F32 whole = add(turn_quads(add_quarters(parts)), set1(a.offset_R[r]));
      store(a.score_RW + r * a.W + at + i,
            fma(mul(whole, set1(a.step_R[r])), scale, set1(a.mean_RC[r * a.count + c])));
    }
  }
}

template <int T>
void score_rows(const SketchScores& a, std::int64_t row) {
  std::int64_t at = 0;
  for (std::int64_t c = 0; c < a.count; ++c) {
    score_run<T>(a, row, c, at);
    at += a.runs[c].n;
  }
}

}  // namespace

float sketch_key(const float* rest, const float* one_by_weight, std::int64_t K,
                 std::uint8_t* const* codes) {
  const std::int64_t spans = (K + kSpan - 1) / kSpan;
  F32 squares = zero(), products = zero();
  for (std::int64_t i = 0; i < spans * kSpan; i += 16) {
    const F32 y = mul(load(rest + i), load(one_by_weight + i));
    squares = fma(y, y, squares);
  }
  const float square = reduce_add(squares);
  const F32 border = set1(kStep * __builtin_sqrtf(square / static_cast<float>(K)));
  for (std::int64_t s = 0; s < spans; ++s) {
    F32 packed = set1(-128.0f);
    float worth = 1;
    for (std::int64_t i = s * kSpan; i < (s + 1) * kSpan; i += 16, worth *= 4) {
      const F32 y = mul(load(rest + i), load(one_by_weight + i));
      const F32 code = codes_of(y, border);
      products = fma(y, sub(code, set1(1.5f)), products);
      packed = fma(code, set1(worth), packed);
    }
    store_i8(codes[s], packed);
    for (int b = 0; b < 16; ++b) codes[s][b] ^= 0x80;  // 128 more
  }
  const float product = reduce_add(products), scale = square / product;
  return product > 0 && scale <= 3.4e38f ? scale : 0.0f;
}

void sketch_score_rows(const SketchScores& args, std::int64_t r, int rows) {
  if (rows == 1) score_rows<1>(args, r);
  if (rows == 2) score_rows<2>(args, r);
  if (rows == 3) score_rows<3>(args, r);
  if (rows == 4) score_rows<4>(args, r);
}

void share_row(float* x, float total, std::int64_t n, bool is_first, float* rank) {
  const F32 whole = set1(total);
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = n - i < 16 ? static_cast<int>(n - i) : 16;
    const F32 share = exp(sub(load_first(x + i, left), whole));
    store_first(x + i, share, left);
    store_first(rank + i, is_first ? share : add(load_first(rank + i, left), share), left);
  }
}

void rest_row(const float* share, const std::uint8_t* taken, const SketchRun* runs,
              std::int64_t count, float* rest) {
  for (std::int64_t c = 0; c < count; ++c) {
    const std::int64_t n = runs[c].n;
    F32 sum = zero();
    for (std::int64_t i = 0; i < n; i += 16) {
      const int left = n - i < 16 ? static_cast<int>(n - i) : 16;
      const F32 is_taken = load_u8(taken + i);
      sum = add(sum, keep_lanes(select_less(zero(), is_taken, zero(), load_first(share + i, left)),
                                0, left, zero()));
    }
    rest[c] = reduce_add(sum);
    share += n;
    taken += n;
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

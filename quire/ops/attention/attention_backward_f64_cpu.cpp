// The backward of attention in f64: one row, one key after the other. For gradients that are to be
// exact, not fast.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// One query with one head.
struct Row {
  std::int64_t b, g, h, t, n;  // n: the flat row
  std::int64_t position;
  KeyRange keys;
};

/// One key, as elements of pages.
struct Key {
  std::int64_t k, v, bias;  // offsets
  std::int64_t slot;        // of the sequence
};

class Rows {
 public:
  explicit Rows(const AttentionBackward64& args)
      : a_(args), step_(args.kv.k_layout == KLayout::kBlocks ? 16 : 1) {}

  void head(std::int64_t g) const {
    const std::int64_t group = a_.H / a_.kv.G;
    for (std::int64_t b = 0; b < a_.B; ++b) {
      const std::int64_t T = a_.start_J[b + 1] - a_.start_J[b], first = view_first(a_.kv, b, g);
      const KeyRange keys{first, first + view_length(a_.kv, b, g)};
      for (std::int64_t t = 0; t < T; ++t) {
        for (std::int64_t h = g * group; h < (g + 1) * group; ++h)
          row({b, g, h, t, (a_.start_J[b] + t) * a_.H + h, query_position(a_.spec, keys, t, T),
               keys});
      }
    }
  }

 private:
  void row(const Row& row) const {
    if (a_.lse_NH[row.n] == kMinusInfinity) return;
    const KeyRange seen = visible(a_.spec, row.keys, row.position);
    for (std::int64_t p = std::max(seen.begin, row.keys.begin); p < seen.end; ++p) {
      const double extra = added(row, p - row.keys.begin);
      if (extra != kMinusInfinity) pair(row, key_of(row, p - row.keys.begin), p, extra);
    }
  }

  Key key_of(const Row& row, std::int64_t s) const {
    const KvView& kv = a_.kv;
    const std::int64_t page = page_at(kv, row.b, row.g, s / kv.Z), slot = s % kv.Z;
    const std::int64_t head = kv.bias_heads == 1 ? 0 : kv.bias_heads == kv.G ? row.g : row.h;
    return {slot_offset(kv.k_strides, kv.k_layout, page, slot, row.g),
            slot_offset(kv.v_strides, KLayout::kRows, page, slot, row.g),
            (page * kv.Z + slot) * kv.bias_heads + head, s};
  }

  /// Bias and masks of a key; −inf says that the row does not see it.
  double added(const Row& row, std::int64_t s) const {
    const AttentionSpec& spec = a_.spec;
    double out = a_.kv.bias == nullptr ? 0 : double{a_.kv.bias[key_of(row, s).bias]};
    const std::int64_t mask = mask_row(spec, row.b, row.h, row.t) + s;
    if (spec.mask_TS != nullptr && out != kMinusInfinity)
      out = spec.mask_TS[mask] == -std::numeric_limits<float>::infinity()
                ? kMinusInfinity
                : out + double{spec.mask_TS[mask]};
    return spec.allow_TS != nullptr && spec.allow_TS[mask] == 0 ? kMinusInfinity : out;
  }

  void pair(const Row& row, const Key& key, std::int64_t position, double extra) const {
    const KvView& kv = a_.kv;
    const double *q = a_.q_NHK + row.n * kv.K, *dout = a_.dout_NHU + row.n * kv.U;
    const double* k = static_cast<const double*>(kv.k_pages) + key.k;
    const double* v = static_cast<const double*>(kv.v_pages) + key.v;
    double score = 0, dweight = 0;
    for (std::int64_t i = 0; i < kv.K; ++i) score += q[i] * k[i * step_];
    for (std::int64_t u = 0; u < kv.U; ++u) dweight += dout[u] * v[u];
    score *= a_.spec.scale;
    double inner = a_.spec.scale;
    if (a_.spec.softcap > 0) {
      const double tanh = std::tanh(score / a_.spec.softcap);
      score = a_.spec.softcap * tanh;
      inner *= 1 - tanh * tanh;
    }
    const auto away = static_cast<double>(position - row.position);
    if (a_.spec.slope_H != nullptr) score += double{a_.spec.slope_H[row.h]} * away;
    const double weight = std::exp(score + extra - a_.lse_NH[row.n]);
    const double dscore = weight == 0 ? 0 : weight * (dweight - a_.delta_NH[row.n]);
    if (a_.dbias != nullptr) a_.dbias[row.g * a_.dbias_part + key.bias] += dscore;
    if (a_.dslope_NH != nullptr) a_.dslope_NH[row.n] += dscore * away;
    if (a_.dv_pages != nullptr) {
      for (std::int64_t u = 0; u < kv.U; ++u) a_.dv_pages[key.v + u] += weight * dout[u];
    }
    if (dscore == 0) return;
    double* dq = a_.dq_NHK + row.n * kv.K;
    for (std::int64_t i = 0; i < kv.K; ++i) {
      dq[i] += inner * dscore * k[i * step_];
      if (a_.dk_pages != nullptr) a_.dk_pages[key.k + i * step_] += inner * dscore * q[i];
    }
  }

  const AttentionBackward64& a_;
  std::int64_t step_;
};

}  // namespace

void attention_backward_f64_cpu(const AttentionBackward64& args) {
  const Rows rows(args);
  thread_pool().run(args.kv.G, [&](std::int64_t g) { rows.head(g); });
}

}  // namespace quire::kernel

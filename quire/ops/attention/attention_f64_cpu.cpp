// Attention in f64: one row, one key after the other. For gradient checks and truths, not for
// speed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// One query with one head.
struct Row {
  std::int64_t b, g, h, t, n;  // n: the flat row
};

class Rows {
 public:
  explicit Rows(const AttentionForward64& args)
      : a_(args), step_(args.kv.k_layout == KLayout::kBlocks ? 16 : 1) {}

  KeyRange keys(const Row& row) const {
    const std::int64_t first = view_first(a_.kv, row.b, row.g);
    return {first, first + view_length(a_.kv, row.b, row.g)};
  }

  /// Calls f(page, slot, score) for every key that the row sees.
  template <class F>
  void scores(const Row& row, F&& f) const {
    const KeyRange all = keys(row);
    const std::int64_t T = a_.start_J[row.b + 1] - a_.start_J[row.b],
                       position = query_position(a_.spec, all, row.t, T);
    const KeyRange seen = visible(a_.spec, all, position);
    for (std::int64_t key = std::max(seen.begin, all.begin); key < seen.end; ++key) {
      const std::int64_t s = key - all.begin, page = page_at(a_.kv, row.b, row.g, s / a_.kv.Z),
                         slot = s % a_.kv.Z;
      const double extra = added(row, page * a_.kv.Z + slot, s);
      if (extra != kMinusInfinity) f(page, slot, score(row, page, slot, key - position) + extra);
    }
  }

  void attend(const Row& row) const {
    const KvView& kv = a_.kv;
    double* out = a_.out_NHU + row.n * kv.U;
    const double sink = a_.spec.sink_H == nullptr ? kMinusInfinity : double{a_.spec.sink_H[row.h]};
    double largest = sink;
    scores(row, [&](std::int64_t, std::int64_t, double score) {
      largest = largest > score ? largest : score;
    });
    double sum = sink == kMinusInfinity ? 0 : std::exp(sink - largest);
    std::fill_n(out, kv.U, 0.0);
    scores(row, [&](std::int64_t page, std::int64_t slot, double score) {
      const double weight = score == kMinusInfinity ? 0 : std::exp(score - largest);
      const double* v = static_cast<const double*>(kv.v_pages) +
                        slot_offset(kv.v_strides, KLayout::kRows, page, slot, row.g);
      sum += weight;
      for (std::int64_t u = 0; u < kv.U; ++u) out[u] += weight * v[u];
    });
    for (std::int64_t u = 0; u < kv.U && sum != 0; ++u) out[u] /= sum;
    a_.lse_NH[row.n] = sum == 0 ? kMinusInfinity : largest + std::log(sum);
  }

 private:
  double score(const Row& row, std::int64_t page, std::int64_t slot, std::int64_t away) const {
    const KvView& kv = a_.kv;
    const double* q = a_.q_NHK + row.n * kv.K;
    const double* k = static_cast<const double*>(kv.k_pages) +
                      slot_offset(kv.k_strides, kv.k_layout, page, slot, row.g);
    double out = 0;
    for (std::int64_t i = 0; i < kv.K; ++i) out += q[i] * k[i * step_];
    out *= a_.spec.scale;
    if (a_.spec.softcap > 0) out = a_.spec.softcap * std::tanh(out / a_.spec.softcap);
    if (a_.spec.slope_H != nullptr)
      out += double{a_.spec.slope_H[row.h]} * static_cast<double>(away);
    return out;
  }

  /// Bias and masks of a key; −inf says that the row does not see it.
  double added(const Row& row, std::int64_t key, std::int64_t s) const {
    const KvView& kv = a_.kv;
    const AttentionSpec& spec = a_.spec;
    const std::int64_t head = kv.bias_heads == 1      ? 0
                              : kv.bias_heads == kv.G ? row.g
                                                      : row.h,
                       mask = mask_row(spec, row.b, row.h, row.t) + s;
    if (spec.allow_TS != nullptr && spec.allow_TS[mask] == 0) return kMinusInfinity;
    const double bias = kv.bias == nullptr ? 0 : double{kv.bias[key * kv.bias_heads + head]},
                 masked = spec.mask_TS == nullptr ? 0 : double{spec.mask_TS[mask]};
    return bias == kMinusInfinity || masked == kMinusInfinity ? kMinusInfinity : bias + masked;
  }

  const AttentionForward64& a_;
  std::int64_t step_;
};

}  // namespace

void attention_f64_cpu(const AttentionForward64& args) {
  const Rows rows(args);
  const std::int64_t group = args.H / args.kv.G;
  for (std::int64_t b = 0; b < args.B; ++b) {
    const std::int64_t first = args.start_J[b], T = args.start_J[b + 1] - first;
    thread_pool().run(T, [&](std::int64_t t) {
      for (std::int64_t h = 0; h < args.H; ++h)
        rows.attend({b, h / group, h, t, (first + t) * args.H + h});
    });
  }
}

void attention_mass_f64_cpu(const AttentionForward64& args, bool largest, const double* lse_NH,
                            double* mass_PZG) {
  const Rows rows(args);
  const std::int64_t group = args.H / args.kv.G;
  thread_pool().run(args.kv.G, [&](std::int64_t g) {
    for (std::int64_t b = 0; b < args.B; ++b) {
      const std::int64_t first = args.start_J[b], T = args.start_J[b + 1] - first;
      for (std::int64_t row = 0; row < T * group; ++row) {
        const std::int64_t t = row / group, h = g * group + row % group,
                           n = (first + t) * args.H + h;
        if (lse_NH[n] == kMinusInfinity) continue;
        rows.scores({b, g, h, t, n}, [&](std::int64_t page, std::int64_t slot, double score) {
          double& mass = mass_PZG[(page * args.kv.Z + slot) * args.kv.G + g];
          const double one = std::exp(score - lse_NH[n]);
          mass = largest ? std::max(mass, one) : mass + one;
        });
      }
    }
  });
}

}  // namespace quire::kernel

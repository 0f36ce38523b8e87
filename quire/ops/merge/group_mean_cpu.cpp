#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/merge/group_mean_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;

template <class T>
T number_at(const T* numbers, std::int64_t i) {
  return numbers == nullptr ? T{1} : numbers[i];
}

template <class T>
T weight_of(const KeyGroups<T>& keys, std::int64_t i, const T* peak_M) {
  if (keys.cosine_GS == nullptr) return number_at(keys.weight_GS, i);
  const double x = static_cast<double>(keys.cosine_GS[i]) / keys.temperature;
  return static_cast<T>(std::exp(x - static_cast<double>(peak_M[keys.group_GS[i]])));
}

/// Peaks, weights, counts and biases of the groups of a head, and the share of each key.
template <class T>
void weigh_head(const KeyGroups<T>& keys, const GroupMeans<T>& out, std::int64_t g) {
  const std::int64_t S = keys.S, M = keys.M, begin = g * S, end = begin + S;
  T* peak = out.peak_GM + g * M;
  const auto rows = static_cast<std::size_t>(M);
  std::vector<double> total(rows), count(rows);
  std::vector<std::int64_t> members(rows);
  const bool cosine = keys.cosine_GS != nullptr;
  std::fill(peak, peak + M, cosine ? -std::numeric_limits<T>::infinity() : T{0});
  for (std::int64_t i = begin; cosine && i < end; ++i) {
    const std::int64_t m = keys.group_GS[i];
    if (m < 0) continue;
    const auto x = static_cast<T>(static_cast<double>(keys.cosine_GS[i]) / keys.temperature);
    peak[m] = std::max(peak[m], x);
  }
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t m = keys.group_GS[i];
    out.share_GS[i] = m < 0 ? T{0} : weight_of(keys, i, peak);
    if (m < 0) continue;
    const auto at = static_cast<std::size_t>(m);
    total[at] += static_cast<double>(out.share_GS[i]);
    count[at] += static_cast<double>(number_at(keys.count_GS, i));
    ++members[at];
  }
  for (std::size_t m = 0; m < rows; ++m) {
    const auto at = static_cast<std::size_t>(g * M) + m;
    if (members[m] == 0) peak[m] = 0;
    out.weight_GM[at] = static_cast<T>(total[m]);
    out.count_GM[at] = static_cast<T>(count[m]);
    const double bias = keys.log_count ? std::log(count[m]) : 0;
    out.bias_GM[at] =
        static_cast<T>(members[m] == 0 ? -std::numeric_limits<double>::infinity() : bias);
  }
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t m = keys.group_GS[i];
    if (m < 0) continue;
    const auto at = static_cast<std::size_t>(m);
    const double share = static_cast<double>(out.share_GS[i]) / total[at];
    out.share_GS[i] = static_cast<T>(total[at] == 0 ? 1 / static_cast<double>(members[at]) : share);
  }
}

template <class T>
void weigh(const KeyGroups<T>& keys, const GroupMeans<T>& out) {
  thread_pool().run(keys.kv.G, [&](std::int64_t g) { weigh_head(keys, out, g); });
}

/// Row s of the keys or values, in f64.
const double* row_of(const KeyGroups<double>& keys, bool values, std::int64_t g, std::int64_t s) {
  const KvView& kv = keys.kv;
  const std::int64_t page = page_at(kv, keys.b, g, s / kv.Z);
  const auto* base = static_cast<const double*>(values ? kv.v_pages : kv.k_pages);
  return base +
         slot_offset(values ? kv.v_strides : kv.k_strides, KLayout::kRows, page, s % kv.Z, g);
}

/// Gradients of one key, given it and its value as floats.
template <class T>
void backward_row(const KeyGroups<T>& keys, const GroupMeanBackward<T>& args, std::int64_t g,
                  std::int64_t s, const T* k, const T* v) {
  const std::int64_t i = g * keys.S + s, K = keys.kv.K, U = keys.kv.U;
  T *dk = args.dk_GSK + i * K, *dv = args.dv_GSU + i * U;
  args.dweight_GS[i] = args.dcount_GS[i] = 0;
  if (keys.group_GS[i] < 0) {
    std::fill(dk, dk + K, T{0});
    std::fill(dv, dv + U, T{0});
    return;
  }
  const std::int64_t m = g * keys.M + keys.group_GS[i];
  const T total = args.weight_GM[m];
  const T a = weight_of(keys, i, args.peak_GM + g * keys.M);
  const T *dk_m = args.dk_GMK + m * K, *k_m = args.k_GMK + m * K;
  const T *dv_m = args.dv_GMU + m * U, *v_m = args.v_GMU + m * U;
  // A group without weight took the plain mean of its members.
  T share = total == 0 ? T{0} : a / total;
  if (total == 0) {
    std::int64_t members = 0;
    for (std::int64_t j = g * keys.S; j < (g + 1) * keys.S; ++j)
      members += keys.group_GS[j] == keys.group_GS[i] ? 1 : 0;
    share = T{1} / static_cast<T>(members);
  }
  T slope = 0;
  for (std::int64_t x = 0; x < K; ++x) {
    dk[x] = share * dk_m[x];
    slope += dk_m[x] * (k[x] - k_m[x]);
  }
  for (std::int64_t x = 0; x < U; ++x) {
    dv[x] = share * dv_m[x];
    slope += dv_m[x] * (v[x] - v_m[x]);
  }
  if (total != 0) {
    args.dweight_GS[i] = keys.cosine_GS == nullptr
                             ? slope / total
                             : share * slope / static_cast<T>(keys.temperature);
  }
  if (keys.log_count) args.dcount_GS[i] = args.dbias_GM[m] / args.count_GM[m];
}

}  // namespace

void group_mean_cpu(const KeyGroups<float>& keys, const GroupMeans<float>& out) {
  weigh(keys, out);
  // Each range of groups walks all keys; with one for each thread every thread has work, and the
  // sums do not depend on the ranges.
  const std::int64_t parts = 2 * keys.kv.G;
  const std::int64_t ranges = std::max<std::int64_t>(1, thread_pool().threads() / parts);
  const std::int64_t step = (keys.M + ranges - 1) / ranges;
  const auto add = QUIRE_FOR_ISA(add_group_rows);
  thread_pool().run(parts * ranges, [&](std::int64_t piece) {
    const std::int64_t g = piece / ranges / 2, first = piece % ranges * step;
    const bool values = piece / ranges % 2 != 0;
    const std::int64_t width = values ? keys.kv.U : keys.kv.K;
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(kSpan * width));
    add(keys,
        {out.share_GS, (values ? out.v_GMU : out.k_GMK) + g * keys.M * width, g, first,
         std::min(keys.M, first + step), values},
        scratch.data());
  });
}

void group_mean_cpu(const KeyGroups<double>& keys, const GroupMeans<double>& out) {
  weigh(keys, out);
  thread_pool().run(2 * keys.kv.G, [&](std::int64_t piece) {
    const std::int64_t g = piece / 2;
    const bool values = piece % 2 != 0;
    const std::int64_t width = values ? keys.kv.U : keys.kv.K;
    double* to = (values ? out.v_GMU : out.k_GMK) + g * keys.M * width;
    for (std::int64_t s = 0; s < keys.S; ++s) {
      const std::int64_t m = keys.group_GS[g * keys.S + s];
      if (m < 0) continue;
      const double* row = row_of(keys, values, g, s);
      for (std::int64_t x = 0; x < width; ++x)
        to[m * width + x] += out.share_GS[g * keys.S + s] * row[x];
    }
  });
}

void group_mean_backward_cpu(const KeyGroups<float>& keys, const GroupMeanBackward<float>& args) {
  const std::int64_t spans = (keys.S + kSpan - 1) / kSpan, K = keys.kv.K, U = keys.kv.U;
  const auto read = QUIRE_FOR_ISA(read_key_rows);
  thread_pool().run(keys.kv.G * spans, [&](std::int64_t piece) {
    const std::int64_t g = piece / spans, slot = piece % spans * kSpan;
    const std::int64_t count = std::min(kSpan, keys.S - slot);
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(kSpan * (K + U)));
    float* v = scratch.data() + kSpan * K;
    read(keys.kv, keys.b, g, slot, static_cast<int>(count), scratch.data(), v);
    for (std::int64_t i = 0; i < count; ++i)
      backward_row(keys, args, g, slot + i, scratch.data() + i * K, v + i * U);
  });
}

void group_mean_backward_cpu(const KeyGroups<double>& keys, const GroupMeanBackward<double>& args) {
  thread_pool().run(keys.kv.G * keys.S, [&](std::int64_t piece) {
    const std::int64_t g = piece / keys.S, s = piece % keys.S;
    backward_row(keys, args, g, s, row_of(keys, false, g, s), row_of(keys, true, g, s));
  });
}

}  // namespace quire::kernel

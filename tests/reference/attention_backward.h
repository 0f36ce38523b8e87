#pragma once

// Attention as a function of plain arrays, naive loops templated on the scalar, and its gradients:
// by the formula (double is the truth, float the yardstick), and by the complex step through the
// function itself (which knows no formula).

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/reference/attention.h"

namespace ref {

/// What attention is differentiated by, in plain order whatever the strides: pages as [P, Z, G, K].
template <class T>
struct AttentionPoint {
  std::vector<T> q_NHK, k_PZGK, v_PZGU, bias, slope_H, sink_H;
};

/// What stays fixed.
struct AttentionProblem {
  std::vector<std::int32_t> start_J;
  std::int64_t H = 1;
  quire::KvView kv;
  quire::AttentionSpec spec;
  std::vector<double> dout_NHU, dlse_NH;  // dlse may be empty
};

inline double real_part(double x) { return x; }
inline double real_part(float x) { return double{x}; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

inline std::size_t flat(std::int64_t i) { return static_cast<std::size_t>(i); }

inline double stored(const void* pages, quire::DType dtype, std::int64_t i) {
  return dtype == quire::DType::kF64 ? static_cast<const double*>(pages)[i]
                                     : element(pages, dtype, i);
}

inline std::int64_t value_index(const quire::KvView& kv, std::int64_t page, std::int64_t slot,
                                std::int64_t g, std::int64_t u) {
  return page * kv.v_strides.page + slot * kv.v_strides.slot + g * kv.v_strides.head + u;
}

/// The point at which a view stands. Unused slots hold whatever they hold.
template <class T>
AttentionPoint<T> point_of(const std::vector<double>& q_NHK, std::int64_t H,
                           const quire::KvView& kv, const quire::AttentionSpec& spec) {
  AttentionPoint<T> out;
  const auto number = [](double x) { return T(static_cast<decltype(std::abs(T{}))>(x)); };
  for (const double x : q_NHK) out.q_NHK.push_back(number(x));
  for (std::int64_t i = 0; i < kv.P * kv.Z * kv.G; ++i) {
    const std::int64_t page = i / kv.G / kv.Z, slot = i / kv.G % kv.Z, g = i % kv.G;
    for (std::int64_t k = 0; k < kv.K; ++k) {
      const double scale = kv.k_scale_PZG == nullptr ? 1 : double{kv.k_scale_PZG[i]};
      out.k_PZGK.push_back(
          number(scale * stored(kv.k_pages, kv.dtype, key_index(kv, page, slot, g, k))));
    }
    for (std::int64_t u = 0; u < kv.U; ++u) {
      const double scale = kv.v_scale_PZG == nullptr ? 1 : double{kv.v_scale_PZG[i]};
      out.v_PZGU.push_back(
          number(scale * stored(kv.v_pages, kv.dtype, value_index(kv, page, slot, g, u))));
    }
  }
  for (std::int64_t i = 0; kv.bias != nullptr && i < kv.P * kv.Z * kv.bias_heads; ++i)
    out.bias.push_back(number(double{kv.bias[i]}));
  for (std::int64_t h = 0; h < H; ++h) {
    if (spec.slope_H != nullptr) out.slope_H.push_back(number(double{spec.slope_H[h]}));
    if (spec.sink_H != nullptr) out.sink_H.push_back(number(double{spec.sink_H[h]}));
  }
  return out;
}

/// One query with one head before the keys it sees.
template <class T>
struct AttentionRow {
  struct Key {
    std::size_t k, v, bias;  // where they begin in the point
    std::int64_t s;          // slot of the sequence
    double away;             // key − query position
    T product, score, weight;
  };
  std::int64_t b, t, h, g, n;
  std::vector<Key> keys;
  std::vector<T> out;
  T lse{};
  bool empty = true;
};

inline std::int64_t mask_index(const quire::AttentionSpec& spec, std::int64_t b, std::int64_t t,
                               std::int64_t h) {
  return b * spec.mask_stride_B + h * spec.mask_stride_H + t * spec.mask_stride;
}

inline bool masked(const quire::AttentionSpec& spec, std::int64_t i) {
  if (spec.allow_TS != nullptr && spec.allow_TS[i] == 0) return true;
  return spec.mask_TS != nullptr && std::isinf(spec.mask_TS[i]);
}

template <class T>
void find_keys(const AttentionProblem& at, const AttentionPoint<T>& point, AttentionRow<T>& row) {
  const quire::KvView& kv = at.kv;
  const std::int64_t per = kv.length_stride_G == 0 ? row.b : row.b * kv.G + row.g;
  const std::int64_t length = kv.length_BG[per],
                     first = kv.first_BG == nullptr ? 0 : kv.first_BG[per];
  const std::int64_t T_b = at.start_J[flat(row.b) + 1] - at.start_J[flat(row.b)];
  const std::int64_t position = at.spec.alignment == quire::Alignment::kTopLeft
                                    ? first + row.t
                                    : first + length - T_b + row.t;
  const std::int64_t mask = mask_index(at.spec, row.b, row.t, row.h);
  for (std::int64_t s = 0; s < length; ++s) {
    if (!sees(at.spec, position, first + s) || masked(at.spec, mask + s)) continue;
    const std::int64_t key = page_of(kv, row.b, row.g, s / kv.Z) * kv.Z + s % kv.Z;
    const std::int64_t head = kv.bias_heads == 1 ? 0 : kv.bias_heads == kv.G ? row.g : row.h;
    const std::size_t bias = flat(key * kv.bias_heads + head);
    if (kv.bias != nullptr && std::isinf(kv.bias[bias])) continue;
    typename AttentionRow<T>::Key out{flat((key * kv.G + row.g) * kv.K),
                                      flat((key * kv.G + row.g) * kv.U),
                                      bias,
                                      s,
                                      static_cast<double>(first + s - position),
                                      T{},
                                      T{},
                                      T{}};
    const std::size_t q = flat(row.n * kv.K);
    for (std::size_t k = 0; k < flat(kv.K); ++k)
      out.product += point.q_NHK[q + k] * point.k_PZGK[out.k + k];
    row.keys.push_back(out);
  }
}

/// The row's weights, output and log-sum-exp.
template <class T>
AttentionRow<T> attend(const AttentionProblem& at, const AttentionPoint<T>& point, std::int64_t b,
                       std::int64_t t, std::int64_t h) {
  using Real = decltype(std::abs(T{}));
  AttentionRow<T> row{b,
                      t,
                      h,
                      h / (at.H / at.kv.G),
                      (at.start_J[flat(b)] + t) * at.H + h,
                      {},
                      std::vector<T>(flat(at.kv.U)),
                      T{},
                      true};
  find_keys(at, point, row);
  const auto scale = static_cast<Real>(
      at.spec.scale == 0 ? 1 / std::sqrt(static_cast<double>(at.kv.K)) : at.spec.scale);
  const auto cap = static_cast<Real>(at.spec.softcap);
  const bool sink = !point.sink_H.empty();
  double largest =
      sink ? real_part(point.sink_H[flat(h)]) : -std::numeric_limits<double>::infinity();
  for (auto& key : row.keys) {
    key.score = key.product * scale;
    if (at.spec.softcap > 0) key.score = cap * std::tanh(key.score / cap);
    if (!point.slope_H.empty()) key.score += point.slope_H[flat(h)] * static_cast<Real>(key.away);
    if (!point.bias.empty()) key.score += point.bias[key.bias];
    if (at.spec.mask_TS != nullptr)
      key.score += T(static_cast<Real>(at.spec.mask_TS[mask_index(at.spec, b, t, h) + key.s]));
    largest = std::max(largest, real_part(key.score));
  }
  row.empty = std::isinf(largest);
  if (row.empty) return row;
  const auto top = static_cast<Real>(largest);
  T sum = sink ? std::exp(point.sink_H[flat(h)] - top) : T{};
  for (auto& key : row.keys) sum += key.weight = std::exp(key.score - top);
  for (auto& key : row.keys) {
    key.weight /= sum;
    for (std::size_t u = 0; u < flat(at.kv.U); ++u)
      row.out[u] += key.weight * point.v_PZGU[key.v + u];
  }
  row.lse = std::log(sum) + top;
  return row;
}

/// Calls f(row) for every query with every head.
template <class T, class F>
void each_row(const AttentionProblem& at, const AttentionPoint<T>& point, F&& f) {
  for (std::size_t b = 0; b + 1 < at.start_J.size(); ++b)
    for (std::int64_t t = 0; t < at.start_J[b + 1] - at.start_J[b]; ++t)
      for (std::int64_t h = 0; h < at.H; ++h)
        f(attend(at, point, static_cast<std::int64_t>(b), t, h));
}

template <class T>
struct AttentionForward {
  std::vector<T> out_NHU, lse_NH;
};
template <class T>
AttentionForward<T> attention_at(const AttentionProblem& at, const AttentionPoint<T>& point) {
  using Real = decltype(std::abs(T{}));
  AttentionForward<T> result;
  each_row(at, point, [&](const AttentionRow<T>& row) {
    result.out_NHU.insert(result.out_NHU.end(), row.out.begin(), row.out.end());
    result.lse_NH.push_back(row.empty ? T(-std::numeric_limits<Real>::infinity()) : row.lse);
  });
  return result;
}

/// Gradients by the formula, in the shapes of the point.
template <class T>
AttentionPoint<T> attention_gradients(const AttentionProblem& at, const AttentionPoint<T>& point) {
  AttentionPoint<T> d{std::vector<T>(point.q_NHK.size()),   std::vector<T>(point.k_PZGK.size()),
                      std::vector<T>(point.v_PZGU.size()),  std::vector<T>(point.bias.size()),
                      std::vector<T>(point.slope_H.size()), std::vector<T>(point.sink_H.size())};
  const std::size_t K = flat(at.kv.K), U = flat(at.kv.U);
  const T scale = static_cast<T>(at.spec.scale == 0 ? 1 / std::sqrt(static_cast<double>(at.kv.K))
                                                    : at.spec.scale);
  each_row(at, point, [&](const AttentionRow<T>& row) {
    if (row.empty) return;
    const std::size_t n = flat(row.n), h = flat(row.h);
    const auto dout = [&](std::size_t u) { return static_cast<T>(at.dout_NHU[n * U + u]); };
    T delta = at.dlse_NH.empty() ? T{} : -static_cast<T>(at.dlse_NH[n]);
    for (std::size_t u = 0; u < U; ++u) delta += dout(u) * row.out[u];
    for (const auto& key : row.keys) {
      T dweight = 0;
      for (std::size_t u = 0; u < U; ++u) {
        dweight += dout(u) * point.v_PZGU[key.v + u];
        d.v_PZGU[key.v + u] += key.weight * dout(u);
      }
      const T dscore = key.weight * (dweight - delta);
      if (!d.bias.empty()) d.bias[key.bias] += dscore;
      if (!d.slope_H.empty()) d.slope_H[h] += dscore * static_cast<T>(key.away);
      T dproduct = dscore * scale;
      if (at.spec.softcap > 0) {
        const T tanh = std::tanh(key.product * scale / static_cast<T>(at.spec.softcap));
        dproduct *= 1 - tanh * tanh;
      }
      for (std::size_t k = 0; k < K; ++k) {
        d.q_NHK[n * K + k] += dproduct * point.k_PZGK[key.k + k];
        d.k_PZGK[key.k + k] += dproduct * point.q_NHK[n * K + k];
      }
    }
    if (!d.sink_H.empty()) d.sink_H[h] -= std::exp(point.sink_H[h] - row.lse) * delta;
  });
  return d;
}

/// The largest of the terms P · (|dout·v| + |D|) that gradients of scores are differences of.
inline double largest_term(const AttentionProblem& at, const AttentionPoint<double>& point) {
  double most = 0;
  each_row(at, point, [&](const AttentionRow<double>& row) {
    const std::size_t n = flat(row.n), U = flat(at.kv.U);
    double delta = at.dlse_NH.empty() ? 0 : std::abs(at.dlse_NH[n]);
    for (std::size_t u = 0; u < U; ++u) delta += std::abs(at.dout_NHU[n * U + u] * row.out[u]);
    for (const auto& key : row.keys) {
      double dweight = 0;
      for (std::size_t u = 0; u < U; ++u)
        dweight += std::abs(at.dout_NHU[n * U + u] * point.v_PZGU[key.v + u]);
      most = std::max(most, key.weight * (dweight + delta));
    }
  });
  return most;
}

/// d (Σ dout·out + Σ dlse·lse) / d x, x a vector of the point, through the function itself.
inline std::vector<double> attention_complex_step(
    const AttentionProblem& at, AttentionPoint<std::complex<double>> point,
    std::vector<std::complex<double>> AttentionPoint<std::complex<double>>::*which) {
  constexpr double kStep = 1e-100;
  std::vector<double> out;
  for (std::size_t i = 0; i < (point.*which).size(); ++i) {
    const std::complex<double> before = (point.*which)[i];
    (point.*which)[i] += std::complex<double>(0, kStep);
    const auto result = attention_at(at, point);
    (point.*which)[i] = before;
    double sum = 0;
    for (std::size_t j = 0; j < result.out_NHU.size(); ++j)
      sum += result.out_NHU[j].imag() / kStep * at.dout_NHU[j];
    for (std::size_t j = 0; j < at.dlse_NH.size(); ++j)
      sum += result.lse_NH[j].imag() / kStep * at.dlse_NH[j];
    out.push_back(sum);
  }
  return out;
}

}  // namespace ref

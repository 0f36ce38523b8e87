#pragma once

// One problem for attention_backward: inputs in the form of PagedCase, random dout and dlse, and
// the gradients of ours beside those of the reference, in plain order whatever the strides.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "quire/ops/attention/attention_backward.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention_backward.h"
#include "tests/support/gradient_check.h"

namespace quire::test {

using Gradients = ref::AttentionPoint<double>;

enum class Dlse { kNone, kRandom };

class BackwardCase {
 public:
  /// `kv` outlives this.
  BackwardCase(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
               Dlse dlse = Dlse::kRandom)
      : queries_(queries) {
    problem_.start_J = queries.start;
    problem_.H = queries.H;
    problem_.kv = kv;
    problem_.spec = spec;
    const std::int64_t N = queries.start.back();
    dout_ = random_tensor({N, queries.H, kv.U}, 11, DType::kF32);
    problem_.dout_NHU = values(dout_);
    if (dlse == Dlse::kRandom && N > 0) {
      dlse_ = random_tensor({N, queries.H}, 12, DType::kF32);
      problem_.dlse_NH = values(dlse_);
    }
  }

  const ref::AttentionProblem& problem() const { return problem_; }
  const Tensor& dout() const { return dout_; }
  const Tensor& dlse() const { return dlse_; }

  template <class T>
  ref::AttentionPoint<T> point() const {
    return ref::point_of<T>(values(queries_.q_NHK), problem_.H, problem_.kv, problem_.spec);
  }
  template <class T>
  ref::AttentionPoint<T> reference() const {
    return ref::attention_gradients(problem_, point<T>());
  }

  /// Our gradients, forward by attention(); `times` backward runs add up.
  Gradients ours(int times = 1) const {
    return backward(queries_.q_NHK, queries_.attend(problem_.kv, problem_.spec), times);
  }

  Gradients backward(const Tensor& q, const AttentionResult& result, int times = 1) const {
    std::vector<float> dk(extent(problem_.kv.k_strides, problem_.kv.K)),
        dv(extent(problem_.kv.v_strides, problem_.kv.U));
    Buffers buffers(problem_);
    AttentionGradients gradients = buffers.pointers(problem_);
    if (problem_.kv.dtype != DType::kI8) {
      gradients.dk_pages = dk.data();
      gradients.dv_pages = dv.data();
    }
    for (int i = 0; i < times; ++i) {
      attention_backward(gradients, dout_, dlse_, q, queries_.start_J, problem_.kv, problem_.spec,
                         result);
    }
    return collect(values(gradients.dq_NHK), dk, dv, buffers);
  }

  /// The same in f64, from the reference's forward.
  Gradients ours_f64() const {
    KvView kv = problem_.kv;
    const std::vector<double> k = widened(kv.k_pages, kv.k_strides, kv.K),
                              v = widened(kv.v_pages, kv.v_strides, kv.U);
    kv.k_pages = k.data();
    kv.v_pages = v.data();
    kv.dtype = DType::kF64;
    const auto forward = ref::attention_at(problem_, point<double>());
    const Shape rows{queries_.start.back(), problem_.H};
    const AttentionResult result{tensor_of(forward.out_NHU, dout_.shape()),
                                 tensor_of(forward.lse_NH, rows)};
    std::vector<double> dk(k.size()), dv(v.size());
    Buffers buffers(problem_);
    AttentionGradients gradients = buffers.pointers(problem_);
    gradients.dk_pages = dk.data();
    gradients.dv_pages = dv.data();
    attention_backward(gradients, dout_.to(DType::kF64),
                       dlse_.elements() == 0 ? Tensor() : dlse_.to(DType::kF64),
                       queries_.q_NHK.to(DType::kF64), queries_.start_J, kv, problem_.spec, result);
    return collect(values(gradients.dq_NHK), dk, dv, buffers);
  }

 private:
  struct Buffers {
    explicit Buffers(const ref::AttentionProblem& at)
        : bias(at.kv.bias == nullptr ? 0 : ref::flat(at.kv.P * at.kv.Z * at.kv.bias_heads)),
          slope(at.spec.slope_H == nullptr ? 0 : ref::flat(at.H)),
          sink(at.spec.sink_H == nullptr ? 0 : ref::flat(at.H)) {}
    AttentionGradients pointers(const ref::AttentionProblem& at) {
      AttentionGradients out;
      if (at.kv.bias != nullptr) out.dbias = bias.data();
      if (at.spec.slope_H != nullptr) out.dslope_H = slope.data();
      if (at.spec.sink_H != nullptr) out.dsink_H = sink.data();
      return out;
    }
    std::vector<float> bias, slope, sink;
  };

  std::size_t extent(const PageStrides& strides, std::int64_t) const {
    return ref::flat(problem_.kv.P * strides.page);
  }
  std::vector<double> widened(const void* pages, const PageStrides& strides,
                              std::int64_t width) const {
    std::vector<double> out(extent(strides, width));
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = ref::element(pages, problem_.kv.dtype, static_cast<std::int64_t>(i));
    return out;
  }

  template <class T>
  Gradients collect(std::vector<double> dq, const std::vector<T>& dk, const std::vector<T>& dv,
                    const Buffers& buffers) const {
    const KvView& kv = problem_.kv;
    Gradients out;
    out.q_NHK = std::move(dq);
    for (std::int64_t i = 0; i < kv.P * kv.Z * kv.G; ++i) {
      const std::int64_t page = i / kv.G / kv.Z, slot = i / kv.G % kv.Z, g = i % kv.G;
      for (std::int64_t k = 0; k < kv.K; ++k)
        out.k_PZGK.push_back(dk[ref::flat(ref::key_index(kv, page, slot, g, k))]);
      for (std::int64_t u = 0; u < kv.U; ++u)
        out.v_PZGU.push_back(dv[ref::flat(ref::value_index(kv, page, slot, g, u))]);
    }
    out.bias.assign(buffers.bias.begin(), buffers.bias.end());
    out.slope_H.assign(buffers.slope.begin(), buffers.slope.end());
    out.sink_H.assign(buffers.sink.begin(), buffers.sink.end());
    return out;
  }

  const Queries& queries_;
  ref::AttentionProblem problem_;
  Tensor dout_, dlse_;
};

/// Calls f(name, member) for each vector of gradients.
template <class F>
void each_gradient(F&& f) {
  f("dq", &Gradients::q_NHK);
  f("dk", &Gradients::k_PZGK);
  f("dv", &Gradients::v_PZGU);
  f("dbias", &Gradients::bias);
  f("dslope", &Gradients::slope_H);
  f("dsink", &Gradients::sink_H);
}

inline double distance(const std::vector<double>& x, const std::vector<double>& y) {
  double most = x.size() == y.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    const double d = std::abs(x[i] - y[i]);
    most = std::isnan(d) ? INFINITY : std::max(most, d);
  }
  return most;
}

inline double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double value : x) most = std::max(most, std::abs(value));
  return most;
}

/// At most three times the naive f32 loop's error, and one rounding of the largest gradient or of
/// the largest term that it is a difference of.
inline void expect_reference(const BackwardCase& at, const std::string& what) {
  constexpr double kUlp = 0x1p-23;
  const Gradients ours = at.ours(), truth = at.reference<double>();
  const ref::AttentionPoint<float> plain = at.reference<float>();
  const Gradients naive{
      {plain.q_NHK.begin(), plain.q_NHK.end()},     {plain.k_PZGK.begin(), plain.k_PZGK.end()},
      {plain.v_PZGU.begin(), plain.v_PZGU.end()},   {plain.bias.begin(), plain.bias.end()},
      {plain.slope_H.begin(), plain.slope_H.end()}, {plain.sink_H.begin(), plain.sink_H.end()}};
  const double term = ref::largest_term(at.problem(), at.point<double>());
  const bool no_pages = at.problem().kv.dtype == DType::kI8;
  each_gradient([&](const char* name, std::vector<double> Gradients::*x) {
    if (no_pages && (x == &Gradients::k_PZGK || x == &Gradients::v_PZGU)) return;
    const double error = distance(ours.*x, truth.*x), yardstick = distance(naive.*x, truth.*x);
    EXPECT_LE(error, 3 * yardstick + kUlp * std::max(largest(truth.*x), term))
        << what << ", " << name << ": naive error " << yardstick << ", largest "
        << largest(truth.*x) << ", largest term " << term;
  });
}

}  // namespace quire::test

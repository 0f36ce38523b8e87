#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/merge_keys.h"
#include "quire/cache/query_observer.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/matmul/dense.h"
#include "quire/ops/merge/sequence_view.h"

namespace quire::cache {
namespace {

// Rows of probes and query heads: a system of equations has as many unknowns.
constexpr std::int64_t kMostRows = 384;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The probes of one kv head: rows of queries, their places in the text, what they should get.
struct Rows {
  Tensor q_RK, out_RU;
  std::vector<std::int64_t> place;
};

Rows rows_of(const MergeSource& from, const Tensor& out_NHU, std::int64_t g) {
  const std::int64_t G = from.k_GSK.size(0), S = from.k_GSK.size(1), N = from.q_NHK.size(0),
                     H = from.q_NHK.size(1), K = from.q_NHK.size(2), U = out_NHU.size(2), R = H / G,
                     most = std::max<std::int64_t>(kMostRows / R, 1), step = (N + most - 1) / most;
  Rows rows;
  std::vector<float> q, out;
  for (std::int64_t n = N - 1; n >= 0; n -= step) {
    for (std::int64_t h = g * R; h < (g + 1) * R; ++h) {
      const float *key = from.q_NHK.data<float>() + (n * H + h) * K,
                  *value = out_NHU.data<float>() + (n * H + h) * U;
      q.insert(q.end(), key, key + K);
      out.insert(out.end(), value, value + U);
      rows.place.push_back(S - N + n);
    }
  }
  const auto count = static_cast<std::int64_t>(rows.place.size());
  rows.q_RK = Tensor::of<float>(q, {count, K});
  rows.out_RU = Tensor::of<float>(out, {count, U});
  return rows;
}

/// What the probes got before the merge.
Tensor truth_of(const MergeSource& from, const AttentionSpec& spec) {
  if (from.out_NHU.elements() > 0) return from.out_NHU;
  const SequenceView view(from.k_GSK, from.v_GSU);
  KvView kv = view.kv();
  kv.bias = from.bias_SG.data<float>();
  kv.bias_heads = from.k_GSK.size(0);
  return attention(from.q_NHK, one_sequence(from.q_NHK.size(0)), kv, spec).out_NHU;
}

/// Softmax of scale · q·k + bias over the entries whose first member a row sees.
Tensor weights_of(const Rows& rows, const Tensor& k_MK, const float* bias_M,
                  const std::vector<std::int64_t>& first_M, double scale) {
  Tensor a_RM = matmul(rows.q_RK, k_MK.transpose(0, 1));
  const std::int64_t M = k_MK.size(0);
  for (std::int64_t r = 0; r < a_RM.size(0); ++r) {
    float* a = a_RM.mutable_data<float>() + r * M;
    float largest = -INFINITY;
    for (std::int64_t m = 0; m < M; ++m) {
      const bool sees = first_M[at(m)] >= 0 && first_M[at(m)] <= rows.place[at(r)];
      a[m] = sees ? static_cast<float>(scale) * a[m] + bias_M[m] : -INFINITY;
      largest = std::max(largest, a[m]);
    }
    double sum = 0;
    for (std::int64_t m = 0; m < M; ++m) sum += double{a[m] = std::exp(a[m] - largest)};
    for (std::int64_t m = 0; m < M; ++m) a[m] = static_cast<float>(double{a[m]} / sum);
  }
  return a_RM;
}

/// X of (gram + λ I) X = E, by Cholesky in f64; gram's diagonal has a mean of which λ is `ridge`.
Tensor solved(const Tensor& gram_RR, const Tensor& e_RU, double ridge) {
  const std::int64_t R = e_RU.size(0), U = e_RU.size(1);
  std::vector<double> l(gram_RR.data<float>(), gram_RR.data<float>() + R * R),
      x(e_RU.data<float>(), e_RU.data<float>() + R * U);
  double trace = 0;
  for (std::int64_t r = 0; r < R; ++r) trace += l[at(r * R + r)];
  const double lambda = ridge * trace / static_cast<double>(R);
  for (std::int64_t r = 0; r < R; ++r) l[at(r * R + r)] += lambda;
  // Column after column is taken off what is left: rows are walked along, not down.
  std::vector<double> column(at(R));
  for (std::int64_t k = 0; k < R; ++k) {
    const double pivot = l[at(k * R + k)] = std::sqrt(std::max(l[at(k * R + k)], 1e-30));
    for (std::int64_t i = k + 1; i < R; ++i) column[at(i)] = l[at(i * R + k)] /= pivot;
    for (std::int64_t i = k + 1; i < R; ++i) {
      const double times = column[at(i)];
      double* row = l.data() + i * R;
      for (std::int64_t j = k + 1; j <= i; ++j) row[j] -= times * column[at(j)];
    }
  }
  const auto subtract = [&](std::int64_t to, std::int64_t from, double times) {
    for (std::int64_t u = 0; u < U; ++u) x[at(to * U + u)] -= times * x[at(from * U + u)];
  };
  const auto divide = [&](std::int64_t row) {
    for (std::int64_t u = 0; u < U; ++u) x[at(row * U + u)] /= l[at(row * R + row)];
  };
  for (std::int64_t i = 0; i < R; ++i) {
    for (std::int64_t k = 0; k < i; ++k) subtract(i, k, l[at(i * R + k)]);
    divide(i);
  }
  for (std::int64_t i = R - 1; i >= 0; --i) {
    for (std::int64_t k = i + 1; k < R; ++k) subtract(i, k, l[at(k * R + i)]);
    divide(i);
  }
  Tensor out = Tensor::empty({R, U}, DType::kF32);
  std::transform(x.begin(), x.end(), out.mutable_data<float>(),
                 [](double one) { return static_cast<float>(one); });
  return out;
}

}  // namespace

void fit_values(const MergeSource& from, const AttentionSpec& spec, const Tensor& group_GS,
                double ridge, MergedKeys& merged) {
  const std::int64_t G = from.k_GSK.size(0), S = from.k_GSK.size(1), K = from.k_GSK.size(2),
                     M = merged.k_GMK.size(1), U = merged.v_GMU.size(2);
  const Tensor truth_NHU = truth_of(from, spec);
  const double scale = spec.scale != 0 ? spec.scale : 1 / std::sqrt(static_cast<double>(K));
  for (std::int64_t g = 0; g < G; ++g) {
    std::vector<std::int64_t> first_M(at(M), -1);
    for (std::int64_t s = S - 1; s >= 0; --s) {
      const std::int64_t group = group_GS.data<std::int64_t>()[g * S + s];
      if (group >= 0) first_M[at(group)] = s;
    }
    const Rows rows = rows_of(from, truth_NHU, g);
    const Tensor k_MK = merged.k_GMK.slice(0, g, g + 1).view({M, K});
    const Tensor v_MU = merged.v_GMU.slice(0, g, g + 1).view({M, U});
    const Tensor a_RM =
        weights_of(rows, k_MK, merged.bias_GM.data<float>() + g * M, first_M, scale);
    Tensor e_RU = matmul(a_RM, v_MU);
    float* e = e_RU.mutable_data<float>();
    for (std::int64_t i = 0; i < e_RU.elements(); ++i) e[i] = rows.out_RU.data<float>()[i] - e[i];
    const Tensor a_MR = a_RM.transpose(0, 1);
    const Tensor moved_MU = matmul(a_MR, solved(matmul(a_RM, a_MR), e_RU, ridge));
    float* v = merged.v_GMU.mutable_data<float>() + g * M * U;
    for (std::int64_t i = 0; i < M * U; ++i) v[i] += moved_MU.data<float>()[i];
  }
}

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/ops/moe/router_loss_kernel.h"

namespace quire::kernel {
namespace {

/// The softmax of one token's logits, and the logarithm of their sum.
template <class T>
double softmax(const RouterLoss& a, std::int64_t n, std::vector<double>& p) {
  const T* from = static_cast<const T*>(a.logits) + n * a.E;
  p.assign(from, from + a.E);
  const double largest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value - largest);
  for (double& value : p) value /= sum;
  return largest + std::log(sum);
}

/// E · n_e / (choices · N) for each expert: the loss is the sum over tokens of its product with p.
std::vector<double> shares(const RouterLoss& a) {
  std::vector<double> out(static_cast<std::size_t>(a.E));
  for (std::int64_t i = 0; i < a.choices; ++i)
    if (a.experts[i] >= 0) ++out[static_cast<std::size_t>(a.experts[i])];
  for (double& value : out)
    value *= static_cast<double>(a.E) / static_cast<double>(a.choices) / static_cast<double>(a.N);
  return out;
}

template <class T>
double balance(const RouterLoss& a) {
  const std::vector<double> share = shares(a);
  std::vector<double> p;
  double loss = 0;
  for (std::int64_t n = 0; n < a.N; ++n) {
    softmax<T>(a, n, p);
    double mean = 0;
    for (std::size_t e = 0; e < p.size(); ++e) mean += share[e] * p[e];
    loss += mean;
    if (a.dlogits == nullptr) continue;
    T* out = static_cast<T*>(a.dlogits) + n * a.E;
    for (std::size_t e = 0; e < p.size(); ++e)
      out[e] = static_cast<T>(a.dout * p[e] * (share[e] - mean));
  }
  return loss;
}

template <class T>
double z(const RouterLoss& a) {
  std::vector<double> p;
  double loss = 0;
  const double count = static_cast<double>(a.N);
  for (std::int64_t n = 0; n < a.N; ++n) {
    const double log_sum = softmax<T>(a, n, p);
    loss += log_sum * log_sum / count;
    if (a.dlogits == nullptr) continue;
    T* out = static_cast<T*>(a.dlogits) + n * a.E;
    for (std::size_t e = 0; e < p.size(); ++e)
      out[e] = static_cast<T>(a.dout * 2 * log_sum / count * p[e]);
  }
  return loss;
}

}  // namespace

double balance_loss_cpu(const RouterLoss& args) {
  return args.dtype == DType::kF64 ? balance<double>(args) : balance<float>(args);
}

double z_loss_cpu(const RouterLoss& args) {
  return args.dtype == DType::kF64 ? z<double>(args) : z<float>(args);
}

}  // namespace quire::kernel

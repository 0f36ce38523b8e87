#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/model/model.h"

namespace quire::test {

inline std::string golden_path(const std::string& name) {
  return std::string(QUIRE_SOURCE_DIR) + "/tests/goldens/" + name;
}

/// Sets the number of threads while it lives.
class Threads {
 public:
  explicit Threads(int threads) : before_(thread_pool().threads()) { set_threads(threads); }
  ~Threads() { set_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// Σ (x − truth)² / Σ truth² over one row.
inline double nmse(const float* x, const float* truth, std::int64_t count) {
  double error = 0, power = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double difference = double{x[i]} - double{truth[i]};
    error += difference * difference;
    power += double{truth[i]} * double{truth[i]};
  }
  return error / power;
}

/// Hidden states of all ids, f32 [N · D] row by row, read `chunk` ids at a time.
inline std::vector<float> run(const model::Model& model, std::span<const std::int32_t> ids,
                              cache::KvCache& cache, std::size_t chunk) {
  std::vector<float> rows;
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const Tensor hidden_ND =
        model.forward(ids.subspan(begin, std::min(chunk, ids.size() - begin)), cache);
    const float* data = hidden_ND.data<float>();
    rows.insert(rows.end(), data, data + hidden_ND.elements());
  }
  return rows;
}

/// The same with a new cache.
inline std::vector<float> run(const model::Model& model, std::span<const std::int32_t> ids,
                              std::size_t chunk) {
  const auto cache = model.make_cache(static_cast<std::int64_t>(ids.size()), model.default_kv());
  return run(model, ids, *cache, chunk);
}

/// f32 [N · V] of rows from run().
inline std::vector<float> logits(const model::Model& model, std::vector<float>& hidden) {
  const std::int64_t D = model.config().D;
  const Tensor out = model.logits(
      Tensor::wrap(hidden.data(), {static_cast<std::int64_t>(hidden.size()) / D, D}, DType::kF32));
  return {out.data<float>(), out.data<float>() + out.elements()};
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline std::int32_t best(const Tensor& logits_NV) {
  const std::int64_t V = logits_NV.size(1);
  const float* row = logits_NV.data<float>() + (logits_NV.size(0) - 1) * V;
  std::int32_t top = 0;
  for (std::int32_t v = 1; v < V; ++v) top = row[v] > row[top] ? v : top;
  return top;
}

/// The continuation that takes the most likely token at each step.
inline std::vector<std::int32_t> greedy(const model::Model& model,
                                        std::span<const std::int32_t> prompt, std::size_t tokens) {
  const auto cache =
      model.make_cache(static_cast<std::int64_t>(prompt.size() + tokens), model.default_kv());
  Tensor hidden_ND = model.forward(prompt, *cache);
  std::vector<std::int32_t> out;
  while (out.size() < tokens) {
    out.push_back(best(model.logits(hidden_ND.slice(0, hidden_ND.size(0) - 1, hidden_ND.size(0)))));
    if (out.size() < tokens) hidden_ND = model.forward({&out.back(), 1}, *cache);
  }
  return out;
}

/// Steps before the first whose best and second logit are so close that f32 may exchange them.
template <class Gaps>
std::size_t clear_steps(const Gaps& gaps) {
  std::size_t steps = 0;
  while (steps < gaps.size() && gaps[steps] >= 0.002) ++steps;
  return steps;
}

}  // namespace quire::test

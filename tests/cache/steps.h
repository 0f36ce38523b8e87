#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/kv_cache.h"
#include "quire/tensor/rng.h"
#include "tests/support/message_of.h"

namespace quire::cache::test {

using quire::test::message_of;

inline Tensor random(Rng& rng, Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* data = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i) data[i] = rng.normal();
  return out;
}

inline LayerSpec layer_of(std::int64_t H, std::int64_t G, std::int64_t K, std::int64_t U) {
  LayerSpec layer{H, G, K, U, {}};
  layer.attention.alignment = Alignment::kBottomRight;
  return layer;
}

/// Queries, keys and values of some tokens over all layers.
struct Step {
  std::vector<Tensor> q, k, v;
  std::int64_t N() const { return q[0].size(0); }
};

inline Step random_step(Rng& rng, const std::vector<LayerSpec>& layers, std::int64_t N) {
  Step step;
  for (const LayerSpec& s : layers) {
    step.q.push_back(random(rng, {N, s.H, s.K}));
    step.k.push_back(random(rng, {N, s.G, s.K}));
    step.v.push_back(random(rng, {N, s.G, s.U}));
  }
  return step;
}

/// Rows [begin, end) of every tensor.
inline Step part(const Step& step, std::int64_t begin, std::int64_t end) {
  Step out;
  for (std::size_t i = 0; i < step.q.size(); ++i) {
    out.q.push_back(step.q[i].slice(0, begin, end));
    out.k.push_back(step.k[i].slice(0, begin, end));
    out.v.push_back(step.v[i].slice(0, begin, end));
  }
  return out;
}

inline Tensor joined(const std::vector<Tensor>& parts) {
  std::int64_t N = 0;
  for (const Tensor& part : parts) N += part.size(0);
  Tensor out = Tensor::empty({N, parts[0].size(1), parts[0].size(2)}, DType::kF32);
  float* to = out.mutable_data<float>();
  for (const Tensor& part : parts) {
    const Tensor rows = part.contiguous_copy();
    if (rows.elements() > 0)
      std::memcpy(to, rows.data<float>(), static_cast<std::size_t>(rows.bytes()));
    to += rows.elements();
  }
  return out;
}

/// The rows of several steps, one after another.
inline Step joined(const std::vector<Step>& steps) {
  Step out;
  for (std::size_t i = 0; i < steps[0].q.size(); ++i) {
    std::vector<Tensor> q, k, v;
    for (const Step& step : steps) {
      q.push_back(step.q[i]);
      k.push_back(step.k[i]);
      v.push_back(step.v[i]);
    }
    out.q.push_back(joined(q));
    out.k.push_back(joined(k));
    out.v.push_back(joined(v));
  }
  return out;
}

/// One step of the cache: the outputs of its layers, f32 [N, H · U] each.
inline std::vector<Tensor> feed_layers(KvCache& cache, const Step& step,
                                       const std::vector<std::int32_t>& ids = {}) {
  std::vector<Tensor> out;
  cache.begin_step(ids);
  for (std::size_t i = 0; i < step.q.size(); ++i) {
    cache.append(static_cast<std::int64_t>(i), step.k[i], step.v[i]);
    out.push_back(cache.attend(static_cast<std::int64_t>(i), step.q[i]));
  }
  cache.advance(step.N());
  return out;
}

/// The same, as numbers one after another.
inline std::vector<float> feed(KvCache& cache, const Step& step,
                               const std::vector<std::int32_t>& ids = {}) {
  std::vector<float> out;
  for (const Tensor& o : feed_layers(cache, step, ids))
    out.insert(out.end(), o.data<float>(), o.data<float>() + o.elements());
  return out;
}

/// The same, token by token whatever the step was.
inline std::vector<float> feed_by_token(KvCache& cache, const Step& step) {
  std::vector<float> out;
  const std::vector<Tensor> layers = feed_layers(cache, step);
  for (std::int64_t n = 0; n < step.N(); ++n)
    for (const Tensor& layer : layers) {
      const std::int64_t row = layer.elements() / layer.size(0);
      out.insert(out.end(), layer.data<float>() + n * row, layer.data<float>() + (n + 1) * row);
    }
  return out;
}

/// Gives the cache keys and values alone: what is there already when a test begins.
inline void hold(KvCache& cache, const Step& step, const std::vector<std::int32_t>& ids = {}) {
  cache.begin_step(ids);
  for (std::size_t i = 0; i < step.k.size(); ++i)
    cache.append(static_cast<std::int64_t>(i), step.k[i], step.v[i]);
  cache.advance(step.N());
}

using Ids = std::vector<std::int32_t>;

inline Ids ids_of(std::int64_t count, std::int32_t first = 0) {
  Ids ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

/// Everything the cache answers when it is fed `chunk` tokens at a time. Small chunks come at both
/// ends, where pages begin and (with 300 tokens) where partial results of 256 keys meet; what lies
/// between is fed at once: hundreds of steps would show nothing more.
inline std::vector<float> feed_in(KvCache& cache, const Step& all, std::int64_t chunk,
                                  const Ids& ids = {}) {
  constexpr std::int64_t kEnds = 24;
  std::vector<float> out;
  for (std::int64_t at = 0; at < all.N();) {
    const bool between = at >= kEnds && at + 4 * chunk <= all.N() - 2 * kEnds;
    const std::int64_t end = between ? all.N() - 2 * kEnds : std::min(all.N(), at + chunk);
    const Ids told = ids.empty() ? ids : Ids(ids.begin() + at, ids.begin() + end);
    for (const float x : feed(cache, part(all, at, end), told)) out.push_back(x);
    at = end;
  }
  return out;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0;
}

}  // namespace quire::cache::test

// The attention of one decode step over a long context: the tiered cache beside the full one, on
// keys in topics (as documents have them) and on keys without any order.
//
//   bench_tiered [TOKENS…] [--heads H G K] [--budget N | --share P] [--opened N]
//                [--two-levels N] [--steps N] [--threads N] [--random] [--no-full]
//
// Prints a line for each number of tokens: milliseconds for a step of each cache (the lower
// quartile of queries that ask for different topics), bytes that it reads, the error of the
// output, and what building the index took.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/tiered.h"
#include "quire/tensor/rng.h"

namespace {

using quire::Tensor;
using quire::cache::ContiguousCache;
using quire::cache::KvCache;
using quire::cache::LayerSpec;
using quire::cache::TieredCache;
using quire::cache::TieredSpec;

struct Options {
  std::int64_t H = 32, G = 8, K = 128;
  std::vector<std::int64_t> tokens;
  TieredSpec spec;
  std::int64_t steps = 30;
  bool random = false, full = true;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Sums of uniform numbers: fast, and near enough to normal ones.
class Noise {
 public:
  explicit Noise(std::uint64_t seed) : state_(seed * 2 + 1) {}
  float operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const auto a = static_cast<std::uint32_t>(state_ >> 32);
    return (static_cast<float>(a & 0xffff) + static_cast<float>(a >> 16) - 65535.0f) / 26755.0f;
  }

 private:
  std::uint64_t state_;
};

/// Tokens come in runs of 24 that share a topic; a topic comes back again and again.
class Document {
 public:
  Document(const Options& o, std::int64_t tokens)
      : o_(o), topics_(std::max<std::int64_t>(16, tokens / 256)), noise_(1) {
    topic_.resize(static_cast<std::size_t>(topics_ * o.G * o.K));
    for (float& x : topic_) x = noise_();
  }
  Tensor keys(std::int64_t first, std::int64_t N) {
    Tensor out = Tensor::empty({N, o_.G, o_.K}, quire::DType::kF32);
    float* to = out.mutable_data<float>();
    for (std::int64_t n = first; n < first + N; ++n) {
      const float* topic = of(n / 24 * 2654435761 % topics_);
      for (std::int64_t i = 0; i < o_.G * o_.K; ++i)
        *to++ = o_.random ? noise_() : topic[i] + 0.7f * noise_();
    }
    return out;
  }
  Tensor values(std::int64_t N) {
    Tensor out = Tensor::empty({N, o_.G, o_.K}, quire::DType::kF32);
    float* to = out.mutable_data<float>();
    for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = noise_();
    return out;
  }
  Tensor query(std::int64_t n) {
    Tensor out = Tensor::empty({1, o_.H, o_.K}, quire::DType::kF32);
    float* to = out.mutable_data<float>();
    const float* topic = of(n * 7919 % topics_);
    for (std::int64_t h = 0; h < o_.H; ++h)
      for (std::int64_t i = 0; i < o_.K; ++i)
        *to++ = 0.7f * noise_() + (o_.random ? 0 : topic[h / (o_.H / o_.G) * o_.K + i]);
    return out;
  }

 private:
  const float* of(std::int64_t topic) const { return topic_.data() + topic * o_.G * o_.K; }
  const Options& o_;
  std::int64_t topics_;
  Noise noise_;
  std::vector<float> topic_;
};

/// One token more: seconds of append and attend together.
double step(KvCache& cache, const Tensor& q, const Tensor& k, const Tensor& v, Tensor& out) {
  const double start = now();
  cache.append(0, k, v);
  out = cache.attend(0, q);
  const double seconds = now() - start;
  cache.advance(1);
  return seconds;
}

/// The middle one, unless others use the machine: then a low one is nearer the truth.
double typical(std::vector<double> x) {
  const auto at = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 4);
  std::nth_element(x.begin(), at, x.end());
  return *at;
}

double error(const Tensor& a, const Tensor& b) {
  double off = 0, size = 0;
  for (std::int64_t i = 0; i < b.elements(); ++i) {
    const double x = b.data<float>()[i], d = double{a.data<float>()[i]} - x;
    off += d * d;
    size += x * x;
  }
  return std::sqrt(off / size);
}

void measure(const Options& o, std::int64_t tokens) {
  constexpr std::int64_t kChunk = 4096;
  const std::int64_t steps = o.steps;
  LayerSpec layer{o.H, o.G, o.K, o.K, {}};
  layer.attention.alignment = quire::Alignment::kBottomRight;
  TieredCache tiered({layer}, o.spec, tokens + steps, quire::DType::kF16);
  ContiguousCache full({layer}, tokens + steps, quire::DType::kF16);
  Document document(o, tokens);
  for (std::int64_t at = 0; at < tokens; at += kChunk) {
    const std::int64_t N = std::min(kChunk, tokens - at);
    const Tensor k = document.keys(at, N), v = document.values(N);
    for (KvCache* cache : {static_cast<KvCache*>(&tiered), static_cast<KvCache*>(&full)}) {
      if (cache == &full && !o.full) continue;
      cache->append(0, k, v);
      cache->advance(N);
    }
  }
  double start = now();
  tiered.build();
  const double build = now() - start;
  std::vector<double> tiered_s, full_s;
  double off = 0, read = 0, mass = 0;
  for (std::int64_t n = 0; n < steps; ++n) {
    const Tensor q = document.query(n), k = document.keys(tokens + n, 1), v = document.values(1);
    Tensor a, b;
    tiered_s.push_back(step(tiered, q, k, v, a));
    read += static_cast<double>(tiered.report().bytes_read) / static_cast<double>(steps);
    mass += tiered.report().mass / static_cast<double>(steps);
    if (!o.full) continue;
    full_s.push_back(step(full, q, k, v, b));
    off += error(a, b) / static_cast<double>(steps);
  }
  const double full_ms = o.full ? 1e3 * typical(full_s) : 0, tiered_ms = 1e3 * typical(tiered_s);
  const auto all = static_cast<double>(tokens * tiered.bytes_per_token());
  std::printf(
      "%8lld tokens  full %8.3f ms  tiered %7.3f ms  %5.1f x  read %6.2f MB = %5.1f %%  "
      "error %.4f  mass %.3f  built in %.2f s\n",
      static_cast<long long>(tokens), full_ms, tiered_ms, full_ms / tiered_ms, read / 1e6,
      100 * read / all, off, mass, build);
  std::fflush(stdout);
}

Options parse(int argc, char** argv) {
  Options o;
  o.spec.budget = {.tokens = 1024};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] { return i + 1 < argc ? std::atoll(argv[++i]) : 0; };
    if (word == "--heads") {
      o.H = next();
      o.G = next();
      o.K = next();
    } else if (word == "--budget") {
      o.spec.budget = {.tokens = next()};
    } else if (word == "--share") {
      o.spec.budget = {.read = static_cast<double>(next()) / 100};
    } else if (word == "--opened") {
      o.spec.opened = next();
    } else if (word == "--two-levels") {
      o.spec.two_levels_from = next();
    } else if (word == "--steps") {
      o.steps = std::max<std::int64_t>(1, next());
    } else if (word == "--threads") {
      quire::set_threads(static_cast<int>(std::max<std::int64_t>(1, next())));
    } else if (word == "--random") {
      o.random = true;
    } else if (word == "--no-full") {
      o.full = false;
    } else {
      o.tokens.push_back(std::atoll(word.c_str()));
    }
  }
  if (o.tokens.empty()) o.tokens = {8192, 32768, 131072, 262144};
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  const Options o = parse(argc, argv);
  std::printf("%lld query heads, %lld kv heads, d %lld, f16, %d threads, %s keys\n",
              static_cast<long long>(o.H), static_cast<long long>(o.G), static_cast<long long>(o.K),
              quire::thread_pool().threads(), o.random ? "random" : "clustered");
  for (const std::int64_t tokens : o.tokens) measure(o, tokens);
  return 0;
}

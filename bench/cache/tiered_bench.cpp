// The attention of one decode step over a long context: the tiered cache beside the full one, on
// keys of real text, on keys in topics and on keys without any order (context_keys.h says how each
// is made).
//
//   bench_tiered [TOKENS…] [--qkv DUMP]… [--rope-theta X] [--keys KIND]… [--heads H G K]
//                [--budget N | --share P] [--opened N] [--two-levels N] [--steps N] [--threads N]
//                [--no-full]
//
// DUMP is what `quire eval MODEL --file TEXT --tokens 8193 --positions 1 --cache full --tasks none
// --layers 2,7,12,17,22,27 --dump-qkv DUMP` wrote of SmolLM2-135M (theta 100000, the default): its
// 3 kv heads of 64 in 6 layers are enough for 8 of 128. Several texts follow one another, the
// first one again after the last, turned to their new positions. KIND is text (needs DUMP),
// clustered or random; default all that there is.
//
// Prints a line for each kind and number of tokens: milliseconds for a step of each cache
// (medians, the two in turn), bytes that it reads, the error of the output, the attention that was
// covered by its own estimate, and what building the index took: also as a share of the attention
// of the prefill, that is of the same layer's exact attention of all tokens to those before them.
// (That is measured at the end of the context, 128 queries at once, and counted by half for each
// token, since the first meet few keys. A model's prefill has its matrix products besides.) Then
// what grew from the first number of tokens to the last.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "bench/cache/context_keys.h"
#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/tiered.h"

namespace {

using quire::Tensor;
using quire::bench::ContextKeys;
using quire::bench::Heads;
using quire::bench::TextKeys;
using quire::cache::ContiguousCache;
using quire::cache::KvCache;
using quire::cache::LayerSpec;
using quire::cache::TieredCache;
using quire::cache::TieredSpec;

constexpr std::int64_t kPrefillQueries = 128;

struct Options {
  Heads heads;
  std::vector<std::int64_t> tokens;
  std::vector<std::string> dumps, kinds;
  double theta = 100000;
  TieredSpec spec;
  std::int64_t steps = 30;
  bool full = true;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// One token more: seconds of append and attend together.
double step(KvCache& cache, const Tensor& q, const Tensor& k, const Tensor& v, Tensor& out) {
  const double start = now();
  cache.append(0, k, v);
  out = cache.attend(0, q);
  const double seconds = now() - start;
  cache.advance(1);
  return seconds;
}

double median(std::vector<double> x) {
  if (x.empty()) return 0;
  const auto at = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
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

/// Seconds of the exact attention of all tokens to those before them.
double prefill_seconds(ContiguousCache& cache, ContextKeys& document, std::int64_t tokens) {
  const Tensor one = document.query(0);
  Tensor q_NHK = Tensor::empty({kPrefillQueries, one.size(1), one.size(2)}, quire::DType::kF32);
  for (std::int64_t n = 0; n < kPrefillQueries; ++n)
    std::copy_n(one.data<float>(), one.elements(),
                q_NHK.mutable_data<float>() + n * one.elements());
  cache.truncate(tokens);
  const Tensor k = document.keys(0, kPrefillQueries), v = document.values(0, kPrefillQueries);
  cache.append(0, k, v);
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) {
    const double start = now();
    static_cast<void>(cache.attend(0, q_NHK));
    seconds.push_back(now() - start);
  }
  return median(seconds) * static_cast<double>(tokens) / static_cast<double>(kPrefillQueries) / 2;
}

struct Figures {
  double full_ms = 0, tiered_ms = 0, read = 0;
};

Figures measure(const Options& o, const char* kind, ContextKeys& document, std::int64_t tokens) {
  constexpr std::int64_t kChunk = 4096;
  const std::int64_t steps = o.steps, capacity = tokens + std::max(steps, kPrefillQueries);
  LayerSpec layer{o.heads.H, o.heads.G, o.heads.K, o.heads.K, {}};
  layer.attention.alignment = quire::Alignment::kBottomRight;
  TieredCache tiered({layer}, o.spec, capacity, quire::DType::kF16);
  ContiguousCache full({layer}, capacity, quire::DType::kF16);
  for (std::int64_t at = 0; at < tokens; at += kChunk) {
    const std::int64_t N = std::min(kChunk, tokens - at);
    const Tensor k = document.keys(at, N), v = document.values(at, N);
    for (KvCache* cache : {static_cast<KvCache*>(&tiered), static_cast<KvCache*>(&full)}) {
      if (cache == &full && !o.full) continue;
      cache->append(0, k, v);
      cache->advance(N);
    }
  }
  const double start = now();
  tiered.build();
  const double build = now() - start;
  std::vector<double> tiered_s, full_s;
  double off = 0, read = 0, mass = 0;
  for (std::int64_t n = 0; n < steps; ++n) {
    const Tensor q = document.query(n), k = document.keys(tokens + n, 1),
                 v = document.values(tokens + n, 1);
    Tensor a, b;
    tiered_s.push_back(step(tiered, q, k, v, a));
    read += static_cast<double>(tiered.report().bytes_read) / static_cast<double>(steps);
    mass += tiered.report().mass / static_cast<double>(steps);
    if (!o.full) continue;
    full_s.push_back(step(full, q, k, v, b));
    off += error(a, b) / static_cast<double>(steps);
  }
  const Figures out{1e3 * median(full_s), 1e3 * median(tiered_s), read};
  const double prefill = o.full ? prefill_seconds(full, document, tokens) : 0;
  const auto all = static_cast<double>(tokens * tiered.bytes_per_token());
  std::printf(
      "%-9s %8lld tokens  full %8.3f ms  tiered %7.3f ms  %5.1f x  read %6.2f MB = %5.1f %%  "
      "error %.4f  mass %.3f  built in %.2f s = %.1f %% of %.1f s\n",
      kind, static_cast<long long>(tokens), out.full_ms, out.tiered_ms, out.full_ms / out.tiered_ms,
      read / 1e6, 100 * read / all, off, mass, build, prefill > 0 ? 100 * build / prefill : 0,
      prefill);
  std::fflush(stdout);
  return out;
}

void measure_kind(const Options& o, const std::string& kind, const TextKeys* text) {
  std::vector<Figures> all;
  for (const std::int64_t tokens : o.tokens) {
    const auto document = kind == "text"     ? text->context(tokens, o.steps)
                          : kind == "random" ? quire::bench::random_keys(o.heads, tokens)
                                             : quire::bench::clustered_keys(o.heads, tokens);
    all.push_back(measure(o, kind.c_str(), *document, tokens));
  }
  if (all.size() < 2) return;
  std::printf("%-9s %lld to %lld tokens: time %.2f x, bytes %.2f x\n", kind.c_str(),
              static_cast<long long>(o.tokens.front()), static_cast<long long>(o.tokens.back()),
              all.back().tiered_ms / all.front().tiered_ms, all.back().read / all.front().read);
}

Options parse(int argc, char** argv) {
  Options o;
  o.spec.budget = {.tokens = 1024};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto text = [&] { return std::string(i + 1 < argc ? argv[++i] : ""); };
    const auto next = [&] { return std::atoll(text().c_str()); };
    if (word == "--heads") {
      o.heads.H = next();
      o.heads.G = next();
      o.heads.K = next();
    } else if (word == "--qkv") {
      o.dumps.push_back(text());
    } else if (word == "--rope-theta") {
      o.theta = std::atof(text().c_str());
    } else if (word == "--keys") {
      o.kinds.push_back(text());
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
    } else if (word == "--no-full") {
      o.full = false;
    } else {
      o.tokens.push_back(std::atoll(word.c_str()));
      QUIRE_CHECK(o.tokens.back() > 0, word, " is neither an option nor a number of tokens");
    }
  }
  if (o.tokens.empty()) o.tokens = {8192, 32768, 131072, 262144};
  if (o.kinds.empty()) {
    if (!o.dumps.empty()) o.kinds.push_back("text");
    o.kinds.insert(o.kinds.end(), {"clustered", "random"});
  }
  for (const std::string& kind : o.kinds)
    QUIRE_CHECK(kind == "clustered" || kind == "random" || (kind == "text" && !o.dumps.empty()),
                "--keys ", kind, ": it is clustered, random, or (with --qkv) text");
  return o;
}

int run(const Options& o) {
  std::unique_ptr<TextKeys> text;
  if (!o.dumps.empty()) text = std::make_unique<TextKeys>(o.dumps, o.heads, o.theta);
  std::printf("%lld query heads, %lld kv heads, d %lld, f16, %d threads\n",
              static_cast<long long>(o.heads.H), static_cast<long long>(o.heads.G),
              static_cast<long long>(o.heads.K), quire::thread_pool().threads());
  if (text != nullptr)
    std::printf("texts of %lld tokens together\n", static_cast<long long>(text->tokens()));
  for (const std::string& kind : o.kinds) measure_kind(o, kind, text.get());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}

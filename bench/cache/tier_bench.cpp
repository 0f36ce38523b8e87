// A long context under --cache-ram: peak memory, bits and speed of a synthetic model's cache beside
// the same cache in memory, and beside what the disk reads in a second. See docs/cache_tier.md.
//
// usage: bench_tier [--layers N] [--tokens N] [--heads N] [--size N] [--percent N] [--steps N]
//                   [--disk DIR] [--warm] [--limited]
//
// Keys and values are random, appended 1024 tokens at a time; only the last tokens attend, because
// reading 64k tokens through attention would move 64 times the cache. --warm leaves the kernel's
// copies of the file in memory, which otherwise are dropped before each step (that needs root).
// --limited leaves the unlimited run out.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/hash.h"
#include "quire/cache/paged.h"
#include "quire/tensor/rng.h"

namespace {

using namespace quire;

struct Arguments {
  std::int64_t layers = 32, tokens = 65536, heads = 8, size = 128, percent = 10, steps = 4;
  std::string disk = "/tmp/quire-tier-bench";
  bool warm = false, only_limited = false;
};

struct Result {
  cache::Hash128 hash;
  double append_s = 0, step_s = 0;
  std::int64_t limit = 0, cache = 0, peak_before = 0, peak = 0, bytes_read = 0, bytes_written = 0,
               waits = 0;
  char method[16] = "";
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("VmHWM:")) continue;
    std::int64_t kib = 0;
    std::istringstream(line.substr(6)) >> kib;
    return kib * 1024;
  }
  return 0;
}

/// Numbers that look random, at the price of a copy.
class Source {
 public:
  Source() : numbers_(kNumbers) {
    Rng rng(1);
    for (float& x : numbers_) x = rng.normal();
  }
  Tensor make(std::int64_t N, std::int64_t heads, std::int64_t size, std::uint64_t which) const {
    Tensor out = Tensor::empty({N, heads, size}, DType::kF32);
    float* to = out.mutable_data<float>();
    std::size_t at = which * 7919 % kNumbers;
    for (std::int64_t left = out.elements(); left > 0;) {
      const auto some = std::min<std::int64_t>(left, static_cast<std::int64_t>(kNumbers - at));
      std::memcpy(to, numbers_.data() + at, 4 * static_cast<std::size_t>(some));
      to += some;
      left -= some;
      at = 0;
    }
    return out;
  }

 private:
  static constexpr std::size_t kNumbers = 2'097'143;
  std::vector<float> numbers_;
};

void drop_kernel_copies() {
  ::sync();
  std::ofstream("/proc/sys/vm/drop_caches") << "1";
}

Result run(const Arguments& a, std::int64_t percent) {
  Result out;
  cache::PagedSpec spec;
  cache::LayerSpec layer{4 * a.heads, a.heads, a.size, a.size, {}};
  spec.layers.assign(static_cast<std::size_t>(a.layers), layer);
  spec.kv = DType::kF16;
  spec.budget_tokens = a.tokens;
  out.cache = a.tokens * a.layers * a.heads * a.size * 2 * 2;
  if (percent > 0) {
    out.limit = out.cache * percent / 100;
    spec.memory = {out.limit, a.disk, 0};
  }
  const Source source;
  auto pool = std::make_shared<cache::PagedPool>(spec);
  cache::PagedCache cache(pool, a.tokens);
  out.peak_before = peak_bytes();
  std::uint64_t which = 0;
  const std::int64_t read = a.tokens - a.steps - 1;
  double begin = now();
  for (std::int64_t at = 0; at < read; at += 1024) {
    const std::int64_t N = std::min<std::int64_t>(1024, read - at);
    for (std::int64_t l = 0; l < a.layers; ++l, which += 2)
      cache.append(l, source.make(N, a.heads, a.size, which),
                   source.make(N, a.heads, a.size, which + 1));
    cache.advance(N);
  }
  out.append_s = now() - begin;
  std::vector<cache::Hash128> hashes;
  double seconds = 0;
  for (std::int64_t step = 0; step <= a.steps; ++step) {
    if (percent > 0 && !a.warm) drop_kernel_copies();
    const auto before = pool->tier_counts().value_or(cache::TierCounts{});
    begin = now();
    for (std::int64_t l = 0; l < a.layers; ++l, which += 3) {
      cache.append(l, source.make(1, a.heads, a.size, which),
                   source.make(1, a.heads, a.size, which + 1));
      const Tensor o = cache.attend(l, source.make(1, 4 * a.heads, a.size, which + 2));
      hashes.push_back(cache::checksum(
          std::as_bytes(std::span(o.data<float>(), static_cast<std::size_t>(o.elements())))));
    }
    cache.advance(1);
    if (step == 0) continue;  // writes what was never written
    seconds += now() - begin;
    const auto after = pool->tier_counts().value_or(cache::TierCounts{});
    out.bytes_read += after.bytes_read - before.bytes_read;
    out.bytes_written += after.bytes_written - before.bytes_written;
    out.waits += after.waits - before.waits;
    std::snprintf(out.method, sizeof out.method, "%s", after.method);
  }
  out.step_s = seconds / static_cast<double>(a.steps);
  out.hash = cache::checksum(std::as_bytes(std::span(hashes)));
  out.peak = peak_bytes();
  return out;
}

/// In a process of its own, whose peak is its own.
Result run_apart(const Arguments& a, std::int64_t percent) {
  int ends[2];
  if (::pipe(ends) != 0) std::exit(5);
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      const Result result = run(a, percent);
      if (::write(ends[1], &result, sizeof result) != sizeof result) std::_Exit(5);
      std::_Exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "bench_tier: %s\n", error.what());
      std::_Exit(1);
    }
  }
  Result result;
  ::close(ends[1]);
  if (::read(ends[0], &result, sizeof result) != sizeof result) std::exit(1);
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return result;
}

/// Bytes a second that a file in the folder is read with when the kernel has no copy of it.
double disk_rate(const std::string& folder) {
  const std::string path = folder + "/bench-rate";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) return 0;
  ::unlink(path.c_str());
  constexpr std::size_t kPiece = 8 << 20, kPieces = 128;
  std::vector<std::byte> piece(kPiece, std::byte{1});
  for (std::size_t i = 0; i < kPieces; ++i)
    if (::pwrite(fd, piece.data(), kPiece, static_cast<off_t>(i * kPiece)) < 0) break;
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  const double begin = now();
  for (std::size_t i = 0; i < kPieces; ++i)
    if (::pread(fd, piece.data(), kPiece, static_cast<off_t>(i * kPiece)) < 0) break;
  const double seconds = now() - begin;
  ::close(fd);
  return kPiece * kPieces / seconds;
}

void print(const char* name, const Arguments& a, const Result& r) {
  std::printf(
      "%-10s limit %7.1f MB  peak %7.1f MB (%.1f before)  append %6.1f s (%.0f tok/s)  step %7.3f "
      "s (%.3f tok/s)"
      "  hash %s\n",
      name, static_cast<double>(r.limit) / 1e6, static_cast<double>(r.peak) / 1e6,
      static_cast<double>(r.peak_before) / 1e6, r.append_s,
      static_cast<double>(a.tokens) / r.append_s, r.step_s, 1 / r.step_s,
      cache::to_text(r.hash).c_str());
  if (r.limit > 0)
    std::printf(
        "%-10s per step: %.1f MB read (%.2f GB/s), %.1f MB written, %lld records waited for; %s\n",
        "", static_cast<double>(r.bytes_read) / 1e6 / static_cast<double>(a.steps),
        static_cast<double>(r.bytes_read) / 1e9 / static_cast<double>(a.steps) / r.step_s,
        static_cast<double>(r.bytes_written) / 1e6 / static_cast<double>(a.steps),
        static_cast<long long>(r.waits), r.method);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--warm") {
      a.warm = true;
    } else if (name == "--limited") {
      a.only_limited = true;
    } else if (i + 1 < argc) {
      const std::string value = argv[++i];
      if (name == "--disk") a.disk = value;
      for (const auto& [option, target] :
           {std::pair{"--layers", &a.layers}, std::pair{"--tokens", &a.tokens},
            std::pair{"--heads", &a.heads}, std::pair{"--size", &a.size},
            std::pair{"--percent", &a.percent}, std::pair{"--steps", &a.steps}})
        if (name == option) *target = std::atoll(value.c_str());
    }
  }
  const Result limited = run_apart(a, a.percent);
  print("limited", a, limited);
  std::printf("disk       %.2f GB/s read without the kernel's copies\n", disk_rate(a.disk) / 1e9);
  if (a.only_limited) return 0;
  const Result free = run_apart(a, 0);
  print("unlimited", a, free);
  const bool is_same = free.hash == limited.hash;
  const bool is_small = limited.peak <= limited.limit + 100'000'000;
  std::printf("%s; %s\n", is_same ? "the same bits" : "NOT THE SAME BITS",
              is_small ? "peak within the limit and 100 MB" : "PEAK ABOVE THE LIMIT AND 100 MB");
  return is_same && is_small ? 0 : 1;
}

// Sequences whose first keys are the same pages. The order of a sequence's sum is that of
// attention_cpu(): a partial result per 256 keys, merged in order. Only who computes the first
// ones, and for whom, is another matter; so the bits stay.

#include <algorithm>
#include <limits>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_finish.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/shared_attention_kernel.h"
#include "quire/ops/attention/thread_memory.h"

namespace quire::kernel {
namespace {

// Queries whose heads share a tile of keys.
constexpr std::int64_t kBlockQueries = 64;
// Rows whose partial results are merged together.
constexpr std::int64_t kMergedRows = 16;

constexpr std::int64_t kLine = 16;  // floats of a line of the cache

std::int64_t lines(std::int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

float* scratch(std::int64_t count) {
  thread_local ThreadMemory memory;
  return memory.floats(count);
}

class Run {
 public:
  Run(const AttentionForward& args, std::int64_t shared)
      : own_(args),
        all_(args),
        group_(args.H / args.kv.G),
        width_((args.kv.U + 15) / 16 * 16),
        chunks_(shared / kChunkKeys),
        length_(shared) {
    // The queries of all sequences as those of one, which has the shared keys and sees all of them.
    first_ = 0;
    while (args.start_J[first_] == args.start_J[first_ + 1]) ++first_;
    start_[1] = static_cast<std::int32_t>(args.N);
    all_.B = 1;
    all_.start_J = start_;
    all_.kv.length_BG = &length_;
    if (all_.kv.table_start_J != nullptr) {
      all_.kv.table_start_J += first_;
    } else {
      all_.kv.table += first_ * all_.kv.W;
    }
    all_.spec.window_right = kUnlimited;
    splits_ = args.N <= kBlockQueries;
    query_floats_ = query_floats(args.products, args.kv.K);
  }

  void operator()() {
    thread_local ThreadMemory parts, queries;
    const std::int64_t G = own_.kv.G;
    parts_ = parts.floats(G * (splits_ ? chunks_ : 1) * state_floats(own_.N));
    queries_ = queries.floats(G * own_.N * group_ * query_floats_);
    for (std::int64_t g = 0; g < G; ++g) pack_queries_of(g);
    if (splits_) {
      thread_pool().run(G * chunks_,
                        [&](std::int64_t i) { shared_chunk(i / chunks_, i % chunks_); });
    } else {
      const std::int64_t blocks = (own_.N + kBlockQueries - 1) / kBlockQueries;
      thread_pool().run(G * blocks, [&](std::int64_t i) {
        const std::int64_t first = i % blocks * kBlockQueries;
        shared_block(i / blocks, first, std::min(own_.N, first + kBlockQueries));
      });
    }
    const std::int64_t most = std::max<std::int64_t>(1, kMergedRows / group_),
                       sets = (own_.B + most - 1) / most;
    thread_pool().run(sets * G, [&](std::int64_t i) {
      const std::int64_t set = i / G;
      own_parts(set * own_.B / sets, (set + 1) * own_.B / sets, i % G);
    });
  }

 private:
  struct Queries {
    std::int64_t first, last;
  };

  std::int64_t state_floats(std::int64_t queries) const {
    return queries * group_ * width_ + lines(2 * queries * group_);
  }
  SoftmaxState state_at(float* memory, std::int64_t queries) const {
    const std::int64_t rows = queries * group_;
    return {memory + rows * width_, memory + rows * (width_ + 1), memory};
  }
  SoftmaxState rows_of(const SoftmaxState& state, std::int64_t first) const {
    const std::int64_t row = first * group_;
    return {state.max_R + row, state.sum_R + row, state.out_RU + row * width_};
  }
  /// Of all rows of a kv head: over one chunk where chunks are computed apart, else over all.
  SoftmaxState part(std::int64_t g, std::int64_t chunk) const {
    const std::int64_t i = splits_ ? g * chunks_ + chunk : g;
    return state_at(parts_ + i * state_floats(own_.N), own_.N);
  }
  std::int64_t scratch_floats(std::int64_t queries) const {
    return lines(chunk_scratch(queries * group_, own_.kv.K));
  }
  void clear(const SoftmaxState& state, std::int64_t queries) const {
    std::fill_n(state.max_R, queries * group_, -std::numeric_limits<float>::infinity());
    std::fill_n(state.sum_R, queries * group_, 0.0f);
    std::fill_n(state.out_RU, queries * group_ * width_, 0.0f);
  }
  void merge(const SoftmaxState& into, const SoftmaxState& later, std::int64_t queries) const {
    QUIRE_FOR_ISA(merge_states)(into, later, queries * group_, width_);
  }

  const float* query(std::int64_t g, std::int64_t n) const {
    return queries_ + (g * own_.N + n) * group_ * query_floats_;
  }
  /// The queries of a kv head one after the other, as the kernel wants them.
  void pack_queries_of(std::int64_t g) {
    const std::int64_t K = own_.kv.K;
    for (std::int64_t n = 0; n < own_.N; ++n) {
      QUIRE_FOR_ISA(pack_queries)
      (own_, own_.q_NHK + (n * own_.H + g * group_) * K, group_,
       queries_ + (g * own_.N + n) * group_ * query_floats_);
    }
  }

  void shared_chunk(std::int64_t g, std::int64_t chunk) const {
    // What this thread does next, as long as threads take turns.
    const std::int64_t next = g * chunks_ + chunk + thread_pool().threads();
    const bool is_last = next >= own_.kv.G * chunks_;
    const AttentionRows rows{0, g, 0, own_.N, query(g, 0), INT64_MAX};
    QUIRE_FOR_ISA(attention_chunk)
    ({all_, rows, chunk, is_last ? -1 : next / chunks_, next % chunks_, part(g, chunk), true,
      scratch(scratch_floats(own_.N))});
  }
  void shared_block(std::int64_t g, std::int64_t first, std::int64_t last) const {
    const AttentionRows rows{0, g, first, last, query(g, first), INT64_MAX};
    const SoftmaxState total = rows_of(part(g, 0), first);
    float* memory = scratch(scratch_floats(last - first));
    for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
      const bool is_last = chunk + 1 == chunks_;
      QUIRE_FOR_ISA(attention_chunk)
      ({all_, rows, chunk, is_last ? -1 : g, chunk + 1, total, chunk == 0, memory});
    }
  }

  /// What sequences [begin, end) have of the shared chunks, then the rest of their keys.
  void own_parts(std::int64_t begin, std::int64_t end, std::int64_t g) const {
    if (!splits_ || own_.start_J[end] - own_.start_J[begin] > kBlockQueries) {
      for (std::int64_t b = begin; b < end; ++b) own_part(b, g);
      return;
    }
    const std::int64_t first = own_.start_J[begin], count = own_.start_J[end] - first;
    float* memory = scratch(scratch_floats(count) + state_floats(count));
    const SoftmaxState total = state_at(memory + scratch_floats(count), count);
    clear(total, count);
    for (std::int64_t chunk = 0; chunk < chunks_; ++chunk)
      merge(total, rows_of(part(g, chunk), first), count);
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t queries = own_.start_J[b + 1] - own_.start_J[b];
      add_own(b, g, {0, queries}, rows_of(total, own_.start_J[b] - first), memory);
    }
  }
  void own_part(std::int64_t b, std::int64_t g) const {
    const std::int64_t start = own_.start_J[b], queries = own_.start_J[b + 1] - start;
    for (std::int64_t first = 0; first < queries; first += kBlockQueries) {
      const std::int64_t last = std::min(queries, first + kBlockQueries), count = last - first;
      float* memory = scratch(scratch_floats(count) + state_floats(count));
      const SoftmaxState total = state_at(memory + scratch_floats(count), count);
      clear(total, count);
      for (std::int64_t chunk = 0; chunk < (splits_ ? chunks_ : 1); ++chunk)
        merge(total, rows_of(part(g, chunk), start + first), count);
      add_own(b, g, {first, last}, total, memory);
    }
  }
  /// The keys behind the shared ones, and the end of these queries.
  void add_own(std::int64_t b, std::int64_t g, const Queries& queries, const SoftmaxState& total,
               float* memory) const {
    if (queries.last == queries.first) return;
    const AttentionRows rows{
        b, g, queries.first, queries.last, query(g, own_.start_J[b] + queries.first), INT64_MAX};
    const std::int64_t end = (own_.kv.length_BG[b] + kChunkKeys - 1) / kChunkKeys;
    for (std::int64_t chunk = chunks_; chunk < end; ++chunk) {
      const bool is_last = chunk + 1 == end;
      QUIRE_FOR_ISA(attention_chunk)
      ({own_, rows, chunk, is_last ? -1 : g, chunk + 1, total, false, memory});
    }
    finish_rows(own_, rows, total);
  }

  const AttentionForward& own_;
  AttentionForward all_;
  std::int64_t group_, width_, chunks_, length_, first_;
  bool splits_;  // chunks are computed apart
  std::int64_t query_floats_;
  std::int32_t start_[2] = {0, 0};
  float *parts_ = nullptr, *queries_ = nullptr;
};

}  // namespace

void shared_attention_cpu(const AttentionForward& args, std::int64_t shared) {
  Run(args, shared)();
}

}  // namespace quire::kernel

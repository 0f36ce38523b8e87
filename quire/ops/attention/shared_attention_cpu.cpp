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
  }

  void operator()() {
    thread_local ThreadMemory parts, queries;
    const std::int64_t G = own_.kv.G;
    parts_ = parts.floats(G * (splits_ ? chunks_ : 1) * state_floats(own_.N));
    queries_ = queries.floats(G * own_.N * group_ * own_.kv.K);
    for (std::int64_t g = 0; g < G; ++g) copy_queries(g);
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
    thread_pool().run(own_.B * G, [&](std::int64_t i) { own_part(i / G, i % G); });
  }

 private:
  std::int64_t state_floats(std::int64_t queries) const { return queries * group_ * (width_ + 2); }
  SoftmaxState state_at(float* memory, std::int64_t queries) const {
    const std::int64_t rows = queries * group_;
    return {memory, memory + rows, memory + 2 * rows};
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
    return attention_scratch(queries * group_, own_.kv.K, width_);
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
    return queries_ + (g * own_.N + n) * group_ * own_.kv.K;
  }
  /// The queries of a kv head one after the other, as the kernel wants them.
  void copy_queries(std::int64_t g) {
    const std::int64_t K = own_.kv.K;
    for (std::int64_t n = 0; n < own_.N; ++n)
      std::copy_n(own_.q_NHK + (n * own_.H + g * group_) * K, group_ * K,
                  queries_ + (g * own_.N + n) * group_ * K);
  }

  void shared_chunk(std::int64_t g, std::int64_t chunk) const {
    // (What the next chunk begins with is not asked for: another thread may have it.)
    const AttentionRows rows{0, g, 0, own_.N, query(g, 0), (chunk + 1) * kChunkKeys};
    QUIRE_FOR_ISA(attention_chunk)
    (all_, rows, chunk, part(g, chunk), scratch(scratch_floats(own_.N)));
  }

  void shared_block(std::int64_t g, std::int64_t first, std::int64_t last) const {
    const std::int64_t queries = last - first;
    float* memory = scratch(scratch_floats(queries) + state_floats(queries));
    const SoftmaxState next = state_at(memory + scratch_floats(queries), queries),
                       total = rows_of(part(g, 0), first);
    const AttentionRows rows{0, g, first, last, query(g, first), length_};
    clear(total, queries);
    for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
      QUIRE_FOR_ISA(attention_chunk)(all_, rows, chunk, next, memory);
      merge(total, next, queries);
    }
  }

  /// What the sequence has of the shared chunks, then the rest of its keys.
  void own_part(std::int64_t b, std::int64_t g) const {
    const std::int64_t start = own_.start_J[b], queries = own_.start_J[b + 1] - start;
    for (std::int64_t first = 0; first < queries; first += kBlockQueries) {
      const std::int64_t last = std::min(queries, first + kBlockQueries), count = last - first;
      float* memory = scratch(scratch_floats(count) + 2 * state_floats(count));
      float* states = memory + scratch_floats(count);
      const SoftmaxState total = state_at(states, count),
                         next = state_at(states + state_floats(count), count);
      clear(total, count);
      for (std::int64_t chunk = 0; chunk < (splits_ ? chunks_ : 1); ++chunk)
        merge(total, rows_of(part(g, chunk), start + first), count);
      const AttentionRows rows{b, g, first, last, query(g, start + first), INT64_MAX};
      for (std::int64_t chunk = chunks_; chunk * kChunkKeys < own_.kv.length_BG[b]; ++chunk) {
        if (QUIRE_FOR_ISA(attention_chunk)(own_, rows, chunk, next, memory))
          merge(total, next, count);
      }
      finish_rows(own_, rows, total);
    }
  }

  const AttentionForward& own_;
  AttentionForward all_;
  std::int64_t group_, width_, chunks_, length_, first_;
  bool splits_;
  std::int32_t start_[2] = {0, 0};
  float *parts_ = nullptr, *queries_ = nullptr;
};

}  // namespace

void shared_attention_cpu(const AttentionForward& args, std::int64_t shared) {
  Run(args, shared)();
}

}  // namespace quire::kernel

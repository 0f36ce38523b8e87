// The order of a sequence's sum is that of attention(): a partial result per 256 keys, merged in
// order. Only who computes the first ones, and for whom, is another matter; so the kernels are
// called directly, and the bits stay.

#include "quire/cache/shared_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/tensor/dims.h"

namespace quire::cache {
namespace {

using kernel::AttentionRows;
using kernel::SoftmaxState;

// Queries whose heads share a tile of keys.
constexpr std::int64_t kBlockQueries = 64;
// Queries whose partial results one thread merges at a time.
constexpr std::int64_t kMergedQueries = 4;

float* scratch(std::int64_t count) {
  thread_local std::vector<float> memory;
  if (memory.size() < static_cast<std::size_t>(count))
    memory.resize(static_cast<std::size_t>(count));
  return memory.data();
}

/// Memory of the calling thread for the partial results of a step: every layer uses it again.
float* partial_results(std::int64_t count) {
  thread_local std::unique_ptr<float[]> memory;
  thread_local std::int64_t size = 0;
  if (size < count) {
    memory.reset(new float[static_cast<std::size_t>(count)]);
    size = count;
  }
  return memory.get();
}

class Run {
 public:
  Run(const kernel::AttentionForward& args, std::int64_t shared)
      : own_(args),
        all_(args),
        group_(args.H / args.kv.G),
        width_((args.kv.U + 15) / 16 * 16),
        chunks_(shared / kernel::kChunkKeys),
        length_(shared),
        totals_(static_cast<std::size_t>(args.kv.G * state_floats(args.N))) {
    // The queries of all sequences as those of one, which has the shared keys and sees all of them.
    start_[1] = static_cast<std::int32_t>(args.N);
    all_.B = 1;
    all_.start_J = start_;
    all_.kv.length_BG = &length_;
    all_.spec.window_right = kUnlimited;
  }

  void operator()() {
    shared_part();
    thread_pool().run(own_.B * own_.kv.G,
                      [&](std::int64_t i) { own_part(i / own_.kv.G, i % own_.kv.G); });
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
  SoftmaxState total(std::int64_t g) {
    return state_at(totals_.data() + g * state_floats(own_.N), own_.N);
  }
  std::int64_t own_scratch(std::int64_t queries) const {
    return kernel::attention_scratch(queries * group_, own_.kv.K, width_);
  }
  std::int64_t query_floats(std::int64_t queries) const { return queries * group_ * own_.kv.K; }

  /// Queries [first, last) of sequence b, which begins at row `start`, with the heads of kv head g:
  /// one after the other, as the kernel wants them; in `memory`, unless they lie so already.
  AttentionRows rows_with_queries(std::int64_t b, std::int64_t g, std::int64_t first,
                                  std::int64_t last, std::int64_t start, float* memory) const {
    const std::int64_t K = own_.kv.K;
    const float* from = own_.q_NHK + ((start + first) * own_.H + g * group_) * K;
    AttentionRows rows{b, g, first, last, from, INT64_MAX};
    if (last - first == 1 || group_ == own_.H) return rows;
    for (std::int64_t i = 0; i < last - first; ++i)
      std::copy_n(from + i * own_.H * K, group_ * K, memory + i * group_ * K);
    rows.q = memory;
    return rows;
  }

  /// The totals of all rows over the shared chunks.
  void shared_part() {
    for (std::int64_t g = 0; g < own_.kv.G; ++g) {
      const SoftmaxState state = total(g);
      std::fill_n(state.max_R, own_.N * group_, -std::numeric_limits<float>::infinity());
    }
    const std::int64_t blocks = (own_.N + kBlockQueries - 1) / kBlockQueries;
    if (blocks == 1) return split_part();
    thread_pool().run(own_.kv.G * blocks, [&](std::int64_t i) {
      const std::int64_t g = i / blocks, first = i % blocks * kBlockQueries;
      const std::int64_t last = std::min(own_.N, first + kBlockQueries), queries = last - first;
      float* memory = scratch(own_scratch(queries) + state_floats(queries) + query_floats(queries));
      float* state = memory + own_scratch(queries);
      const SoftmaxState part = state_at(state, queries);
      AttentionRows rows = rows_with_queries(0, g, first, last, 0, state + state_floats(queries));
      rows.until = length_;
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk)
        add(all_, rows, chunk, part, rows_of(total(g), first), memory);
    });
  }

  /// The same for few queries: each chunk by itself, so that there is work for all threads.
  void split_part() {
    const std::int64_t floats = state_floats(own_.N), G = own_.kv.G;
    float* parts = partial_results(G * chunks_ * floats);
    thread_pool().run(G * chunks_, [&](std::int64_t i) {
      float* memory = scratch(own_scratch(own_.N) + query_floats(own_.N));
      AttentionRows rows =
          rows_with_queries(0, i / chunks_, 0, own_.N, 0, memory + own_scratch(own_.N));
      rows.until = (i % chunks_ + 1) * kernel::kChunkKeys;  // the next chunk may be another's
      QUIRE_FOR_ISA(attention_chunk)
      (all_, rows, i % chunks_, state_at(parts + i * floats, own_.N), memory);
    });
    const std::int64_t pieces = (own_.N + kMergedQueries - 1) / kMergedQueries;
    thread_pool().run(G * pieces, [&](std::int64_t i) {
      const std::int64_t g = i / pieces, first = i % pieces * kMergedQueries;
      const std::int64_t queries = std::min(kMergedQueries, own_.N - first);
      for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const SoftmaxState part = state_at(parts + (g * chunks_ + chunk) * floats, own_.N);
        merge(rows_of(total(g), first), rows_of(part, first), queries);
      }
    });
  }

  void merge(const SoftmaxState& into, const SoftmaxState& part, std::int64_t queries) const {
    QUIRE_FOR_ISA(merge_states)(into, part, queries * group_, width_);
  }

  void add(const kernel::AttentionForward& args, const AttentionRows& rows, std::int64_t chunk,
           const SoftmaxState& part, const SoftmaxState& into, float* memory) const {
    if (QUIRE_FOR_ISA(attention_chunk)(args, rows, chunk, part, memory))
      merge(into, part, rows.last - rows.first);
  }

  /// The rest of a sequence's keys, then the division.
  void own_part(std::int64_t b, std::int64_t g) {
    const std::int64_t start = own_.start_J[b], queries = own_.start_J[b + 1] - start;
    for (std::int64_t first = 0; first < queries; first += kBlockQueries) {
      const std::int64_t last = std::min(queries, first + kBlockQueries), count = last - first;
      // The last query of the block stands beside this key.
      const std::int64_t end = own_.kv.length_BG[b] - queries + last;
      float* memory = scratch(own_scratch(count) + state_floats(count) + query_floats(count));
      float* state = memory + own_scratch(count);
      const SoftmaxState part = state_at(state, count);
      const AttentionRows rows =
          rows_with_queries(b, g, first, last, start, state + state_floats(count));
      const SoftmaxState into = rows_of(total(g), start + first);
      for (std::int64_t chunk = chunks_; chunk * kernel::kChunkKeys < end; ++chunk)
        add(own_, rows, chunk, part, into, memory);
      for (std::int64_t r = 0; r < count * group_; ++r) {
        const std::int64_t n = start + first + r / group_, h = g * group_ + r % group_;
        QUIRE_FOR_ISA(finish_row)
        (into.out_RU + r * width_, into.sum_R[r], own_.kv.U,
         own_.out_NHU + (n * own_.H + h) * own_.kv.U);
      }
    }
  }

  const kernel::AttentionForward& own_;
  kernel::AttentionForward all_;
  std::int64_t group_, width_, chunks_, length_;
  std::int32_t start_[2] = {0, 0};
  std::vector<float> totals_;
};

void check_shared(const Tensor& start_J, const KvView& kv, std::int64_t shared) {
  QUIRE_CHECK(shared >= 0 && shared % kernel::kChunkKeys == 0, "shared is ", shared,
              "; it must be a multiple of ", kernel::kChunkKeys);
  const auto* start = start_J.data<std::int32_t>();
  const std::int64_t B = start_J.size(0) - 1, pages = (shared + kv.Z - 1) / kv.Z;
  QUIRE_CHECK(kv.table != nullptr && kv.table_start_J == nullptr && kv.table_head_stride == 0 &&
                  kv.length_stride_G == 0 && kv.first_BG == nullptr && kv.bias == nullptr,
              "shared_attention takes one dense table row and one length for each sequence");
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t before = kv.length_BG[b] - (start[b + 1] - start[b]);
    QUIRE_CHECK(shared <= before && pages <= kv.W, "sequence ", b, " has ", before,
                " keys before its queries, fewer than the shared ", shared);
    QUIRE_CHECK(std::equal(kv.table, kv.table + pages, kv.table + b * kv.W), "sequence ", b,
                " does not begin with the pages of the first");
  }
}

}  // namespace

bool can_share(const AttentionSpec& spec) {
  return spec.window_left == kUnlimited && spec.window_right == 0 && spec.slope_H == nullptr &&
         spec.sink_H == nullptr && spec.mask_TS == nullptr;
}

Tensor shared_attention(const Tensor& q_NHK, const Tensor& start_J, const KvView& kv,
                        const AttentionSpec& spec, std::int64_t shared) {
  const Dims dims = QUIRE_DIMS(q_NHK, start_J);
  QUIRE_CHECK(can_share(spec),
              "shared_attention takes a causal spec without window, slope, sink "
              "and mask");
  QUIRE_CHECK(dims['K'] == kv.K && dims['H'] % kv.G == 0, "q_NHK is ", to_string(q_NHK.shape()),
              ", but kv has G = ", kv.G, " and K = ", kv.K);
  check_shared(start_J, kv, shared);
  const Tensor q = queries_for(kv, q_NHK);
  Tensor out_NHU = Tensor::empty({dims['N'], dims['H'], kv.U}, DType::kF32);
  AttentionSpec plain = spec;
  if (plain.scale == 0) plain.scale = 1.0 / std::sqrt(static_cast<double>(kv.K));
  plain.alignment = Alignment::kBottomRight;
  const kernel::AttentionForward args{q.data<float>(),
                                      start_J.data<std::int32_t>(),
                                      kv,
                                      plain,
                                      out_NHU.mutable_data<float>(),
                                      nullptr,
                                      dims['J'] - 1,
                                      dims['N'],
                                      dims['H']};
  Run(args, shared)();
  return out_NHU;
}

}  // namespace quire::cache

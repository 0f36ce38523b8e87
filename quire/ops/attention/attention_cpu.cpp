#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_finish.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/thread_memory.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel {
namespace {

// Rows that share a tile: enough to pay for fetching it, few enough for their scores to stay in L2.
constexpr std::int64_t kTileRows = 240;
// Up to so many rows, the chunks of one kv head are computed apart, by several threads, and merged
// afterwards.
constexpr std::int64_t kSplitRows = 32;

// Numbers that are merged without the help of other threads.
constexpr std::int64_t kAlone = 8192;

// Floats of a line of the cache: tiles and states begin with one.
constexpr std::int64_t kLine = 16;

std::int64_t lines(std::int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

float* scratch(std::int64_t count) {
  thread_local ThreadMemory memory;
  return memory.floats(count);
}

/// Rows of one kv head, and the chunks that any of them sees.
struct Block {
  AttentionRows rows;
  std::int64_t first_chunk, end_chunk;
  bool split;
};

// kv heads of a sequence that are computed together, where their rows are few.
constexpr std::int64_t kHeads = 8;

/// One piece of work: a block and all of its chunks, or some chunks of split blocks that follow one
/// another, the kv heads of one sequence.
struct Piece {
  std::size_t block;
  std::int64_t heads, first_chunk, end_chunk;
};

class Run {
 public:
  explicit Run(const AttentionForward& args)
      : a_(args), group_(args.H / args.kv.G), width_((args.kv.U + 15) / 16 * 16) {
    for (std::int64_t b = 0; b < a_.B; ++b)
      for (std::int64_t g = 0; g < a_.kv.G; ++g) add_blocks(b, g);
    cut_blocks();
    // The longest first, so that no thread begins a long piece when the others end.
    std::stable_sort(pieces_.begin(), pieces_.end(),
                     [&](const Piece& x, const Piece& y) { return cost(x) > cost(y); });
  }

  void operator()() {
    states_.reset(new float[static_cast<std::size_t>(split_floats_)]);
    thread_pool().run(static_cast<std::int64_t>(pieces_.size()),
                      [&](std::int64_t i) { compute(pieces_[static_cast<std::size_t>(i)]); });
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].split) merge(i);
    }
  }

 private:
  std::int64_t count(const Block& block) const {
    return (block.rows.last - block.rows.first) * group_;
  }
  std::int64_t state_floats(const Block& block) const {
    return count(block) * width_ + lines(2 * count(block));
  }
  SoftmaxState state_at(float* memory, std::int64_t rows) const {
    return {memory + rows * width_, memory + rows * (width_ + 1), memory};
  }

  double cost(const Piece& piece) const {
    const Block& block = blocks_[piece.block];
    return static_cast<double>(count(block) * piece.heads) *
           static_cast<double>(piece.end_chunk - piece.first_chunk);
  }

  void add_blocks(std::int64_t b, std::int64_t g) {
    const std::int64_t T = a_.start_J[b + 1] - a_.start_J[b];
    const std::int64_t start = view_first(a_.kv, b, g);
    const KeyRange keys{start, start + view_length(a_.kv, b, g)};
    const std::int64_t step = T * group_ <= kSplitRows ? T : queries_together(T);
    for (std::int64_t first = 0; first < T; first += step) {
      Block block{{b, g, first, std::min(T, first + step), nullptr, INT64_MAX},
                  0,
                  0,
                  T * group_ <= kSplitRows};
      const KeyRange low = visible(a_.spec, keys, query_position(a_.spec, keys, first, T));
      const KeyRange high =
          visible(a_.spec, keys, query_position(a_.spec, keys, block.rows.last - 1, T));
      if (std::max(low.begin, keys.begin) < high.end) {
        block.first_chunk = low.begin / kChunkKeys;
        block.end_chunk = (high.end + kChunkKeys - 1) / kChunkKeys;
      }
      blocks_.push_back(block);
      offsets_.push_back(split_floats_);
      if (!block.split) continue;
      split_floats_ += state_floats(block) * (block.end_chunk - block.first_chunk);
      split_chunks_ += block.end_chunk - block.first_chunk;
    }
  }

  /// Queries of a block: as many in each as in the others, but for a few.
  std::int64_t queries_together(std::int64_t T) const {
    const std::int64_t most = std::max<std::int64_t>(1, kTileRows / group_),
                       blocks = (T + most - 1) / most, even = (T + blocks - 1) / blocks;
    return std::min(most, (even + 5) / 6 * 6);  // whole register tiles
  }

  /// Split blocks are cut into runs of chunks: many heads first, since they lie together in a page,
  /// then long runs, so that what follows in memory is worth asking for; but enough pieces for
  /// several threads.
  void cut_blocks() {
    const std::int64_t size = std::max<std::int64_t>(1, split_chunks_ / 16);
    const std::int64_t heads = std::min({size, kHeads, a_.kv.G});
    const std::int64_t run = std::clamp<std::int64_t>(size / heads, 1, 8);
    for (std::size_t i = 0; i < blocks_.size();) {
      const Block& block = blocks_[i];
      if (!block.split) {
        pieces_.push_back({i++, 1, block.first_chunk, block.end_chunk});
        continue;
      }
      const std::int64_t together = std::min(heads, a_.kv.G - block.rows.g);
      std::int64_t first = block.first_chunk, end = block.end_chunk;
      for (std::int64_t h = 1; h < together; ++h) {
        first = std::min(first, blocks_[i + static_cast<std::size_t>(h)].first_chunk);
        end = std::max(end, blocks_[i + static_cast<std::size_t>(h)].end_chunk);
      }
      for (; first < end; first += run)
        pieces_.push_back({i, together, first, std::min(end, first + run)});
      i += static_cast<std::size_t>(together);
    }
  }

  /// The block's rows with their queries packed, one after the other: in `memory`, where they do
  /// not lie so already. (Rows a power of two apart would share a few lines of the cache.)
  AttentionRows with_queries(const Block& block, float* memory) const {
    AttentionRows rows = block.rows;
    const std::int64_t count = rows.last - rows.first, apart = a_.H * a_.kv.K;
    const float* queries =
        a_.q_NHK + (a_.start_J[rows.b] + rows.first) * apart + rows.g * group_ * a_.kv.K;
    const bool joined = count == 1 || group_ == a_.H;
    rows.q = queries;
    if (joined && a_.products != Products::kBf16Dots) return rows;
    const std::int64_t step = joined ? count : 1, floats = query_floats(a_.products, a_.kv.K);
    for (std::int64_t i = 0; i < count; i += step) {
      QUIRE_FOR_ISA(pack_queries)
      (a_, queries + i * apart, step * group_, memory + i * group_ * floats);
    }
    rows.q = memory;
    return rows;
  }

  /// The chunks of a piece of split blocks, each into its own state.
  void compute_chunks(const Piece& piece) {
    const std::int64_t rows = count(blocks_[piece.block]),
                       own = lines(heads_scratch(rows, a_.kv.K, width_)),
                       queries = lines(rows * query_floats(a_.products, a_.kv.K));
    float* memory = scratch(own + piece.heads * queries);
    std::array<AttentionRows, kHeads> packed;
    for (std::int64_t h = 0; h < piece.heads; ++h) {
      packed[static_cast<std::size_t>(h)] = with_queries(
          blocks_[piece.block + static_cast<std::size_t>(h)], memory + own + h * queries);
      packed[static_cast<std::size_t>(h)].until = piece.end_chunk * kChunkKeys;
    }
    for (std::int64_t chunk = piece.first_chunk; chunk < piece.end_chunk; ++chunk) {
      std::array<AttentionRows, kHeads> seen;
      std::array<SoftmaxState, kHeads> states;
      std::int64_t heads = 0;
      for (std::int64_t h = 0; h < piece.heads; ++h) {
        const Block& block = blocks_[piece.block + static_cast<std::size_t>(h)];
        if (chunk < block.first_chunk || chunk >= block.end_chunk) continue;
        seen[static_cast<std::size_t>(heads)] = packed[static_cast<std::size_t>(h)];
        states[static_cast<std::size_t>(heads++)] =
            state_at(states_.get() + offsets_[piece.block + static_cast<std::size_t>(h)] +
                         (chunk - block.first_chunk) * state_floats(block),
                     rows);
      }
      if (heads > 0)
        QUIRE_FOR_ISA(attention_heads)(a_, seen.data(), states.data(), heads, chunk, memory);
    }
  }

  void compute(const Piece& piece) {
    const Block& block = blocks_[piece.block];
    if (block.split) return compute_chunks(piece);
    const std::int64_t rows = count(block), own = lines(chunk_scratch(rows, a_.kv.K)),
                       queries = lines(rows * query_floats(a_.products, a_.kv.K));
    const auto kernel = QUIRE_FOR_ISA(attention_chunk);
    float* memory = scratch(own + queries + state_floats(block));
    const AttentionRows packed = with_queries(block, memory + own);
    const SoftmaxState total = state_at(memory + own + queries, rows);
    if (block.first_chunk == block.end_chunk) clear(total, rows);
    for (std::int64_t chunk = block.first_chunk; chunk < block.end_chunk; ++chunk) {
      const bool is_last = chunk + 1 == block.end_chunk;
      kernel({a_, packed, chunk, is_last ? -1 : block.rows.g, chunk + 1, total,
              chunk == block.first_chunk, memory});
    }
    finish_rows(a_, block.rows, total);
  }

  void clear(const SoftmaxState& state, std::int64_t rows) const {
    std::fill_n(state.max_R, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(state.sum_R, rows, 0.0f);
    std::fill_n(state.out_RU, rows * width_, 0.0f);
  }

  void merge(std::size_t index) {
    const Block& block = blocks_[index];
    const std::int64_t rows = count(block);
    const SoftmaxState total = state_at(scratch(state_floats(block)), rows);
    clear(total, rows);
    for (std::int64_t i = 0; i < block.end_chunk - block.first_chunk; ++i) {
      const SoftmaxState part =
          state_at(states_.get() + offsets_[index] + i * state_floats(block), rows);
      QUIRE_FOR_ISA(merge_states)(total, part, rows, width_);
    }
    finish_rows(a_, block.rows, total);
  }

  const AttentionForward& a_;
  std::int64_t group_, width_;
  std::vector<Block> blocks_;
  std::vector<std::int64_t> offsets_;  // of a split block's states
  std::vector<Piece> pieces_;
  std::unique_ptr<float[]> states_;
  std::int64_t split_floats_ = 0, split_chunks_ = 0;
};

}  // namespace

void attention_cpu(const AttentionForward& args) {
  Run run(args);
  run();
}

template <class T>
static void merge_parts(const MergeAttention<T>& args) {
  const auto merge_row = [&](std::int64_t r) {
    const double a = static_cast<double>(args.lse_a[r]), b = static_cast<double>(args.lse_b[r]);
    const double largest = std::max(a, b);
    const bool empty = largest == -std::numeric_limits<double>::infinity();
    const double weight_a = empty ? 0 : std::exp(a - largest),
                 weight_b = empty ? 0 : std::exp(b - largest);
    const double sum = weight_a + weight_b;
    args.lse[r] =
        empty ? -std::numeric_limits<T>::infinity() : static_cast<T>(largest + std::log(sum));
    for (std::int64_t u = 0; u < args.U; ++u) {
      // A part of weight 0 is passed over: it may hold anything.
      const std::int64_t i = r * args.U + u;
      double value = 0;
      if (weight_a != 0) value += weight_a * static_cast<double>(args.out_a[i]);
      if (weight_b != 0) value += weight_b * static_cast<double>(args.out_b[i]);
      args.out[i] = empty ? T{0} : static_cast<T>(value / sum);
    }
  };
  // A few rows are merged before other threads would have heard of them.
  if (args.rows * args.U <= kAlone) {
    for (std::int64_t r = 0; r < args.rows; ++r) merge_row(r);
  } else {
    thread_pool().run(args.rows, merge_row);
  }
}

void merge_attention_cpu(const MergeAttention<float>& args) { merge_parts(args); }
void merge_attention_cpu(const MergeAttention<double>& args) { merge_parts(args); }

}  // namespace quire::kernel

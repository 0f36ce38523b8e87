// The attention kernels, compiled once per instruction set.
//
// A row is one query with one head; the rows of a kv head's whole group share every tile of 64
// keys. A score is one chain of FMAs over the head size, an output one chain over the keys of a
// chunk, and chunks are merged in order: how many rows come together and who computes which chunk
// never changes a bit. Masked keys get the weight 0, and 0 · v adds nothing, so tiles that some
// rows see only in part need no special case as long as the values are finite; where one is not,
// `add_one_by_one` skips them.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_job.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_rows.h"
#include "quire/ops/attention/attention_tile.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

// How many tiles ahead memory is asked for, where that is done while a tile is computed: pages that
// lie far apart want their addresses translated first.
constexpr std::int64_t kAhead = 2;

/// The keys and values of the next tile, to be asked for in `calls` parts each.
void look_ahead(const Job& job, const Next& from, std::int64_t calls, Ahead& keys, Ahead& values) {
  const KvView& kv = job.a.kv;
  Tile next{};
  next.end = static_cast<int>(from.keys);
  TileRows rows;
  with_stored(kv.dtype, [&](auto load) {
    find_rows<decltype(load)>(kv, job.rows.b, from.g, from.slot, next, rows);
  });
  add_keys(keys, kv, from.slot, next, rows);
  add_values(values, kv, 0, kv.U, next, rows);
  keys.spread(calls);
  values.spread(calls);
}

/// Adds what the rows of `job` see of the 64 positions from `position` on to their state. Those of
/// `then` from `next_position` on come after it. False when no row sees any.
bool attend_tile(const Job& job, std::int64_t position, const Job& then,
                 std::int64_t next_position) {
  const KvView& kv = job.a.kv;
  const std::int64_t b = job.rows.b, g = job.rows.g, first_slot = position - job.keys.begin;
  Tile tile = open_tile(job, position);
  if (tile.end == 0) return false;
  gather_key_floats(kv, b, g, first_slot, tile, job.memory);
  const Next next = then.next(next_position);
  const bool dots = job.a.products == Products::kBf16Dots;
  const bool many = job.rows.last - job.rows.first > 1;
  // Many rows read a tile again and again: they have it widened, and its values close together.
  // (A pair that the head size cuts in two is filled up with 0 in a gathered tile only.)
  const bool may_borrow = dots ? !many && kv.K % 2 == 0 : !many || kv.dtype == DType::kF32;
  const bool borrowed = may_borrow && borrow(kv, b, g, first_slot, next, tile);
  if (many)
    for (int p = 0; p < 4; ++p) tile.v[p] = tile.v_next[p] = tile.k_next[p] = nullptr;
  TileRows found;
  if (!borrowed || many) find_tile(job, tile, found);
  if (!borrowed) fill_keys(job, tile, found);
  const std::int64_t from_row = first_row(job, position);
  Ahead keys, values;
  // (Where values are borrowed, both are asked for as they are read.)
  if (next.keys > 0 && tile.v_next[0] == nullptr)
    look_ahead(job, next, (job.count - from_row) / kStrip + 1, keys, values);
  with_form(job.a.products, tile.k_dtype,
            [&](auto form) { score_tile<decltype(form)>(job, tile, from_row, keys, values); });
  if (tile.v[0] == nullptr) fill_values(job, tile, found, 0, job.width, job.memory.tile);
  with_form(job.a.products, tile.v_dtype,
            [&](auto form) { weigh_tile<decltype(form)>(job, tile, from_row); });
  return true;
}

}  // namespace

bool attention_heads(const AttentionForward& args, const AttentionRows* rows,
                     const SoftmaxState* states, std::int64_t heads, std::int64_t chunk,
                     float* scratch) {
  const KvView& kv = args.kv;
  Job first = open_job(args, rows[0]);
  Scratch take(scratch);
  const std::int64_t value_width = (first.width + 63) / 64 * 64;
  first.memory = {take(kTileKeys * (kv.K > value_width ? kv.K : value_width)), take(kTileKeys),
                  take(kTileKeys), take(kTileKeys)};
  first.scores = take(kTileKeys * first.count);
  first.rescale = take(first.count);
  const auto job_of = [&](std::int64_t h) {
    Job job = open_job(args, rows[h]);
    job.state = states[h];
    job.memory = first.memory;
    job.scores = first.scores;
    job.rescale = first.rescale;
    return job;
  };

  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t r = 0; r < first.count; ++r) {
      states[h].max_R[r] = kMinusInfinity;
      states[h].sum_R[r] = 0;
    }
    __builtin_memset(states[h].out_RU, 0,
                     static_cast<std::size_t>(first.count * first.width) * sizeof(float));
  }
  const bool one_query = rows->last - rows->first == 1;
  bool any = false;
  for (std::int64_t position = chunk * kChunkKeys; position < (chunk + 1) * kChunkKeys;
       position += kTileKeys) {
    for (std::int64_t h = 0; h < heads; ++h) {
      // (What is gathered is asked for all at once, and L2 holds no more.)
      const std::int64_t later = h + (one_query ? kAhead : 1);
      const Job job = job_of(h), then = job_of(later % heads);
      any |= attend_tile(job, position, then, position + later / heads * kTileKeys);
    }
  }
  return any;
}

void merge_states(const SoftmaxState& into, const SoftmaxState& later, std::int64_t rows,
                  std::int64_t width) {
  for (std::int64_t first = 0; first < rows; first += 16) {
    const int n = rows - first < 16 ? static_cast<int>(rows - first) : 16;
    alignas(64) float old_factors[16], next_factors[16];
    merge_sums16(into, later, first, n, old_factors, next_factors);
    for (int i = 0; i < n; ++i) {
      const std::int64_t r = first + i;
      if (later.sum_R[r] == 0.0f) continue;  // the row saw nothing there
      const F32 a = set1(old_factors[i]), b = set1(next_factors[i]);
      for (std::int64_t u = 0; u < width; u += 16) {
        float* out = into.out_RU + r * width + u;
        store(out, fma(load(later.out_RU + r * width + u), b, mul(load(out), a)));
      }
    }
  }
}

void pack_queries(const AttentionForward& a, const float* rows, std::int64_t count, float* to) {
  if (a.products == Products::kBf16Dots) return pair_rows(rows, count, a.kv.K, to);
  __builtin_memcpy(to, rows, static_cast<std::size_t>(count * a.kv.K) * sizeof(float));
}

void finish_row(const float* state_U, float sum, std::int64_t U, float* out) {
  const bool empty = sum == 0.0f;
  for (std::int64_t u = 0; u < U; u += 16) {
    const int n = U - u < 16 ? static_cast<int>(U - u) : 16;
    store_first(out + u, empty ? zero() : div(load(state_U + u), set1(sum)), n);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

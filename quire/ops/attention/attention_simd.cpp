// The attention kernels, compiled once per instruction set.
//
// A row is one query with one head; the rows of a kv head's whole group share every tile of 64
// keys. A score is one chain of FMAs over the head size, an output one chain over the keys of a
// chunk, and chunks are merged in order: how many rows come together and who computes which chunk
// never changes a bit. Masked keys get the weight 0, and 0 · v adds nothing, so tiles that some
// rows see only in part need no special case as long as the values are finite; where one is not,
// `weigh_one_by_one` skips them.

#include "quire/base/simd.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_products.h"
#include "quire/ops/attention/attention_rows.h"
#include "quire/ops/attention/attention_tile.h"
#include "quire/ops/attention/visible.h"
#include "quire/ops/tile/panel_product.h"

namespace quire::kernel::QUIRE_ISA_NS {
namespace {

// How many tiles ahead memory is asked for, where that is done while a tile is computed: pages that
// lie far apart want their addresses translated first.
constexpr std::int64_t kAhead = 2;

// Numbers of a key and its value together, above which a tile and its rows fill most of L2.
constexpr std::int64_t kWide = 256;

/// The first strip of rows in which one sees anything at or after position `begin`; rows before it
/// need not be computed.
std::int64_t first_row(const Job& job, std::int64_t begin) {
  std::int64_t row = 0;
  while (row < job.count && job.seen(row).end <= begin) row += job.group;
  return row / kStrip * kStrip;
}

bool is_plain(const AttentionForward& a) {
  return a.spec.softcap == 0 && a.spec.slope_H == nullptr && a.spec.mask_TS == nullptr &&
         a.spec.allow_TS == nullptr && a.kv.bias == nullptr && a.kv.k_scale_PZG == nullptr;
}

/// Gathers the keys in the form that the products want.
void fill_keys(const Job& job, std::int64_t first_slot, Tile& tile, TileRows& rows) {
  const KvView& kv = job.a.kv;
  float* to = job.memory.tile;
  if (job.a.products == Products::kBf16Dots) {
    find_rows<LoadBF16>(kv, job.rows.b, job.rows.g, first_slot, tile, rows);
    gather_key_pairs(kv, first_slot, tile, rows, to);
  } else {
    with_stored(kv.dtype, [&](auto load) {
      find_rows<decltype(load)>(kv, job.rows.b, job.rows.g, first_slot, tile, rows);
      gather_keys<decltype(load)>(kv, first_slot, tile, rows, to);
    });
  }
  use_keys(tile, to);
  for (int p = 0; p < 4; ++p) tile.k_next[p] = nullptr;
}

/// The same for the values, over the keys.
void fill_values(const Job& job, Tile& tile, const TileRows& rows) {
  float* to = job.memory.tile;
  if (job.a.products == Products::kBf16Dots) {
    tile.finite = gather_value_pairs(job.a.kv, tile, rows, to);
    return use_values(tile, to, kTileKeys / 2);
  }
  with_stored(job.a.kv.dtype, [&](auto load) {
    tile.finite = gather_values<decltype(load)>(job.a.kv, tile, rows, job.width, to);
  });
  use_values(tile, to, kTileKeys);
}

/// Calls f with the form in which numbers of that dtype are multiplied.
template <class F>
QUIRE_INLINE void with_form(Products products, DType dtype, F&& f) {
  if (products == Products::kF32)
    return with_load(dtype, [&](auto load) { f(Chain<decltype(load)>{}); });
  const bool gathered = dtype == DType::kF32;
  if constexpr (kHasBf16Dots) {
    if (products == Products::kBf16Dots) return gathered ? f(Dots{}) : f(DotsOfRows{});
  }
  return gathered ? f(Swapped<LoadF32>{}) : f(Swapped<LoadBF16>{});
}

/// Memory that is asked for while a tile is computed: in as many parts as there are strips of rows.
struct AskedFor {
  TileAhead scoring, weighing;
};

/// The rows of the next tile, to be asked for in `strips` parts.
TileAhead look_ahead(const KvView& kv, std::int64_t b, const Next& from, std::int64_t strips) {
  TileAhead ahead;
  Tile next{};
  next.begin = 0;
  next.end = static_cast<int>(from.keys);
  with_stored(kv.dtype, [&](auto load) {
    using Load = decltype(load);
    find_rows<Load>(kv, b, from.g, from.slot, next, ahead.rows);
    ahead.k_bytes = stored_bytes<Load>(kv.K);
    ahead.v_bytes = stored_bytes<Load>(kv.U);
    if (kv.k_layout != KLayout::kBlocks) return;
    // Of 16 keys in a block each asks for a sixteenth of it.
    for (int lane = 0; lane < next.end; ++lane)
      ahead.rows.k[lane] += (from.slot + lane) % 16 * (ahead.k_bytes - Load::kBytes);
  });
  ahead.end = next.end;
  ahead.step = static_cast<int>((next.end + strips - 1) / strips);
  return ahead;
}

/// The keys and the values of the next tile while this one's keys are scored. Where a tile's rows
/// fill most of L2, what is asked for so early is gone again before it is used: the values are
/// asked for just before they are gathered, and the next keys after them.
AskedFor ask_for(const Job& job, const Tile& tile, const TileRows& rows, const Next& next,
                 std::int64_t from_row) {
  const KvView& kv = job.a.kv;
  const std::int64_t strips = (job.count - from_row) / kStrip + 1;
  AskedFor out;
  // (Where values are borrowed, both are asked for as they are read.)
  if (next.keys > 0 && tile.v_next[0] == nullptr)
    out.scoring = look_ahead(kv, job.rows.b, next, strips);
  if (kv.K + kv.U <= kWide || job.count < kTileKeys || tile.v[0] != nullptr) return out;
  out.weighing = out.scoring;
  out.weighing.v_bytes = 0;
  out.scoring.rows = rows;
  out.scoring.k_bytes = 0;
  with_stored(kv.dtype,
              [&](auto load) { out.scoring.v_bytes = stored_bytes<decltype(load)>(kv.U); });
  out.scoring.lane = tile.begin;
  out.scoring.end = tile.end;
  out.scoring.step = static_cast<int>((kTileKeys + strips - 1) / strips);
  return out;
}

/// The next whole line of the cache: vectors that lie across two cost twice.
float* aligned(float* p) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(p) + 63) / 64 * 64);
}

/// Adds what the rows of `job` see of the 64 positions from `position` on to their state. Those of
/// `then` from `next_position` on come after it. False when no row sees any.
bool attend_tile(const Job& job, std::int64_t position, const Job& then,
                 std::int64_t next_position) {
  const KvView& kv = job.a.kv;
  const std::int64_t b = job.rows.b, g = job.rows.g, start = job.keys.begin;
  // Later queries see later keys, at both ends of their range.
  const std::int64_t first = job.seen(0).begin, last = job.seen(job.count - 1).end;
  const std::int64_t begin = first > position ? first : position;
  const std::int64_t end = last < position + kTileKeys ? last : position + kTileKeys;
  if (begin >= end) return false;
  Tile tile{};
  tile.position = position;
  tile.begin = static_cast<int>((start > position ? start : position) - position);
  tile.end = static_cast<int>(end - position);
  const std::int64_t first_slot = position - start;
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
  if (!borrowed) {
    fill_keys(job, first_slot, tile, found);
  } else if (many) {
    find_rows<LoadF32>(kv, b, g, first_slot, tile, found);
  }
  const std::int64_t from_row = first_row(job, position);
  const AskedFor asked = ask_for(job, tile, found, next, from_row);
  with_form(job.a.products, tile.k_dtype,
            [&](auto form) { score_tile<decltype(form)>(job, tile, from_row, asked.scoring); });
  if (tile.v[0] == nullptr) fill_values(job, tile, found);
  with_form(job.a.products, tile.v_dtype,
            [&](auto form) { weigh_tile<decltype(form)>(job, tile, from_row, asked.weighing); });
  return true;
}

}  // namespace

bool attention_chunk(const AttentionForward& args, const AttentionRows& rows, std::int64_t chunk,
                     const SoftmaxState& state, float* scratch) {
  return attention_heads(args, &rows, &state, 1, chunk, scratch);
}

bool attention_heads(const AttentionForward& args, const AttentionRows* rows,
                     const SoftmaxState* states, std::int64_t heads, std::int64_t chunk,
                     float* scratch) {
  const KvView& kv = args.kv;
  const std::int64_t group = args.H / kv.G, count = (rows->last - rows->first) * group,
                     width = (kv.U + 15) / 16 * 16;
  float* at = aligned(scratch);
  const auto take = [&](std::int64_t n) {
    float* out = at;
    at += n;
    return out;
  };
  const std::int64_t value_width = (width + 63) / 64 * 64;
  const TileMemory memory{take(kTileKeys * (kv.K > value_width ? kv.K : value_width)),
                          take(kTileKeys), take(kTileKeys), take(kTileKeys)};
  float* scores = take(kTileKeys * count);
  float* rescale = take(count);
  const bool dots = args.products == Products::kBf16Dots;
  const std::int64_t query_floats = dots ? paired_width(kv.K) : kv.K;
  float* pairs = aligned(at);
  const auto job_of = [&](std::int64_t h) {
    const std::int64_t b = rows[h].b, start = view_first(kv, b, rows[h].g);
    return Job{args,
               rows[h],
               states[h],
               memory,
               scores,
               rescale,
               group,
               count,
               width,
               {start, start + view_length(kv, b, rows[h].g)},
               args.start_J[b + 1] - args.start_J[b],
               is_plain(args),
               dots ? pairs + h * count * query_floats : rows[h].q,
               query_floats};
  };

  for (std::int64_t h = 0; h < heads; ++h) {
    if (dots) pair_rows(rows[h].q, count, kv.K, pairs + h * count * query_floats);
    for (std::int64_t r = 0; r < count; ++r) {
      states[h].max_R[r] = kMinusInfinity;
      states[h].sum_R[r] = 0;
    }
    __builtin_memset(states[h].out_RU, 0, static_cast<std::size_t>(count * width) * sizeof(float));
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
    const F32 old = load_first(into.max_R + first, n), next = load_first(later.max_R + first, n);
    const F32 largest = max(old, next);
    alignas(64) float old_factors[16], next_factors[16], maxima[16];
    store(old_factors, exp(sub(old, largest)));
    store(next_factors, exp(sub(next, largest)));
    store(maxima, largest);
    for (int i = 0; i < n; ++i) {
      const std::int64_t r = first + i;
      if (later.sum_R[r] == 0.0f) continue;  // the row saw nothing there
      into.max_R[r] = maxima[i];
      into.sum_R[r] = into.sum_R[r] * old_factors[i] + later.sum_R[r] * next_factors[i];
      const F32 a = set1(old_factors[i]), b = set1(next_factors[i]);
      for (std::int64_t u = 0; u < width; u += 16) {
        float* out = into.out_RU + r * width + u;
        store(out, fma(load(later.out_RU + r * width + u), b, mul(load(out), a)));
      }
    }
  }
}

void finish_row(const float* state_U, float sum, std::int64_t U, float* out) {
  const bool empty = sum == 0.0f;
  for (std::int64_t u = 0; u < U; u += 16) {
    const int n = U - u < 16 ? static_cast<int>(U - u) : 16;
    store_first(out + u, empty ? zero() : div(load(state_U + u), set1(sum)), n);
  }
}

}  // namespace quire::kernel::QUIRE_ISA_NS

#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/base/isa.h"

namespace quire::kernel {

struct Walk;

/// Reduce (reduce.h), and the plain write.
enum class Combine : std::uint8_t { kAssign, kSum, kProd, kMean, kAmax, kAmin };

struct Scatter {
  const Walk* walk;
  void* out;
  const void* self;  // out itself when in place
  const void* src;
  std::int64_t out_elements;  // of all of out, places that no lane reaches included
  DType dtype;
  Combine combine;
  bool include;
  bool self_counts;  // as one of the elements that a mean divides by, where it is included
  double alpha;      // src is multiplied by it; kSum only, else 1
};

/// out holds self's values already, unless scatter_fills(args). Index values must be in range.
void scatter_cpu(const Scatter& args);

/// True when scatter_cpu writes every element of out itself, reading args.self: out need not hold
/// self's values then.
bool scatter_fills(const Scatter& args);

/// Rows to combine: row place[k] of out with row from[k] of src, for k in order. Row k is the first
/// at its place where fresh[k] is not 0 (fresh may be null: none is).
struct CombineRows {
  float* out;
  const float* src;
  std::int64_t out_step, src_step, D;
  const std::int64_t* place;
  const std::int64_t* from;
  const std::uint8_t* fresh;
  std::int64_t count;
  Combine combine;
  float alpha;
};

/// One place: out = init (null: nothing) combined with rows from[0 … count) of src, divided by
/// `divisor` for a mean.
struct FoldRows {
  float* out;
  const float* init;
  const float* src;
  std::int64_t src_step, D;
  const std::int64_t* from;
  const std::int64_t* from_end;  // of the whole list: rows after this place's are fetched ahead
  std::int64_t count;
  Combine combine;
  float alpha, divisor;
};

/// Single floats, all next to each other: out[index[n]] combined with src[n] for n in order where
/// low <= index[n] < high, and high - low < 2^31. met, where not null, counts who came to each
/// place; with `fresh` the first there starts from nothing. Many go to `hot`, a place in the range
/// (below low: to none): it stays in a register.
struct CombineFloats {
  float* out;
  const float* src;
  const std::int64_t* index;
  std::int64_t N, low, high, hot;
  std::int64_t* met;
  bool fresh;
  Combine combine;
};

QUIRE_DECLARE_KERNEL(void, combine_floats, const CombineFloats& args)
QUIRE_DECLARE_KERNEL(void, combine_rows, const CombineRows& args)
QUIRE_DECLARE_KERNEL(void, fold_rows, const FoldRows& args)

}  // namespace quire::kernel

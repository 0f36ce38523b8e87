#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/merge/nearest_anchor_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;

/// Divides anchor `row` by its length; one of length 0 stays.
template <class T>
void make_unit(const NearestAnchorArgs<T>& args, std::int64_t row) {
  const std::int64_t K = args.kv.K;
  const T* from = args.anchor_GMK + row * K;
  double square = 0;
  for (std::int64_t k = 0; k < K; ++k)
    square += static_cast<double>(from[k]) * static_cast<double>(from[k]);
  const double length = square == 0 ? 1 : std::sqrt(square);
  for (std::int64_t k = 0; k < K; ++k)
    args.unit_GMK[row * K + k] = static_cast<T>(static_cast<double>(from[k]) / length);
}

const double* key_row(const KvView& kv, std::int64_t b, std::int64_t g, std::int64_t s) {
  const std::int64_t page = page_at(kv, b, g, s / kv.Z);
  return static_cast<const double*>(kv.k_pages) +
         slot_offset(kv.k_strides, kv.k_layout, page, s % kv.Z, g);
}

void nearest_row(const NearestAnchorArgs<double>& args, std::int64_t g, std::int64_t s) {
  const std::int64_t K = args.kv.K;
  const double* key = key_row(args.kv, args.b, g, s);
  double best = -std::numeric_limits<double>::infinity(), square = 0;
  std::int64_t group = 0;
  for (std::int64_t k = 0; k < K; ++k) square += key[k] * key[k];
  for (std::int64_t m = 0; m < args.M; ++m) {
    double dot = 0;
    for (std::int64_t k = 0; k < K; ++k) dot += key[k] * args.unit_GMK[(g * args.M + m) * K + k];
    if (dot > best) best = dot, group = m;
  }
  args.group_GS[g * args.S + s] = group;
  const bool finite = best > -std::numeric_limits<double>::infinity();
  args.cosine_GS[g * args.S + s] = square == 0 ? 0
                                   : finite    ? best / std::sqrt(square)
                                               : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
void make_units(const NearestAnchorArgs<T>& args) {
  thread_pool().run(args.kv.G, [&](std::int64_t g) {
    for (std::int64_t m = 0; m < args.M; ++m) make_unit(args, g * args.M + m);
  });
}

}  // namespace

void nearest_anchor_cpu(const NearestAnchorArgs<float>& args) {
  make_units(args);
  const std::int64_t spans = (args.S + kSpan - 1) / kSpan;
  const auto span = QUIRE_FOR_ISA(nearest_anchor_span);
  thread_pool().run(args.kv.G * spans, [&](std::int64_t piece) {
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(kSpan * args.kv.K));
    const std::int64_t slot = piece % spans * kSpan;
    const std::int64_t count = args.S - slot < kSpan ? args.S - slot : kSpan;
    span(args, piece / spans, slot, static_cast<int>(count), scratch.data());
  });
}

void nearest_anchor_cpu(const NearestAnchorArgs<double>& args) {
  make_units(args);
  thread_pool().run(args.kv.G * args.S,
                    [&](std::int64_t piece) { nearest_row(args, piece / args.S, piece % args.S); });
}

}  // namespace quire::kernel

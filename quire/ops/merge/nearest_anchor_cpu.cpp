#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/merge/nearest_anchor_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;
// Fewer anchors are not worth coding; more numbers than this do not fit a sum of whole numbers.
constexpr std::int64_t kCodedFrom = 64, kCodedUpTo = 32768;

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

/// The codes of all heads' anchors.
class Coded {
 public:
  explicit Coded(const NearestAnchorArgs<float>& args)
      : a_(args),
        width_((args.kv.K + 15) / 16 * 16),
        codes_(size(args.kv.G)),
        rows_(size(args.kv.G * args.M * width_)),
        scale_(size(args.kv.G * args.M)),
        center_M_(scale_.size()),
        offset_(scale_.size()),
        center_K_(size(args.kv.G * args.kv.K)) {
    thread_pool().run(args.kv.G, [&](std::int64_t g) { code(g); });
  }
  const AnchorCodes* all() const { return codes_.data(); }

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

  /// The mean of some keys, 0 where that is not finite: any centre will do.
  std::vector<double> center(std::int64_t g) const {
    std::vector<double> sum(size(a_.kv.K));
    std::vector<float> columns(size(kSpan * a_.kv.K));
    const std::int64_t spans = (a_.S + kSpan - 1) / kSpan;
    const std::int64_t step = (spans + kCenterSpans - 1) / kCenterSpans;
    std::int64_t keys = 0;
    for (std::int64_t span = 0; span < spans; span += step) {
      const std::int64_t slot = span * kSpan, count = std::min(kSpan, a_.S - slot);
      QUIRE_FOR_ISA(add_key_columns)
      (a_, g, slot, static_cast<int>(count), sum.data(), columns.data());
      keys += count;
    }
    for (double& x : sum) {
      x /= static_cast<double>(keys);
      if (!(std::abs(x) < kLargestCenter)) x = 0;
    }
    return sum;
  }

  void code(std::int64_t g) {
    const std::int64_t K = a_.kv.K, M = a_.M;
    const float* unit = a_.unit_GMK + g * M * K;
    std::vector<double> mean(size(K)), center_K = center(g);
    for (std::int64_t m = 0; m < M; ++m)
      for (std::int64_t k = 0; k < K; ++k) mean[size(k)] += double{unit[m * K + k]};
    AnchorCodes out{};
    for (std::int64_t k = 0; k < K; ++k) {
      double& c = mean[size(k)];
      c /= static_cast<double>(M);
      // An anchor is not finite: all products are made.
      if (!std::isfinite(c)) return;
      out.mean_length += c * c;
      float& center = center_K_[size(g * K + k)];
      center = static_cast<float>(center_K[size(k)]);
      center_K[size(k)] = double{center};
    }
    out.mean_length = std::sqrt(out.mean_length);
    for (std::int64_t m = 0; m < M; ++m) code_row(unit + m * K, mean, center_K, g * M + m, out);
    out.rows = rows_.data() + g * M * width_;
    out.scale_M = scale_.data() + g * M;
    out.offset_M = offset_.data() + g * M;
    out.center_M = center_M_.data() + g * M;
    out.center_K = center_K_.data() + g * K;
    codes_[size(g)] = out;
  }

  void code_row(const float* unit, const std::vector<double>& mean,
                const std::vector<double>& center_K, std::int64_t row, AnchorCodes& out) {
    double largest = 0, length = 0, off = 0, centered = 0;
    for (std::size_t k = 0; k < mean.size(); ++k)
      largest = std::max(largest, std::abs(double{unit[k]} - mean[k]));
    const auto scale = static_cast<float>(largest / 127);
    std::int32_t sum = 0;
    std::int8_t* codes = rows_.data() + row * width_;
    for (std::size_t k = 0; k < mean.size(); ++k) {
      const double x = double{unit[k]} - mean[k];
      const double code =
          scale > 0 ? std::clamp(std::nearbyint(x / double{scale}), -127.0, 127.0) : 0.0;
      codes[k] = static_cast<std::int8_t>(code);
      sum += codes[k];
      length += x * x;
      off += (x - code * double{scale}) * (x - code * double{scale});
      centered += x * center_K[k];
    }
    scale_[size(row)] = scale;
    offset_[size(row)] = 128 * sum;
    center_M_[size(row)] = static_cast<float>(centered);
    out.length = std::max(out.length, std::sqrt(length));
    out.off = std::max(out.off, std::sqrt(off));
    out.centered = std::max(out.centered, std::abs(centered));
  }

  static constexpr std::int64_t kCenterSpans = 8;
  static constexpr double kLargestCenter = 1e15;

  const NearestAnchorArgs<float>& a_;
  std::int64_t width_;
  std::vector<AnchorCodes> codes_;
  std::vector<std::int8_t> rows_;
  std::vector<float> scale_, center_M_;
  std::vector<std::int32_t> offset_;
  std::vector<float> center_K_;
};

/// The memory of a thread.
struct Memory {
  std::vector<float> columns, score;
  std::vector<std::uint8_t> codes;
  std::vector<std::int32_t> anchor;
  std::vector<std::uint32_t> lanes;

  NearestAnchorScratch of(std::int64_t K, bool coded) {
    const auto numbers = static_cast<std::size_t>(kSpan * ((K + 15) / 16 * 16));
    columns.resize(numbers);
    if (coded) {
      codes.resize(numbers);
      anchor.resize(static_cast<std::size_t>(kAnchorsKept));
      lanes.resize(anchor.size());
      score.resize(16 * anchor.size());
    }
    return {columns.data(), codes.data(), anchor.data(), lanes.data(), score.data()};
  }
};

}  // namespace

void nearest_anchor_cpu(const NearestAnchorArgs<float>& given) {
  NearestAnchorArgs<float> args = given;
  make_units(args);
  std::optional<Coded> coded;
  if (args.M >= kCodedFrom && args.S >= kSpan && args.kv.K <= kCodedUpTo) {
    coded.emplace(args);
    args.codes_G = coded->all();
  }
  const std::int64_t spans = (args.S + kSpan - 1) / kSpan;
  const auto span = QUIRE_FOR_ISA(nearest_anchor_span);
  thread_pool().run(args.kv.G * spans, [&](std::int64_t piece) {
    thread_local Memory memory;
    const std::int64_t slot = piece % spans * kSpan;
    const std::int64_t count = args.S - slot < kSpan ? args.S - slot : kSpan;
    span(args, piece / spans, slot, static_cast<int>(count),
         memory.of(args.kv.K, coded.has_value()));
  });
}

void nearest_anchor_cpu(const NearestAnchorArgs<double>& args) {
  make_units(args);
  thread_pool().run(args.kv.G * args.S,
                    [&](std::int64_t piece) { nearest_row(args, piece / args.S, piece % args.S); });
}

}  // namespace quire::kernel

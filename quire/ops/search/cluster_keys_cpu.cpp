#include <algorithm>
#include <cstring>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/cluster_keys_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;
// Keys are assigned in pieces of this many spans, and sums made in as many ranges of centroids: no
// bit depends on either.
constexpr std::int64_t kSpansOfPiece = 8;
constexpr std::int64_t kRanges = 4;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

/// The clustering of one segment, all heads at once.
class Clustering {
 public:
  explicit Clustering(const ClusterSegment& args)
      : a_(args),
        G_(args.kv.G),
        width_((args.kv.K + 15) / 16 * 16),
        spans_((args.n + kSpan - 1) / kSpan),
        columns_(size(G_ * spans_ * kSpan * width_)),
        rows_(size(G_ * args.n * width_)),
        unit_(size(G_ * args.n)),
        group_(size(G_ * spans_ * kSpan)),
        centroid_rows_(size(G_ * args.M * width_)),
        scale_(size(G_ * args.M)),
        offset_(size(G_ * args.M)) {}

  void run() {
    code();
    start();
    for (std::int64_t i = 0; i < a_.iterations; ++i) {
      assign();
      if (i + 1 < a_.iterations) move();
    }
    for (std::int64_t g = 0; g < G_; ++g)
      std::copy_n(group_.begin() + g * spans_ * kSpan, a_.n, a_.group_GN + g * a_.row_step);
  }

 private:
  int count_of(std::int64_t span) const {
    return static_cast<int>(std::min(kSpan, a_.n - span * kSpan));
  }
  KeyCodes codes_of(std::int64_t g) {
    return {columns_.data() + g * spans_ * kSpan * width_, rows_.data() + g * a_.n * width_,
            unit_.data() + g * a_.n};
  }

  void code() {
    const std::int64_t K = a_.kv.K;
    std::vector<float> mean(size(G_ * K));
    const auto add = QUIRE_FOR_ISA(add_keys);
    const auto code = QUIRE_FOR_ISA(code_keys);
    thread_pool().run(G_, [&](std::int64_t g) {
      thread_local std::vector<float> scratch;
      scratch.resize(size(kSpan * K));
      float* sum = mean.data() + g * K;
      for (std::int64_t span = 0; span < spans_; ++span)
        add(a_, g, a_.begin + span * kSpan, count_of(span), sum, scratch.data());
      for (std::int64_t k = 0; k < K; ++k) sum[k] /= static_cast<float>(a_.n);
    });
    thread_pool().run(G_ * spans_, [&](std::int64_t piece) {
      const std::int64_t g = piece / spans_, span = piece % spans_;
      thread_local std::vector<float> scratch;
      scratch.resize(size(kSpan * (K + 16)));
      code(a_, g, span, count_of(span), mean.data() + g * K, codes_of(g), scratch.data());
    });
  }

  void set_centroid(std::int64_t g, std::int64_t m, const float* sum) {
    const std::int64_t at = g * a_.M + m;
    scale_[size(at)] = QUIRE_FOR_ISA(code_row)(sum, width_, centroid_rows_.data() + at * width_,
                                               &offset_[size(at)]);
  }

  /// Centroids begin at keys of uniform stride.
  void start() {
    const auto add = QUIRE_FOR_ISA(add_codes);
    thread_pool().run(G_, [&](std::int64_t g) {
      std::vector<float> row(size(width_));
      const KeyCodes codes = codes_of(g);
      for (std::int64_t m = 0; m < a_.M; ++m) {
        const std::int64_t key = m * a_.n / a_.M;
        std::fill(row.begin(), row.end(), 0.0f);
        add(row.data(), codes.rows + key * width_, codes.unit_N[key], width_);
        set_centroid(g, m, row.data());
      }
    });
  }

  void assign() {
    const std::int64_t parts = (spans_ + kSpansOfPiece - 1) / kSpansOfPiece;
    const auto nearest = QUIRE_FOR_ISA(nearest_codes);
    thread_pool().run(G_ * parts, [&](std::int64_t piece) {
      const std::int64_t g = piece / parts, first = piece % parts * kSpansOfPiece;
      const CentroidCodes centroids{centroid_rows_.data() + g * a_.M * width_,
                                    scale_.data() + g * a_.M, offset_.data() + g * a_.M, a_.M,
                                    width_};
      for (std::int64_t s = first; s < std::min(spans_, first + kSpansOfPiece); ++s)
        nearest(centroids, codes_of(g).columns + s * kSpan * width_,
                group_.data() + (g * spans_ + s) * kSpan);
    });
  }

  /// Each centroid becomes the direction of the sum of its keys' directions; one that nobody chose
  /// stays.
  void move() {
    const auto add = QUIRE_FOR_ISA(add_codes);
    thread_pool().run(G_ * kRanges, [&](std::int64_t piece) {
      const std::int64_t g = piece / kRanges, part = piece % kRanges;
      const std::int64_t first = part * a_.M / kRanges, last = (part + 1) * a_.M / kRanges;
      thread_local std::vector<float> sum;
      thread_local std::vector<char> chosen;
      sum.assign(size((last - first) * width_), 0.0f);
      chosen.assign(size(last - first), 0);
      const KeyCodes codes = codes_of(g);
      const std::int64_t* group = group_.data() + g * spans_ * kSpan;
      for (std::int64_t i = 0; i < a_.n; ++i) {
        if (group[i] < first || group[i] >= last) continue;
        add(sum.data() + (group[i] - first) * width_, codes.rows + i * width_, codes.unit_N[i],
            width_);
        chosen[size(group[i] - first)] = 1;
      }
      for (std::int64_t m = first; m < last; ++m)
        if (chosen[size(m - first)] != 0) set_centroid(g, m, sum.data() + (m - first) * width_);
    });
  }

  const ClusterSegment& a_;
  std::int64_t G_, width_, spans_;
  std::vector<std::uint8_t> columns_;
  std::vector<std::int8_t> rows_;
  std::vector<float> unit_;
  std::vector<std::int64_t> group_;
  std::vector<std::int8_t> centroid_rows_;
  std::vector<float> scale_;
  std::vector<std::int32_t> offset_;
};

}  // namespace

void cluster_segment_cpu(const ClusterSegment& args) { Clustering(args).run(); }

void number_clusters_cpu(const NumberClusters& args) {
  thread_pool().run(args.G, [&](std::int64_t g) {
    std::int64_t *group = args.group_GS + g * args.S, *member = args.member_GN + g * args.n;
    std::int64_t groups = 0, filled = 0;
    std::vector<std::int64_t> count, next;
    for (std::int64_t at = args.begin, i = 0; at < args.begin + args.n; at += args.segment, ++i) {
      const std::int64_t end = std::min(args.begin + args.n, at + args.segment);
      count.assign(size(args.segment_M[i]), 0);
      next.assign(count.size(), 0);
      for (std::int64_t s = at; s < end; ++s) ++count[size(group[s])];
      // Where the members of a cluster go; they are met in order.
      for (std::size_t m = 0; m < count.size(); ++m) {
        next[m] = filled;
        filled += count[m];
      }
      for (std::int64_t s = at; s < end; ++s) member[next[size(group[s])]++] = s;
      for (std::size_t m = 0; m < count.size(); ++m) {
        const std::int64_t pieces = (count[m] + args.largest - 1) / args.largest;
        const std::int64_t first = next[m] - count[m];
        for (std::int64_t r = 0; r < count[m]; ++r)
          group[member[first + r]] = groups + r * pieces / count[m];
        groups += pieces;
      }
    }
    args.groups_G[g] = groups;
  });
}

void cluster_starts_cpu(const NumberClusters& args, std::int64_t J, std::int64_t* start_GJ) {
  for (std::int64_t g = 0; g < args.G; ++g) {
    std::int64_t* start = start_GJ + g * J;
    std::fill(start, start + J, args.n);
    for (std::int64_t i = args.n - 1; i >= 0; --i)
      start[args.group_GS[g * args.S + args.member_GN[g * args.n + i]]] = i;
  }
}

}  // namespace quire::kernel

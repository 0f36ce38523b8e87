#include <algorithm>
#include <limits>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/select_clusters_kernel.h"

namespace quire::kernel {
namespace {

struct Ranked {
  float rank;
  std::int64_t cluster;
};

bool before(const Ranked& a, const Ranked& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.cluster < b.cluster;
}

void select_head(const SelectClusters& args, std::int64_t g) {
  const float* rank = args.rank_GM + g * args.M;
  const std::int64_t* size = args.size_GM + g * args.M;
  std::uint8_t* taken = args.taken_GM + g * args.M;
  std::vector<Ranked> all;
  for (std::int64_t m = 0; m < args.M; ++m) {
    taken[m] = 0;
    const float r = rank[m] == rank[m] ? rank[m] : -std::numeric_limits<float>::infinity();
    if (size[m] > 0) all.push_back({r, m});
  }
  // The better half of what is left either fits whole, or is all that is looked at from then on:
  // half as much each time.
  std::int64_t left = args.budget;
  auto first = all.begin(), last = all.end();
  while (first != last) {
    const auto middle = first + (last - first + 1) / 2;
    std::nth_element(first, middle - 1, last, before);
    std::int64_t tokens = 0;
    for (auto at = first; at != middle; ++at) tokens += size[at->cluster];
    if (tokens <= left) {
      for (auto at = first; at != middle; ++at) taken[at->cluster] = 1;
      left -= tokens;
      first = middle;
    } else if (middle == last && last - first == 1) {
      break;
    } else {
      last = middle;
      // One alone is all that is left, and it does not fit.
      if (last - first == 1) break;
    }
  }
  args.tokens_G[g] = args.budget - left;
}

}  // namespace

void select_clusters_cpu(const SelectClusters& args) {
  thread_pool().run(args.G, [&](std::int64_t g) { select_head(args, g); });
}

}  // namespace quire::kernel

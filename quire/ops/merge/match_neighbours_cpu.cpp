#include <algorithm>
#include <cmath>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/merge/group_mean_kernel.h"
#include "quire/ops/merge/match_neighbours_kernel.h"

namespace quire::kernel {
namespace {

constexpr std::int64_t kSpan = 64;

struct Pair {
  float cosine;
  std::int64_t key;
};

/// The most similar pair first, of equal ones the lower key.
bool before(const Pair& a, const Pair& b) {
  return a.cosine != b.cosine ? a.cosine > b.cosine : a.key < b.key;
}

/// Chooses pairs of a head and numbers its groups.
void choose(const MatchNeighbours& args, std::int64_t g) {
  const std::int64_t S = args.S;
  std::int64_t *partner = args.partner_GS + g * S, *group = args.group_GS + g * S;
  float* cosine = args.cosine_GS + g * S;
  std::vector<Pair> pairs;
  for (std::int64_t s = 1; s < S; s += 2)
    if (partner[s] >= 0 && cosine[s] >= args.threshold) pairs.push_back({cosine[s], s});
  std::sort(pairs.begin(), pairs.end(), before);
  std::vector<std::int64_t> size(static_cast<std::size_t>(S), 1), joined(size.size(), -1);
  std::int64_t left = args.merges;
  for (const Pair& pair : pairs) {
    if (left == 0) break;
    std::int64_t& taken = size[static_cast<std::size_t>(partner[pair.key])];
    if (taken == args.group_cap) continue;
    ++taken;
    --left;
    joined[static_cast<std::size_t>(pair.key)] = partner[pair.key];
  }
  std::fill(group, group + S, -1);
  std::int64_t groups = 0;
  for (std::int64_t s = 0; s < S; ++s) {
    const std::int64_t to = joined[static_cast<std::size_t>(s)];
    const std::int64_t first = to < 0 ? s : to;
    if (group[first] < 0) group[first] = groups++;
    group[s] = group[first];
    if (to < 0) cosine[s] = 1;
  }
  args.groups_G[g] = groups;
}

}  // namespace

void key_means_cpu(const KvView& kv, std::int64_t b, std::int64_t S, float* mean_GK) {
  const auto read = QUIRE_FOR_ISA(read_key_rows);
  thread_pool().run(kv.G, [&](std::int64_t g) {
    const auto K = static_cast<std::size_t>(kv.K);
    std::vector<float> rows(static_cast<std::size_t>(kSpan) * K);
    std::vector<double> sum(K);
    for (std::int64_t slot = 0; slot < S; slot += kSpan) {
      const std::int64_t count = std::min(kSpan, S - slot);
      read(kv, b, g, slot, static_cast<int>(count), rows.data(), nullptr);
      for (std::size_t i = 0; i < static_cast<std::size_t>(count) * K; ++i)
        sum[i % K] += static_cast<double>(rows[i]);
    }
    for (std::size_t k = 0; k < K; ++k)
      mean_GK[static_cast<std::size_t>(g) * K + k] =
          S == 0 ? 0.0f : static_cast<float>(sum[k] / static_cast<double>(S));
  });
}

void match_neighbours_cpu(const MatchNeighbours& args) {
  const std::int64_t spans = (args.S + kSpan - 1) / kSpan;
  const auto span = QUIRE_FOR_ISA(match_span);
  thread_pool().run(args.kv.G * spans, [&](std::int64_t piece) {
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(2 * kSpan * args.kv.K));
    const std::int64_t slot = piece % spans * kSpan;
    span(args, piece / spans, slot, static_cast<int>(std::min(kSpan, args.S - slot)),
         scratch.data());
  });
  thread_pool().run(args.kv.G, [&](std::int64_t g) { choose(args, g); });
}

void protected_keys_cpu(const ProtectedKeys& args) {
  thread_pool().run(args.G, [&](std::int64_t g) {
    const float* mass = args.mass_GS + g * args.S;
    std::uint8_t* out = args.out_GS + g * args.S;
    for (std::int64_t s = 0; s < args.S; ++s)
      out[s] = s < args.sinks || args.S - s <= args.recent ? 1 : 0;
    std::vector<std::int64_t> order(static_cast<std::size_t>(args.S));
    for (std::size_t s = 0; s < order.size(); ++s) order[s] = static_cast<std::int64_t>(s);
    const auto heavier = [&](std::int64_t x, std::int64_t y) {
      return mass[x] != mass[y] ? mass[x] > mass[y] : x < y;
    };
    std::nth_element(order.begin(), order.begin() + args.heavy, order.end(), heavier);
    for (std::int64_t i = 0; i < args.heavy; ++i) out[order[static_cast<std::size_t>(i)]] = 1;
  });
}

}  // namespace quire::kernel

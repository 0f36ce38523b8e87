#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/error.h"
#include "quire/cache/merge_keys.h"
#include "quire/ops/merge/group_mean.h"
#include "quire/ops/merge/match_neighbours.h"
#include "quire/ops/merge/nearest_anchor.h"
#include "quire/ops/merge/sequence_view.h"

namespace quire::cache {
namespace {

using Numbers = std::vector<std::int64_t>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Tensor rows_of(const Tensor& k_1SK, std::span<const std::int32_t> rows) {
  const std::int64_t K = k_1SK.size(2), count = static_cast<std::int64_t>(rows.size());
  Tensor out = Tensor::empty({1, count, K}, DType::kF32);
  for (std::int64_t i = 0; i < count; ++i)
    std::copy_n(k_1SK.data<float>() + rows[at(i)] * K, K, out.mutable_data<float>() + i * K);
  return out;
}

template <class T>
Tensor plane(std::span<const T> values) {
  return Tensor::of<T>(values, {1, static_cast<std::int64_t>(values.size())});
}

/// Numbers groups by their first member.
void number_by_place(Numbers& group_S) {
  Numbers name(group_S.size(), -1);
  std::int64_t next = 0;
  for (std::int64_t& group : group_S) {
    if (group < 0) continue;
    if (name[at(group)] < 0) name[at(group)] = next++;
    group = name[at(group)];
  }
}

/// Keys that become fewer, round after round; only those that may be merged.
struct Crowd {
  Tensor k_1SK;
  std::vector<float> mass, count;
  Numbers position;
  std::int64_t size() const { return static_cast<std::int64_t>(mass.size()); }
};

/// The members of each group as one.
Crowd joined(const Crowd& from, const Tensor& group_GS, std::int64_t groups) {
  KeyNumbers numbers;
  numbers.weight_GS = plane<float>(from.mass);
  numbers.count_GS = plane<float>(from.count);
  const SequenceView view(from.k_1SK);
  const MergedKeys merged = group_mean(view.kv(), 0, group_GS, groups, numbers);
  Crowd out{merged.k_GMK, {}, {}, Numbers(at(groups), -1)};
  out.mass.assign(merged.weight_GM.data<float>(), merged.weight_GM.data<float>() + groups);
  out.count.assign(merged.count_GM.data<float>(), merged.count_GM.data<float>() + groups);
  const auto* group = group_GS.data<std::int64_t>();
  for (std::int64_t s = from.size() - 1; s >= 0; --s)
    out.position[at(group[s])] = from.position[at(s)];
  return out;
}

/// Neighbours as pairs, whatever they are: the way out where nothing is similar to anything.
Tensor forced_pairs(std::int64_t size, std::int64_t merges) {
  Tensor group_GS = Tensor::empty({1, size}, DType::kI64);
  std::int64_t group = -1;
  for (std::int64_t s = 0; s < size; ++s)
    group_GS.mutable_data<std::int64_t>()[s] = s % 2 == 1 && s / 2 < merges ? group : ++group;
  return group_GS;
}

/// Pairs within the window until `target` are left; the composed groups of the crowd's members.
Numbers group_neighbours(Crowd crowd, const MergeOptions& options, std::int64_t target) {
  Numbers group(at(crowd.size()));
  std::iota(group.begin(), group.end(), 0);
  MatchSpec spec{options.window, options.threshold, 2, 0, options.centre};
  std::int64_t cap = options.group_cap, relaxed = 0;
  while (crowd.size() > target) {
    const std::int64_t S = crowd.size();
    const auto most = static_cast<std::int64_t>(options.round * static_cast<double>(S));
    spec.merges = std::min(S - target, std::max<std::int64_t>(most, 1));
    std::vector<std::uint8_t> full(at(S));
    for (std::int64_t s = 0; s < S; ++s)
      full[at(s)] = crowd.count[at(s)] > static_cast<float>(cap) / 2;
    const SequenceView view(crowd.k_1SK);
    Matching found = match_neighbours(view.kv(), 0, spec, plane<std::uint8_t>(full),
                                      plane<std::int64_t>(crowd.position));
    if (found.groups == S && relaxed < 3) {
      ++relaxed;
      if (relaxed == 1) spec.threshold = -1;
      if (relaxed == 2) cap = INT32_MAX;
      if (relaxed == 3) spec.window = std::int64_t{1} << 20;
      continue;
    }
    if (found.groups == S) {
      found.group_GS = forced_pairs(S, std::min(spec.merges, S / 2));
      found.groups = S - std::min(spec.merges, S / 2);
    }
    const auto* to = found.group_GS.data<std::int64_t>();
    for (std::int64_t& g : group) g = to[g];
    crowd = joined(crowd, found.group_GS, found.groups);
  }
  return group;
}

/// Neighbours in the text, those with the least attention times tokens first.
Numbers group_adjacent(const Crowd& from, std::int64_t target) {
  Numbers group(at(from.size()));
  std::iota(group.begin(), group.end(), 0);
  std::vector<float> mass = from.mass, count = from.count;
  std::int64_t S = from.size();
  while (S > target) {
    std::vector<std::int64_t> order(at(S - 1));
    std::iota(order.begin(), order.end(), 0);
    const auto cost = [&](std::int64_t s) {
      return (mass[at(s)] + mass[at(s + 1)]) * (count[at(s)] + count[at(s + 1)]);
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return cost(a) < cost(b); });
    std::vector<std::uint8_t> taken(at(S)), joins(at(S));
    std::int64_t left = std::min(S - target, std::max<std::int64_t>(S / 4, 1));
    for (const std::int64_t s : order) {
      if (left == 0) break;
      if (taken[at(s)] != 0 || taken[at(s + 1)] != 0) continue;
      taken[at(s)] = taken[at(s + 1)] = joins[at(s + 1)] = 1;
      --left;
    }
    Numbers to(at(S));
    std::int64_t next = -1;
    for (std::int64_t s = 0; s < S; ++s) {
      if (joins[at(s)] == 0) {
        ++next;
        mass[at(next)] = mass[at(s)];
        count[at(next)] = count[at(s)];
      } else {
        mass[at(next)] += mass[at(s)];
        count[at(next)] += count[at(s)];
      }
      to[at(s)] = next;
    }
    for (std::int64_t& g : group) g = to[at(g)];
    S = next + 1;
  }
  return group;
}

HeadGroups join_kept(const HeadKeys& keys, const MergeOptions& options,
                     std::span<const std::int32_t> kept) {
  const NearestAnchor nearest =
      nearest_anchor(SequenceView(keys.k_1SK).kv(), 0, rows_of(keys.k_1SK, kept));
  HeadGroups out;
  const auto* cosine = nearest.cosine_GS.data<float>();
  out.cosine_S.assign(cosine, cosine + keys.size());
  for (std::int64_t s = 0; s < keys.size(); ++s) {
    const bool joins = double{cosine[s]} >= options.threshold;  // false for what is not a number
    out.group_S.push_back(joins ? std::int64_t{kept[at(nearest.group_GS.data<std::int64_t>()[s])]}
                                : -1);
    if (!joins) out.cosine_S[at(s)] = 0;
  }
  for (const std::int32_t s : kept) {
    out.group_S[at(s)] = s;
    out.cosine_S[at(s)] = 1;
  }
  return out;
}

}  // namespace

std::int64_t recent_of(const MergeOptions& options, std::int64_t even) {
  return std::max(options.recent,
                  static_cast<std::int64_t>(options.recent_share * static_cast<double>(even)));
}

HeadGroups group_head(const HeadKeys& keys, const MergeOptions& options, std::int64_t M,
                      std::int64_t even) {
  const std::int64_t S = keys.size(),
                     recent = std::min(recent_of(options, even), M - 2 - options.sinks),
                     ends = options.sinks + recent;
  const bool keeps = options.mode == MergeMode::kEvict || options.groups == MergeGroups::kKept;
  const auto heavy = static_cast<std::int64_t>(options.heavy * static_cast<double>(M));
  const std::int64_t alone = keeps ? M : std::clamp(heavy, ends, M - 1);
  const std::vector<std::int32_t> kept = best_positions(keys.mass_S, alone, options.sinks, recent);
  HeadGroups out;
  if (options.mode == MergeMode::kEvict) {
    out.group_S.assign(at(S), -1);
    for (const std::int32_t s : kept) out.group_S[at(s)] = s;
  } else if (keeps) {
    out = join_kept(keys, options, kept);
  } else {
    std::vector<std::uint8_t> is_kept(at(S));
    for (const std::int32_t s : kept) is_kept[at(s)] = 1;
    std::vector<std::int32_t> rest;
    Crowd crowd;
    for (std::int64_t s = 0; s < S; ++s) {
      if (is_kept[at(s)] != 0) continue;
      rest.push_back(static_cast<std::int32_t>(s));
      crowd.mass.push_back(keys.mass_S[at(s)]);
      crowd.count.push_back(keys.count_S[at(s)]);
      crowd.position.push_back(keys.position_S[at(s)]);
    }
    crowd.k_1SK = rows_of(keys.k_1SK, rest);
    const Numbers of_rest = options.groups == MergeGroups::kAdjacent
                                ? group_adjacent(crowd, M - alone)
                                : group_neighbours(std::move(crowd), options, M - alone);
    // Groups of the crowd take the names of their first members, which no other group has.
    Numbers first(at(S), -1);
    out.group_S.resize(at(S));
    std::iota(out.group_S.begin(), out.group_S.end(), 0);
    for (std::size_t i = 0; i < rest.size(); ++i) {
      std::int64_t& name = first[at(of_rest[i])];
      if (name < 0) name = rest[i];
      out.group_S[at(rest[i])] = name;
    }
  }
  number_by_place(out.group_S);
  return out;
}

}  // namespace quire::cache

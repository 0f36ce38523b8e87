#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "quire/ops/sample/sample_kernel.h"

namespace quire::kernel {
namespace {

/// What the filters have kept, ids ascending. A weight is e^((logit − the largest) / temperature):
/// the probability up to one common factor; the likeliest has 1.
struct Kept {
  std::vector<std::int32_t> ids;
  std::vector<float> logits, weights;

  std::size_t size() const { return ids.size(); }
  /// Keeps these places, which ascend.
  void keep(const std::vector<std::size_t>& places) {
    for (std::size_t i = 0; i < places.size(); ++i) {
      ids[i] = ids[places[i]];
      logits[i] = logits[places[i]];
      if (!weights.empty()) weights[i] = weights[places[i]];
    }
    ids.resize(places.size());
    logits.resize(places.size());
    if (!weights.empty()) weights.resize(places.size());
  }
};

/// Places by likelihood, equal ones by id.
struct Likelier {
  const std::vector<float>& logits;
  bool operator()(std::size_t a, std::size_t b) const {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  }
};

// The id of the largest logit, or a reason why there is none.
std::int32_t largest(const float* logits, std::int64_t V) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::int64_t best = 0;
  bool is_nan = false;
  for (std::int64_t i = 0; i < V; ++i) {
    is_nan |= std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  if (is_nan) return kNotANumber;
  if (logits[best] == kInfinity) return kInfinite;
  if (logits[best] == -kInfinity) return kNothingFinite;
  return static_cast<std::int32_t>(best);
}

void penalise(std::vector<float>& logits, const Sample& args) {
  std::vector<std::int32_t> ids(args.recent_N, args.recent_N + args.N);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  for (const std::int32_t id : ids) {
    float& logit = logits[static_cast<std::size_t>(id)];
    const double value = double{logit};
    logit =
        static_cast<float>(value > 0 ? value / args.repeat_penalty : value * args.repeat_penalty);
  }
}

// e^x for x <= 0, within 2 ulp, and 0 below −86. Plain operations that compilers turn into vectors,
// with the same bits on every processor: a full vocabulary of std::exp would be the longest part of
// a draw.
inline float exp_of_negative(float x) {
  const float clamped = x < -86.0f ? -86.0f : x;
  // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = (p * r * r + r) + 1.0f;
  // The low bits, moved to the exponent, multiply by 2^n.
  const std::uint32_t scaled =
      std::bit_cast<std::uint32_t>(y) + (std::bit_cast<std::uint32_t>(shifted) << 23);
  return x < -86.0f ? 0.0f : std::bit_cast<float>(scaled);
}

void weigh(Kept& kept, float top, double temperature) {
  kept.weights.resize(kept.size());
  const float* logits = kept.logits.data();
  float* weights = kept.weights.data();
  // Below this a temperature is greedy; a float of 0 would make 0/0 of the likeliest.
  const float divisor = static_cast<float>(std::max(temperature, 1e-30));
  for (std::size_t i = 0; i < kept.size(); ++i)
    weights[i] = exp_of_negative((logits[i] - top) / divisor);
}

constexpr std::size_t kBlock = 256;

// In eight strands that end in one: a fixed order that need not wait for each addition.
double block_sum(const float* weights, std::size_t count) {
  double strands[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t j = 0; j < 8; ++j) strands[j] += double{weights[i + j]};
  }
  for (std::size_t j = 0; i < count; ++i, ++j) strands[j] += double{weights[i]};
  return ((strands[0] + strands[4]) + (strands[1] + strands[5])) +
         ((strands[2] + strands[6]) + (strands[3] + strands[7]));
}

double whole_weight(const Kept& kept) {
  double total = 0;
  for (std::size_t i = 0; i < kept.size(); i += kBlock) {
    total += block_sum(kept.weights.data() + i, std::min(kBlock, kept.size() - i));
  }
  return total;
}

// A heap of the k likeliest so far, the least of them on top: nearly every logit is dismissed by
// one look.
void keep_top_k(Kept& kept, std::int64_t k) {
  if (k == 0 || k >= static_cast<std::int64_t>(kept.size())) return;
  const Likelier likelier{kept.logits};
  std::vector<std::size_t> heap(static_cast<std::size_t>(k));
  std::iota(heap.begin(), heap.end(), std::size_t{0});
  std::make_heap(heap.begin(), heap.end(), likelier);
  for (std::size_t i = heap.size(); i < kept.size(); ++i) {
    if (kept.logits[i] <= kept.logits[heap.front()]) continue;
    std::pop_heap(heap.begin(), heap.end(), likelier);
    heap.back() = i;
    std::push_heap(heap.begin(), heap.end(), likelier);
  }
  std::sort(heap.begin(), heap.end());
  kept.keep(heap);
}

// Sorts only the likeliest: those within some distance of the top, more of them until they hold the
// mass.
void keep_top_p(Kept& kept, float top, const Sample& args) {
  if (args.top_p >= 1) return;
  const double wanted = args.top_p * whole_weight(kept);
  std::vector<std::size_t> places;
  for (double distance = 3; places.size() < kept.size(); distance += 3) {
    const double bound = double{top} - distance * args.temperature;
    const float least =
        distance > 90 ? -std::numeric_limits<float>::infinity() : static_cast<float>(bound);
    places.clear();
    double held = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept.logits[i] < least) continue;
      places.push_back(i);
      held += double{kept.weights[i]};
    }
    // Sums in another order may differ in their last bits: a little more than enough.
    if (held >= wanted * (1 + 1e-9)) break;
  }
  std::sort(places.begin(), places.end(), Likelier{kept.logits});
  double held = 0;
  std::size_t count = 0;
  while (count < places.size() && held < wanted) held += double{kept.weights[places[count++]]};
  places.resize(count);
  std::sort(places.begin(), places.end());
  kept.keep(places);
}

void keep_min_p(Kept& kept, double min_p) {
  if (min_p == 0) return;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (double{kept.weights[i]} >= min_p) places.push_back(i);
  }
  kept.keep(places);
}

// Walks the ids upwards until the share `uniform` of the whole weight is behind: by blocks, then
// within.
std::int32_t draw(const Kept& kept, double uniform) {
  const double target = uniform * whole_weight(kept);
  double passed = 0;
  std::size_t block = 0;
  for (; block + kBlock < kept.size(); block += kBlock) {
    const double sum = block_sum(kept.weights.data() + block, kBlock);
    if (passed + sum > target) break;
    passed += sum;
  }
  std::size_t last = block;
  for (std::size_t i = block; i < kept.size(); ++i) {
    if (kept.weights[i] == 0) continue;
    last = i;
    passed += double{kept.weights[i]};
    if (passed > target) break;
  }
  // Rounding may leave nothing to draw in the last block: then the likeliest is as good as any.
  if (kept.weights[last] == 0) {
    last = static_cast<std::size_t>(std::max_element(kept.weights.begin(), kept.weights.end()) -
                                    kept.weights.begin());
  }
  return kept.ids[last];
}

}  // namespace

std::int32_t sample_cpu(const Sample& args) {
  // Memory of this thread that lives from call to call: page faults would cost more than the work.
  thread_local Kept kept;
  const auto V = static_cast<std::size_t>(args.V);
  kept.logits.assign(args.logits_V, args.logits_V + V);
  if (args.repeat_penalty != 1) penalise(kept.logits, args);
  const std::int32_t best = largest(kept.logits.data(), args.V);
  if (best < 0 || args.temperature == 0) return best;
  const float top = kept.logits[static_cast<std::size_t>(best)];

  kept.ids.resize(V);
  std::iota(kept.ids.begin(), kept.ids.end(), 0);
  kept.weights.clear();
  keep_top_k(kept, args.top_k);
  weigh(kept, top, args.temperature);
  keep_top_p(kept, top, args);
  keep_min_p(kept, args.min_p);
  return draw(kept, args.uniform);
}

}  // namespace quire::kernel

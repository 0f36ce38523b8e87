#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/ops/sample/sample_kernel.h"

namespace quire::kernel {
namespace {

struct Candidate {
  float logit;
  std::int32_t id;
  double
      weight;  // e^((logit − the largest) / temperature): the probability up to one common factor
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

bool by_id(const Candidate& a, const Candidate& b) { return a.id < b.id; }

using Candidates = std::vector<Candidate>;

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

void keep_top_k(Candidates& all, std::int64_t k) {
  if (k == 0 || k >= static_cast<std::int64_t>(all.size())) return;
  std::nth_element(all.begin(), all.begin() + k, all.end(), likelier);
  all.resize(static_cast<std::size_t>(k));
  std::sort(all.begin(), all.end(), by_id);
}

// Puts the likeliest in front a part at a time: the mass is nearly always among the first few
// hundred.
void keep_top_p(Candidates& all, double top_p) {
  if (top_p >= 1) return;
  double total = 0;
  for (const Candidate& candidate : all) total += candidate.weight;
  double held = 0;
  std::size_t sorted = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i == sorted) {
      sorted = std::min(all.size(), std::max<std::size_t>(256, 4 * sorted));
      const auto part = all.begin() + static_cast<std::ptrdiff_t>(sorted);
      if (part != all.end()) {
        std::nth_element(all.begin() + static_cast<std::ptrdiff_t>(i), part, all.end(), likelier);
      }
      std::sort(all.begin() + static_cast<std::ptrdiff_t>(i), part, likelier);
    }
    held += all[i].weight;
    if (held >= top_p * total) {
      all.resize(i + 1);
      break;
    }
  }
  std::sort(all.begin(), all.end(), by_id);
}

void keep_min_p(Candidates& all, double min_p) {
  // The likeliest has the weight 1 and survived every filter.
  std::erase_if(all, [&](const Candidate& candidate) { return candidate.weight < min_p; });
}

// Walks the ids upwards until the share `uniform` of the whole weight is behind.
std::int32_t draw(const Candidates& all, double uniform) {
  double total = 0;
  for (const Candidate& candidate : all) total += candidate.weight;
  double passed = 0;
  std::int32_t last = all.front().id;
  for (const Candidate& candidate : all) {
    if (candidate.weight == 0) continue;
    passed += candidate.weight;
    last = candidate.id;
    if (passed > uniform * total) break;
  }
  return last;
}

}  // namespace

std::int32_t sample_cpu(const Sample& args) {
  // Memory of this thread that lives from call to call: page faults would cost more than the work.
  thread_local std::vector<float> penalised;
  thread_local Candidates candidates;
  const float* logits = args.logits_V;
  if (args.repeat_penalty != 1 && args.N > 0) {
    penalised.assign(logits, logits + args.V);
    penalise(penalised, args);
    logits = penalised.data();
  }
  const std::int32_t best = largest(logits, args.V);
  if (best < 0 || args.temperature == 0) return best;

  candidates.resize(static_cast<std::size_t>(args.V));
  for (std::int64_t i = 0; i < args.V; ++i) {
    candidates[static_cast<std::size_t>(i)] = {logits[i], static_cast<std::int32_t>(i), 0};
  }
  keep_top_k(candidates, args.top_k);
  const double top = double{logits[best]};
  for (Candidate& candidate : candidates) {
    candidate.weight = std::exp((double{candidate.logit} - top) / args.temperature);
  }
  keep_top_p(candidates, args.top_p);
  keep_min_p(candidates, args.min_p);
  return draw(candidates, args.uniform);
}

}  // namespace quire::kernel

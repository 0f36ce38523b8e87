#include "quire/cache/policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/error.h"

namespace quire::cache {

std::int64_t Budget::of(std::int64_t context) const {
  if (tokens >= 0) return std::min(tokens, context);
  const double part = read != 0 ? read : fraction;
  QUIRE_CHECK(part > 0 && part <= 1, "a budget of ", part,
              " of the context; it must be over 0 and at most 1");
  return static_cast<std::int64_t>(std::floor(part * static_cast<double>(context)));
}

bool Observe::covers(const Observe& other) const {
  return (reading_mass || !other.reading_mass) && window >= other.window &&
         (other.reread == 0 || reread == other.reread) &&
         (!other.moments || (moments && moments_from == other.moments_from));
}

std::vector<std::int32_t> best_positions(std::span<const float> score_S, std::int64_t budget,
                                         std::int64_t sinks, std::int64_t recent) {
  const auto S = static_cast<std::int64_t>(score_S.size());
  budget = std::min(budget, S);
  sinks = std::min(sinks, budget);
  recent = std::min(recent, budget - sinks);
  std::vector<std::int32_t> middle(static_cast<std::size_t>(S - sinks - recent));
  std::iota(middle.begin(), middle.end(), static_cast<std::int32_t>(sinks));
  const auto best = static_cast<std::ptrdiff_t>(budget - sinks - recent);
  // A score that is not a number is the worst, so that the order stays one.
  const auto value = [&](std::int32_t at) {
    const float x = score_S[static_cast<std::size_t>(at)];
    return std::isnan(x) ? -INFINITY : x;
  };
  std::nth_element(middle.begin(), middle.begin() + best, middle.end(),
                   [&](std::int32_t a, std::int32_t b) {
                     return value(a) != value(b) ? value(a) > value(b) : a < b;
                   });
  middle.resize(static_cast<std::size_t>(best));
  std::sort(middle.begin(), middle.end());
  std::vector<std::int32_t> out(static_cast<std::size_t>(sinks));
  std::iota(out.begin(), out.end(), 0);
  out.insert(out.end(), middle.begin(), middle.end());
  for (std::int64_t i = S - recent; i < S; ++i) out.push_back(static_cast<std::int32_t>(i));
  return out;
}

std::vector<std::int32_t> best_pages(std::span<const float> score_S, std::int64_t page_tokens,
                                     std::int64_t pages) {
  const auto S = static_cast<std::int64_t>(score_S.size());
  std::vector<float> page_score;
  for (std::int64_t s = 0; s < S; s += page_tokens)
    page_score.push_back(score_S[static_cast<std::size_t>(s)]);
  std::vector<std::int32_t> out;
  for (const std::int32_t page : best_positions(page_score, pages, 0, 1)) {
    const std::int64_t begin = page * page_tokens;
    for (std::int64_t s = begin; s < std::min(S, begin + page_tokens); ++s)
      out.push_back(static_cast<std::int32_t>(s));
  }
  return out;
}

std::vector<std::int32_t> Policy::select(const HeadContext& head,
                                         std::span<const float> score_S) const {
  return best_positions(score_S, head.budget, sinks(), recent());
}

}  // namespace quire::cache

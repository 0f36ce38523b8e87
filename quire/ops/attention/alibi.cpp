#include "quire/ops/attention/alibi.h"

#include <cmath>

#include "quire/base/error.h"

namespace quire {

std::vector<float> alibi_slopes(std::int64_t H, AlibiRule rule) {
  QUIRE_CHECK(H >= 1 && H <= 65536, "alibi_slopes: H is ", H, "; it may be 1 to 65536");
  std::int64_t power = 1;
  while (2 * power <= H) power *= 2;
  std::vector<float> out;
  for (std::int64_t h = 0; h < H; ++h) {
    const auto of = [](std::int64_t i, std::int64_t n) {
      return static_cast<float>(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(n)));
    };
    if (rule == AlibiRule::kBoostr) {
      out.push_back(of(h, H));
    } else {
      out.push_back(h < power ? of(h + 1, power) : of(2 * (h - power) + 1, 2 * power));
    }
  }
  return out;
}

}  // namespace quire

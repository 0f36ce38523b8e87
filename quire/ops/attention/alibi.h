#pragma once

#include <cstdint>
#include <vector>

namespace quire {

/// kBloom: 2^(−8(h+1)/H) where H is a power of two; else the slopes of the largest power of two
/// below H, and then every other slope of twice as many. kBoostr: 2^(−8h/H), which begins with 1.
enum class AlibiRule : std::uint8_t { kBloom, kBoostr };

/// The slope of each of H query heads, for AttentionSpec::slope_H: scores gain slope · (key − query
/// position).
///
/// Throws  ArgumentError unless 1 <= H <= 65536.
/// Source  Press et al. 2021; for other numbers of heads the rule of BLOOM.
std::vector<float> alibi_slopes(std::int64_t H, AlibiRule rule = AlibiRule::kBloom);

}  // namespace quire

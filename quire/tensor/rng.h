#pragma once

#include <array>
#include <cstdint>

namespace quire {

/// The ten rounds of Philox 4x32: a block of four random words for each counter under a key.
/// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key);

/// A counter-based generator on `philox`: the same seed gives the same numbers on every machine.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : seed_(seed) {}
  std::uint32_t next_u32();
  std::uint64_t next_u64();                  // the first word is the low half
  double uniform();                          // [0, 1), 53 bits
  float normal();                            // mean 0, variance 1 (Box and Muller 1958)
  std::uint64_t below(std::uint64_t bound);  // [0, bound), unbiased; throws ArgumentError for 0

 private:
  std::uint64_t seed_;
  std::uint64_t counter_ = 0;
  std::array<std::uint32_t, 4> block_{};
  std::size_t used_ = 4;
};

}  // namespace quire

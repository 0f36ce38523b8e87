// Runs a fuzz target over its seeds and mutations of them: the same inputs in every run, so that a
// finding can be repeated.
//
//   target [ITERATIONS [FIRST]]   runs inputs FIRST, FIRST + 1, … (0 by default)
//   target --print N              writes input N to stdout

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/error.h"
#include "tests/support/fuzz.h"

namespace {

// SplitMix64, Steele et al. 2014.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }

 private:
  std::uint64_t state_;
};

// Sizes and counts at the edges of their types, little-endian, in 1 to 8 bytes.
void write_edge(std::string& text, std::size_t at, Random& random) {
  constexpr std::uint64_t kEdges[] = {0,          1,          0x7f,       0x80,
                                      0xff,       0x7fffffff, 0x80000000, 0xffffffff,
                                      1ull << 32, 1ull << 40, 1ull << 61, (1ull << 63) - 1,
                                      1ull << 63, ~0ull,      ~0ull - 31, 1000000000};
  std::uint64_t value = kEdges[random.below(std::size(kEdges))];
  const std::size_t width = std::min(std::size_t{1} << random.below(4), text.size() - at);
  for (std::size_t i = 0; i < width; ++i, value >>= 8) text[at + i] = static_cast<char>(value);
}

void mutate(std::string& text, const std::vector<std::string>& seeds, Random& random) {
  if (text.empty()) return text.push_back(static_cast<char>(random.next()));
  const std::size_t at = random.below(text.size());
  const std::size_t length = 1 + random.below(std::min<std::size_t>(text.size() - at, 64));
  switch (random.below(8)) {
    case 0:
      text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
      break;
    case 1:
      text[at] = static_cast<char>(random.next());
      break;
    case 2:
      text.resize(at);
      break;
    case 3:
      text.erase(at, length);
      break;
    case 4:
      text.insert(at, text.substr(random.below(text.size()), length));
      break;
    case 5:
      write_edge(text, at, random);
      break;
    case 6:
      text.insert(at, 1 + random.below(200), text[at]);
      break;
    default: {
      const std::string& other = seeds[random.below(seeds.size())];
      if (!other.empty())
        text.insert(at, other.substr(random.below(other.size()), 1 + random.below(256)));
    }
  }
}

std::string make_input(const std::vector<std::string>& seeds, std::uint64_t number) {
  if (number < seeds.size()) return seeds[static_cast<std::size_t>(number)];
  Random random(number);
  std::string text = seeds[random.below(seeds.size())];
  for (std::size_t count = 1 + random.below(6); count > 0; --count) mutate(text, seeds, random);
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> seeds = quire::test::fuzz_seeds();
  if (argc == 3 && std::string_view(argv[1]) == "--print") {
    const std::string input = make_input(seeds, std::strtoull(argv[2], nullptr, 10));
    std::fwrite(input.data(), 1, input.size(), stdout);
    return 0;
  }
  const std::uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
  const std::uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  std::uint64_t number = first, accepted = 0, refused = 0;
  try {
    for (; number < first + count; ++number) {
      bool good = false;
      try {
        good = quire::test::fuzz_one(make_input(seeds, number));
      } catch (const quire::Error&) {
      }
      good ? ++accepted : ++refused;
      if (!good && number < seeds.size()) {
        std::printf("seed %llu is refused\n", static_cast<unsigned long long>(number));
        return 1;
      }
    }
  } catch (const std::exception& error) {
    std::printf("input %llu: %s (%s --print %llu)\n", static_cast<unsigned long long>(number),
                error.what(), argv[0], static_cast<unsigned long long>(number));
    return 1;
  }
  std::printf("%llu accepted, %llu refused\n", static_cast<unsigned long long>(accepted),
              static_cast<unsigned long long>(refused));
  // A parser that refuses nothing, or everything but the seeds, was not reached.
  return first > 0 || count <= seeds.size() || refused > 0 ? 0 : 1;
}

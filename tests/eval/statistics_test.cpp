#include "quire/eval/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/error.h"
#include "quire/io/safetensors.h"
#include "quire/tensor/rng.h"

namespace quire::eval {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

io::SafetensorsFile golden() {
  return io::SafetensorsFile(QUIRE_SOURCE_DIR "/tests/goldens/eval/statistics.safetensors");
}

std::vector<double> values(const Tensor& x) {
  return {x.data<double>(), x.data<double>() + x.elements()};
}

TEST(Divergence, ByHand) {
  // p = (1/2, 1/2) beside q = (1/4, 3/4): ½ ln 2 + ½ ln (2/3).
  const std::vector<float> full{0, 0}, other{0, std::log(3.0f)};
  const Divergence d = divergence(full, other, 1);
  EXPECT_NEAR(d.kl, 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3), 1e-7);
  EXPECT_NEAR(d.nll_full, std::log(2.0), 1e-12);
  EXPECT_NEAR(d.nll, std::log(4.0 / 3), 1e-7);
  EXPECT_FALSE(d.same_top) << "of equal ones the first is the likeliest";
}

TEST(Divergence, EqualBitsGiveExactlyZero) {
  std::vector<float> logits(997);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = std::sin(static_cast<float>(i * i)) * 9;
  const Divergence d = divergence(logits, logits, 5);
  EXPECT_EQ(d.kl, 0.0);
  EXPECT_EQ(d.nll, d.nll_full);
  EXPECT_TRUE(d.same_top);
}

TEST(Divergence, AgainstNumpy) {
  const io::SafetensorsFile file = golden();
  const Tensor full = file.read("full"), other = file.read("other"), target = file.read("target");
  const auto V = static_cast<std::size_t>(full.size(1));
  const std::vector<double> kl = values(file.read("kl")), nll = values(file.read("nll")),
                            nll_full = values(file.read("nll_full"));
  for (std::size_t n = 0; n < kl.size(); ++n) {
    const Divergence d =
        divergence({full.data<float>() + n * V, V}, {other.data<float>() + n * V, V},
                   target.data<std::int32_t>()[n]);
    EXPECT_NEAR(d.kl, kl[n], 1e-13) << n;
    EXPECT_NEAR(d.nll, nll[n], 1e-12) << n;
    EXPECT_NEAR(d.nll_full, nll_full[n], 1e-12) << n;
    EXPECT_GT(d.kl, 0) << n;
  }
}

TEST(Divergence, LogitsFarFromZeroDoNotOverflow) {
  const std::vector<float> full{3e4f, 2.9e4f}, other{-3e4f, -2.9e4f};
  const Divergence d = divergence(full, other, 0);
  EXPECT_NEAR(d.kl, 1000, 1e-9);
  EXPECT_NEAR(d.nll, 1000, 1e-9);
}

TEST(Divergence, RefusesWhatDoesNotFit) {
  const std::vector<float> three(3), two(2);
  EXPECT_THROW(divergence(three, two, 0), ArgumentError);
  EXPECT_THROW(divergence(three, three, 3), ArgumentError);
  EXPECT_THROW(divergence(three, three, -1), ArgumentError);
  EXPECT_THROW(divergence({}, {}, 0), ArgumentError);
}

TEST(Quantile, ByHandAndAgainstNumpy) {
  const std::vector<double> four{4, 1, 3, 2};
  EXPECT_EQ(quantile(four, 0), 1);
  EXPECT_EQ(quantile(four, 1), 4);
  EXPECT_EQ(quantile(four, 0.5), 2.5);
  EXPECT_NEAR(quantile(four, 0.99), 3.97, 1e-12);
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
  EXPECT_THROW(quantile(four, 1.5), ArgumentError);
  const io::SafetensorsFile file = golden();
  const std::vector<double> series = values(file.read("series"));
  const std::vector<double> levels = values(file.read("levels")),
                            wanted = values(file.read("quantiles"));
  for (std::size_t i = 0; i < levels.size(); ++i)
    EXPECT_NEAR(quantile(series, levels[i]), wanted[i], 1e-12 * wanted[i]) << levels[i];
}

TEST(Mean, OfNothingIsNoNumber) {
  EXPECT_TRUE(std::isnan(mean({})));
  const std::vector<double> three{1, 2, 6};
  EXPECT_EQ(mean(three), 3);
}

TEST(Bootstrap, BlocksAreCubeRootsRoundedUp) {
  EXPECT_EQ(bootstrap_block(1), 1);
  EXPECT_EQ(bootstrap_block(8), 2);
  EXPECT_EQ(bootstrap_block(9), 3);
  EXPECT_EQ(bootstrap_block(384), 8);
  EXPECT_EQ(bootstrap_block(512), 8);
  EXPECT_EQ(bootstrap_block(513), 9);
}

TEST(Bootstrap, ComesCloseToNumpys) {
  const io::SafetensorsFile file = golden();
  const std::vector<double> series = values(file.read("series"));
  const std::vector<double> wanted = values(file.read("interval"));
  const double deviation = values(file.read("deviation"))[0];
  const Interval got = bootstrap_mean(series, {20'000, 0.95, 1});
  // A 2.5 % quantile of 20,000 draws has a standard error of about 0.019 deviations.
  EXPECT_NEAR(got.low, wanted[0], 0.08 * deviation);
  EXPECT_NEAR(got.high, wanted[1], 0.08 * deviation);
}

TEST(Bootstrap, BlocksAreWiderThanSinglesWhereNeighboursAreAlike) {
  // Eight values at a time are the same: single draws would believe in 512 witnesses, not 64.
  std::vector<double> stretches(512);
  Rng rng(5);
  for (std::size_t i = 0; i < 512; ++i)
    stretches[i] = i % 8 == 0 ? rng.uniform() : stretches[i - 1];
  std::vector<double> shuffled = stretches;
  for (std::size_t i = shuffled.size() - 1; i > 0; --i)
    std::swap(shuffled[i], shuffled[rng.below(i + 1)]);
  const Interval wide = bootstrap_mean(stretches), narrow = bootstrap_mean(shuffled);
  EXPECT_GT(wide.high - wide.low, 1.8 * (narrow.high - narrow.low));
}

TEST(Bootstrap, RepeatsBySeed) {
  std::vector<double> series(100);
  std::iota(series.begin(), series.end(), 0.0);
  const Interval a = bootstrap_mean(series, {500, 0.9, 3}),
                 b = bootstrap_mean(series, {500, 0.9, 3});
  const Interval c = bootstrap_mean(series, {500, 0.9, 4});
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, c.low);
  EXPECT_LT(a.low, 49.5);
  EXPECT_GT(a.high, 49.5);
}

TEST(Bootstrap, EdgesAndRefusals) {
  const std::vector<double> one{7};
  EXPECT_EQ(bootstrap_mean(one).low, 7);
  EXPECT_EQ(bootstrap_mean(one).high, 7);
  const std::vector<double> same(50, 0.25);
  EXPECT_EQ(bootstrap_mean(same).low, 0.25);
  EXPECT_TRUE(std::isnan(bootstrap_mean({}).low));
  EXPECT_THROW(bootstrap_mean(one, {0, 0.95, 0}), ArgumentError);
  EXPECT_THROW(bootstrap_mean(one, {10, 1, 0}), ArgumentError);
}

TEST(Difference, IsPaired) {
  const std::vector<double> a{3, 5}, b{1, 7}, c{1};
  EXPECT_THAT(difference(a, b), ElementsAre(2, -2));
  EXPECT_THROW(difference(a, c), ArgumentError);
}

TEST(LargestTenth, ByHand) {
  std::vector<double> twelve{0, 9, 1, 9, 2, 9, 3, 3, 3, 3, 3, 3};
  EXPECT_THAT(largest_tenth(twelve), ElementsAre(1u, 3u)) << "of equal ones the earlier";
  EXPECT_THAT(largest_tenth(std::vector<double>{5}), ElementsAre(0u));
  EXPECT_THAT(largest_tenth({}), IsEmpty());
}

}  // namespace
}  // namespace quire::eval

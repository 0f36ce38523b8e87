#include "quire/ops/attention/attention_spec.h"

#include <gtest/gtest.h>

#include <vector>

#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"

// What alignment and windows mean: which keys a query sees, told from one output. Value s is 2^s,
// all scores are equal, so out · (number of keys) is the set of the keys seen.

namespace quire::test {
namespace {

/// For each query the seen keys, as text: "01234" or "" for none.
std::vector<std::string> seen(std::int64_t T, std::int64_t S, const AttentionSpec& spec,
                              std::int64_t first = 0) {
  std::vector<float> k(static_cast<std::size_t>(S), 0.0f), v;
  for (std::int64_t s = 0; s < S; ++s) v.push_back(std::ldexp(1.0f, static_cast<int>(s)));
  KvView kv;
  kv.k_pages = k.data();
  kv.v_pages = v.data();
  kv.k_strides = kv.v_strides = {S, 1, S};
  kv.P = kv.G = kv.K = kv.U = 1;
  kv.Z = std::max<std::int64_t>(S, 1);
  kv.length_BG = &S;
  kv.first_BG = &first;
  const AttentionResult result = Queries({T}, 1, 1).attend(kv, spec);
  std::vector<std::string> out;
  for (std::int64_t t = 0; t < T; ++t) {
    std::string set;
    const float lse = result.lse_NH.data<float>()[t];
    if (lse != -kInfinity) {
      const float count = std::round(std::exp(lse));
      const auto bits = static_cast<std::uint64_t>(
          std::lround(double{result.out_NHU.data<float>()[t]} * double{count}));
      for (int s = 0; s < S; ++s)
        if ((bits >> s & 1u) != 0) set += static_cast<char>('0' + s);
    }
    out.push_back(set);
  }
  return out;
}

using Sets = std::vector<std::string>;

AttentionSpec spec(Alignment alignment, std::int64_t left = kUnlimited, std::int64_t right = 0) {
  AttentionSpec out;
  out.alignment = alignment;
  out.window_left = left;
  out.window_right = right;
  return out;
}

TEST(AttentionSpec, PAG_04_BottomRight) {
  EXPECT_EQ(seen(2, 5, spec(Alignment::kBottomRight)), (Sets{"0123", "01234"}));
  EXPECT_EQ(seen(3, 3, spec(Alignment::kBottomRight)), (Sets{"0", "01", "012"}));
  EXPECT_EQ(seen(1, 4, spec(Alignment::kBottomRight)), (Sets{"0123"}));
}

TEST(AttentionSpec, PAG_05_B9_T13_MoreQueriesThanKeys) {
  EXPECT_EQ(seen(5, 2, spec(Alignment::kBottomRight)), (Sets{"", "", "", "0", "01"}));
  EXPECT_EQ(seen(5, 2, spec(Alignment::kTopLeft)), (Sets{"0", "01", "01", "01", "01"}));
  EXPECT_EQ(seen(2, 0, spec(Alignment::kBottomRight)), (Sets{"", ""}));
}

TEST(AttentionSpec, PAG_04_TopLeft) {
  EXPECT_EQ(seen(2, 5, spec(Alignment::kTopLeft)), (Sets{"0", "01"}));
  EXPECT_EQ(seen(1, 5, spec(Alignment::kTopLeft)), (Sets{"0"}));
}

TEST(AttentionSpec, FLA_03_Windows) {
  EXPECT_EQ(seen(3, 6, spec(Alignment::kBottomRight, 1)), (Sets{"23", "34", "45"}));
  EXPECT_EQ(seen(3, 6, spec(Alignment::kBottomRight, 0)), (Sets{"3", "4", "5"}));
  EXPECT_EQ(seen(3, 6, spec(Alignment::kBottomRight, 1, 1)), (Sets{"234", "345", "45"}));
  EXPECT_EQ(seen(3, 6, spec(Alignment::kTopLeft, 0, 2)), (Sets{"012", "123", "234"}));
  EXPECT_EQ(seen(3, 6, spec(Alignment::kTopLeft, kUnlimited, kUnlimited)),
            (Sets{"012345", "012345", "012345"}));
}

TEST(AttentionSpec, PositionsBeginWithTheFirstSlot) {
  for (const std::int64_t first : {1, 63, 64, 1000}) {
    EXPECT_EQ(seen(2, 5, spec(Alignment::kBottomRight, 1), first), (Sets{"23", "34"}));
    EXPECT_EQ(seen(2, 5, spec(Alignment::kTopLeft, 1), first), (Sets{"0", "01"}));
  }
}

TEST(AttentionSpec, T14_WindowsAtTheEndOfTheNumbersDoNotOverflow) {
  for (const std::int64_t wide : {INT64_MAX - 1, INT64_MAX / 2}) {
    EXPECT_EQ(seen(2, 5, spec(Alignment::kBottomRight, wide, wide)), (Sets{"01234", "01234"}));
    EXPECT_EQ(seen(7, 2, spec(Alignment::kBottomRight, wide, wide)), Sets(7, "01"));
  }
}

TEST(AttentionSpec, AWindowThatStepsOverTheEndOfATile) {
  // Queries before the first key, beside each of the four keys of a tile, and beyond it.
  EXPECT_EQ(seen(6, 5, spec(Alignment::kBottomRight, 0), 60), (Sets{"", "0", "1", "2", "3", "4"}));
}

TEST(AttentionSpec, UnsetIsFineWhereNothingDependsOnIt) {
  EXPECT_EQ(seen(3, 3, spec(Alignment::kUnset)), (Sets{"0", "01", "012"}));
  EXPECT_EQ(seen(1, 3, spec(Alignment::kUnset, kUnlimited, kUnlimited)), (Sets{"012"}));
}

}  // namespace
}  // namespace quire::test

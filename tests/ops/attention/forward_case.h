#pragma once

// attention() beside the naive loops of tests/reference/attention.h.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"

namespace quire::test {

struct ForwardErrors {
  double ours = 0, naive = 0, largest = 0;
  void add(double value, double yardstick, double truth) {
    ours = std::max(ours, std::abs(value - truth));
    naive = std::max(naive, std::abs(yardstick - truth));
  }
  /// At most twice the naive loop's error, plus one rounding of the largest term.
  void expect(const std::string& what) const {
    EXPECT_LE(ours, 2 * naive + 0x1p-23 * largest)
        << what << ": naive error " << naive << ", largest term " << largest;
  }
};

/// Holds attention() to the naive loops, over outputs and lse.
inline void expect_forward(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
                           const std::string& what) {
  const AttentionResult result = queries.attend(kv, spec);
  const auto truth = ref::attention<double>(queries.values, queries.start, queries.H, kv, spec);
  const auto naive = ref::attention<float>(queries.values, queries.start, queries.H, kv, spec);
  ASSERT_EQ(result.out_NHU.elements(), static_cast<std::int64_t>(truth.out_NHU.size())) << what;
  ASSERT_EQ(result.lse_NH.elements(), static_cast<std::int64_t>(truth.lse_NH.size())) << what;
  const float *out = result.out_NHU.data<float>(), *lse = result.lse_NH.data<float>();
  ForwardErrors out_errors, lse_errors;
  out_errors.largest = truth.largest_value;
  lse_errors.largest = truth.largest_score;
  for (std::size_t r = 0; r < truth.lse_NH.size(); ++r) {
    const bool empty = std::isinf(truth.lse_NH[r]);
    if (empty) {
      ASSERT_EQ(lse[r], -kInfinity) << what << ": row " << r;
    } else {
      ASSERT_TRUE(std::isfinite(lse[r])) << what << ": row " << r;
      lse_errors.add(double{lse[r]}, double{naive.lse_NH[r]}, truth.lse_NH[r]);
      lse_errors.largest = std::max(lse_errors.largest, std::abs(truth.lse_NH[r]));
    }
    for (std::size_t u = 0; u < static_cast<std::size_t>(kv.U); ++u) {
      const std::size_t i = r * static_cast<std::size_t>(kv.U) + u;
      ASSERT_TRUE(std::isfinite(out[i])) << what << ": row " << r << ", " << u;
      if (empty) {
        ASSERT_EQ(out[i], 0.0f) << what << ": row " << r;
      }
      out_errors.add(double{out[i]}, double{naive.out_NHU[i]}, truth.out_NHU[i]);
    }
  }
  out_errors.expect(what + ", out");
  lse_errors.expect(what + ", lse");
}

}  // namespace quire::test

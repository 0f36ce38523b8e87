// Keys that several sequences share are read once; nobody can tell from the result.
#include "quire/ops/attention/shared_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"

namespace quire::test {
namespace {

using Counts = std::vector<std::int64_t>;

constexpr std::int64_t kHeads = 6;

AttentionSpec causal() {
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

std::vector<AttentionSpec> specs() {
  static const float sinks[] = {0.5f, -1.0f, -kInfinity, 0.3f, 3.0f, 0.2f};
  std::vector<AttentionSpec> out(3, causal());
  out[1].softcap = 2;
  out[1].sink_H = sinks;
  out[2].window_right = kUnlimited;
  return out;
}

PagedForm form_of(DType dtype, KLayout layout, std::int64_t Z, Table table) {
  PagedForm form;
  form.dtype = dtype;
  form.layout = layout;
  form.head_first = layout == KLayout::kBlocks;
  form.Z = Z;
  form.G = 2;
  form.K = 16;
  form.U = 24;
  form.table = table;
  return form;
}

/// Sequences that begin with the pages that hold the first `common` keys of the first one.
PagedCase forks(const PagedForm& form, const Counts& lengths, std::int64_t common) {
  PagedCase out(form, lengths);
  const KvView kv = out.view();
  for (std::size_t b = 1; b < lengths.size(); ++b) {
    const auto row = kv.table_start_J != nullptr ? std::int64_t{kv.table_start_J[b]}
                                                 : static_cast<std::int64_t>(b) * kv.W;
    std::copy_n(out.table().begin(), common / form.Z, out.table().begin() + row);
  }
  return out;
}

/// Each sequence has the bits that it has when no other brings queries.
void expect_as_alone(const PagedCase& kv, const Counts& counts, const AttentionSpec& spec,
                     std::int64_t shared, const std::string& what) {
  const Queries together(counts, kHeads, kv.view().K);
  EXPECT_EQ(shared_keys(together.start_J, kv.view(), spec), shared) << what;
  const AttentionResult result = together.attend(kv.view(), spec);
  for (std::size_t b = 0; b < counts.size(); ++b) {
    if (counts[b] == 0) continue;
    Counts only(counts.size(), 0);
    only[b] = counts[b];
    const Queries alone(only, kHeads, kv.view().K);
    EXPECT_EQ(shared_keys(alone.start_J, kv.view(), spec), 0);
    EXPECT_TRUE(same_bits(rows(result, together.start[b], together.start[b + 1]),
                          alone.attend(kv.view(), spec)))
        << what << ", sequence " << b;
  }
}

TEST(SharedAttention, PAG_21_changes_no_bit) {
  struct Stored {
    DType dtype;
    KLayout layout;
    std::int64_t Z;
    Table table;
    int threads;
  };
  const Stored all[] = {{DType::kF32, KLayout::kBlocks, 16, Table::kCsr, 1},
                        {DType::kF16, KLayout::kBlocks, 64, Table::kSequences, 2},
                        {DType::kBF16, KLayout::kRows, 5, Table::kSequences, 2},
                        {DType::kBF16, KLayout::kBlocks, 64, Table::kCsr, 2},
                        {DType::kI8, KLayout::kBlocks, 64, Table::kSequences, 2}};
  for (const Stored& stored : all) {
    set_threads(stored.threads);
    const PagedForm form = form_of(stored.dtype, stored.layout, stored.Z, stored.table);
    const std::string what =
        std::string(to_string(stored.dtype)) + ", pages of " + std::to_string(stored.Z);
    const PagedCase four = forks(form, {700, 660, 690, 900}, 650);
    for (const AttentionSpec& spec : specs()) expect_as_alone(four, {1, 1, 1, 1}, spec, 512, what);
    // More rows than one block of queries.
    expect_as_alone(forks(form, {340, 335, 330}, 325), {70, 3, 0}, causal(), 256, what);
    // The first has nothing to ask.
    expect_as_alone(forks(form, {400, 330, 400}, 320), {0, 2, 1}, specs()[1], 256, what);
    // Nothing but what they share and their own keys.
    expect_as_alone(forks(form, {280, 280}, 260), {20, 20}, causal(), 256, what);
  }
}

TEST(SharedAttention, PAG_21_changes_no_bit_of_what_is_multiplied_in_pairs) {
  AttentionSpec rounding = causal();
  rounding.query_rounding = QueryRounding::kLikePages;
  struct Stored {
    KLayout layout;
    std::int64_t Z, K, U;
    int threads;
  };
  const Stored all[] = {{KLayout::kBlocks, 64, 64, 64, 2},
                        {KLayout::kBlocks, 16, 32, 96, 1},
                        {KLayout::kBlocks, 64, 15, 40, 2},
                        {KLayout::kRows, 7, 18, 17, 3}};
  for (const Stored& stored : all) {
    set_threads(stored.threads);
    PagedForm form = form_of(DType::kBF16, stored.layout, stored.Z, Table::kSequences);
    form.K = stored.K;
    form.U = stored.U;
    const std::string what = "K = " + std::to_string(stored.K);
    // Rows that fill no whole sixteen, two of them, and sequences in several parts.
    const PagedCase five = forks(form, {580, 577, 540, 539, 700}, 518);
    expect_as_alone(five, {1, 1, 1, 1, 1}, rounding, 512, what);
    expect_as_alone(five, {3, 0, 1, 4, 2}, rounding, 512, what);
    expect_as_alone(forks(form, {380, 335, 330}, 308), {66, 3, 2}, rounding, 256, what);
  }
}

TEST(SharedAttention, PAG_21_takes_a_bias_of_each_key) {
  set_threads(2);
  for (const std::int64_t heads : {std::int64_t{1}, std::int64_t{2}, kHeads}) {
    PagedForm form = form_of(DType::kF32, KLayout::kBlocks, 16, Table::kSequences);
    form.bias_heads = heads;
    PagedCase kv = forks(form, {400, 380}, 304);
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t s = 0; s < 256; ++s) kv.set_bias(0, s, h, -kInfinity);
    }
    expect_as_alone(kv, {1, 2}, causal(), 256, "masked, " + std::to_string(heads));
    kv.set_bias(0, 17, 0, 4.0f);
    expect_as_alone(kv, {1, 2}, causal(), 256, "bias, " + std::to_string(heads));
  }
}

std::int64_t shared_of(const PagedCase& kv, const Counts& counts, const AttentionSpec& spec) {
  return shared_keys(Queries(counts, kHeads, kv.view().K).start_J, kv.view(), spec);
}

TEST(SharedKeys, are_whole_partial_results_before_every_query) {
  const PagedForm form = form_of(DType::kF32, KLayout::kBlocks, 64, Table::kSequences);
  const AttentionSpec spec = causal();
  EXPECT_EQ(shared_of(forks(form, {600, 600}, 576), {1, 1}, spec), 512);
  EXPECT_EQ(shared_of(forks(form, {600, 600}, 448), {1, 1}, spec), 256);
  EXPECT_EQ(shared_of(forks(form, {600, 600}, 192), {1, 1}, spec), 0);
  EXPECT_EQ(shared_of(forks(form, {600, 600}, 0), {1, 1}, spec), 0);
  EXPECT_EQ(shared_of(forks(form, {600, 513}, 512), {1, 1}, spec), 512);
  EXPECT_EQ(shared_of(forks(form, {600, 512}, 512), {1, 1}, spec), 256) << "the query's own key";
  EXPECT_EQ(shared_of(forks(form, {600, 512}, 512), {1, 0}, spec), 0) << "one asks";
  EXPECT_EQ(shared_of(forks(form, {600, 100, 600}, 64), {1, 0, 1}, spec), 0);
  EXPECT_EQ(shared_of(forks(form, {600, 600}, 576), {600, 600}, spec), 0);
  EXPECT_EQ(shared_of(forks(form, {600}, 0), {1}, spec), 0);
}

TEST(SharedKeys, there_are_none_where_a_query_sees_earlier_keys_by_its_place) {
  const float numbers[700] = {};
  const std::uint8_t all[700] = {};
  const PagedCase kv =
      forks(form_of(DType::kF32, KLayout::kBlocks, 64, Table::kSequences), {600, 600}, 576);
  std::vector<AttentionSpec> specs(5, causal());
  specs[0].window_left = 599;
  specs[1].slope_H = numbers;
  specs[2].mask_TS = numbers;
  specs[3].allow_TS = all;
  specs[4].alignment = Alignment::kTopLeft;
  for (const AttentionSpec& spec : specs) EXPECT_EQ(shared_of(kv, {1, 1}, spec), 0);
  specs[4].window_right = kUnlimited;
  EXPECT_EQ(shared_of(kv, {1, 1}, specs[4]), 512) << "without an end the place says nothing";
}

TEST(SharedKeys, there_are_none_where_heads_differ_or_positions_begin_late) {
  PagedForm form = form_of(DType::kF32, KLayout::kBlocks, 64, Table::kHeads);
  EXPECT_EQ(shared_of(PagedCase(form, {600, 600}), {1, 1}, causal()), 0);
  form.table = Table::kNone;
  form.Z = 640;
  EXPECT_EQ(shared_of(PagedCase(form, {600, 600}), {1, 1}, causal()), 0);
  form = form_of(DType::kF32, KLayout::kBlocks, 64, Table::kSequences);
  form.lengths_per_head = true;
  EXPECT_EQ(shared_of(PagedCase(form, {600, 600, 600, 600}), {1, 1}, causal()), 0);
  form.lengths_per_head = false;
  PagedCase late(form, {600, 600}, {10, 10});
  std::copy_n(late.table().begin(), 9, late.table().begin() + late.view().W);
  EXPECT_EQ(shared_of(late, {1, 1}, causal()), 0);
}

}  // namespace
}  // namespace quire::test

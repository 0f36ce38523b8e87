// Every option of attention, and every pair of them, through attention_backward: in f64 against the
// complex step, in f32 against naive loops.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_backward.h"
#include "tests/ops/attention/backward_case.h"

namespace quire::test {
namespace {

constexpr std::int64_t kHeads = 4, kQueries = 6, kKeys = 9;

std::vector<float> numbers(std::int64_t n, std::uint64_t what, float factor) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(factor * value_at(what, 0, 0, i, 0));
  return out;
}

/// Masks, slopes and sinks that an AttentionSpec may point to.
struct Numbers {
  Numbers() {
    for (std::size_t i = 0; i < mask.size(); ++i) {
      if (i % 5 == 3) mask[i] = -kInfinity;
      allow.push_back(static_cast<std::uint8_t>(i % 7 == 2 ? 0 : i % 3 + 1));
    }
    sink[1] = -kInfinity;  // none
  }
  std::vector<float> slope = numbers(kHeads, 21, 0.3f), sink = numbers(kHeads, 22, 1.0f),
                     mask = numbers(2 * kHeads * kQueries * kKeys, 23, 1.0f);
  std::vector<std::uint8_t> allow;
};

const Numbers& shared_numbers() {
  static const Numbers out;
  return out;
}

struct Option {
  std::string name;
  std::function<void(PagedForm&, AttentionSpec&)> set;
};

void add_mask_strides(AttentionSpec& spec) {
  spec.mask_stride = kKeys;
  spec.mask_stride_H = kQueries * kKeys;
  spec.mask_stride_B = kHeads * kQueries * kKeys;
}

const std::vector<Option>& options() {
  static const std::vector<Option> out = {
      {"top-left", [](PagedForm&, AttentionSpec& s) { s.alignment = Alignment::kTopLeft; }},
      {"window", [](PagedForm&, AttentionSpec& s) { s.window_left = 2; }},
      {"not causal", [](PagedForm&, AttentionSpec& s) { s.window_right = kUnlimited; }},
      {"some of the future", [](PagedForm&, AttentionSpec& s) { s.window_right = 2; }},
      {"scale", [](PagedForm&, AttentionSpec& s) { s.scale = 0.9; }},
      {"soft-cap", [](PagedForm&, AttentionSpec& s) { s.softcap = 1.5; }},
      {"slopes", [](PagedForm&, AttentionSpec& s) { s.slope_H = shared_numbers().slope.data(); }},
      {"sinks", [](PagedForm&, AttentionSpec& s) { s.sink_H = shared_numbers().sink.data(); }},
      {"mask",
       [](PagedForm&, AttentionSpec& s) {
         s.mask_TS = shared_numbers().mask.data();
         add_mask_strides(s);
       }},
      {"allow",
       [](PagedForm&, AttentionSpec& s) {
         s.allow_TS = shared_numbers().allow.data();
         add_mask_strides(s);
       }},
      {"one bias", [](PagedForm& f, AttentionSpec&) { f.bias_heads = 1; }},
      {"bias of kv heads", [](PagedForm& f, AttentionSpec&) { f.bias_heads = 2; }},
      {"bias of heads", [](PagedForm& f, AttentionSpec&) { f.bias_heads = kHeads; }},
      {"values of another size", [](PagedForm& f, AttentionSpec&) { f.U = 5; }},
  };
  return out;
}

/// In f64 to the last bits, in f32 to the naive loops' error.
void check(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
           const std::string& what) {
  using Complex = ref::AttentionPoint<std::complex<double>>;
  const BackwardCase at(queries, kv, spec);
  const auto point = at.point<std::complex<double>>();
  const Gradients found = at.ours_f64();
  const auto expect = [&](const char* name, std::vector<double> Gradients::*x,
                          std::vector<std::complex<double>> Complex::*z) {
    const std::vector<double> truth = ref::attention_complex_step(at.problem(), point, z);
    // Gradients of biases, slopes and sinks are f32.
    const bool pages = x == &Gradients::q_NHK || x == &Gradients::k_PZGK || x == &Gradients::v_PZGU;
    EXPECT_LE(distance(found.*x, truth), (pages ? 1e-13 : 0x1p-23) * (1 + largest(truth)))
        << what << ", " << name;
  };
  expect("dq", &Gradients::q_NHK, &Complex::q_NHK);
  expect("dk", &Gradients::k_PZGK, &Complex::k_PZGK);
  expect("dv", &Gradients::v_PZGU, &Complex::v_PZGU);
  expect("dbias", &Gradients::bias, &Complex::bias);
  expect("dslope", &Gradients::slope_H, &Complex::slope_H);
  expect("dsink", &Gradients::sink_H, &Complex::sink_H);
  expect_reference(at, what);
}

PagedForm small_form() {
  PagedForm form;
  form.Z = 4;
  form.G = 2;
  form.K = form.U = 3;
  return form;
}

const std::vector<std::int64_t> kCounts = {3, kQueries};

TEST(AttentionBackwardOptions, PAG_13_FLA_03_FLA_06_FLA_12_EveryOptionAndPairOfOptions) {
  for (std::size_t i = 0; i < options().size(); ++i) {
    for (std::size_t j = i; j < options().size(); ++j) {
      PagedForm form = small_form();
      AttentionSpec spec = causal();
      options()[i].set(form, spec);
      options()[j].set(form, spec);
      PagedCase kv(form, {kKeys, 5});
      if (form.bias_heads > 0) kv.set_bias(0, 3, form.bias_heads - 1, -kInfinity);
      const Queries queries(kCounts, kHeads, form.K);
      check(queries, kv.view(), spec, options()[i].name + ", " + options()[j].name);
    }
  }
}

TEST(AttentionBackwardOptions, PAG_20_PAG_03_TablesAndLengthsOfEveryForm) {
  for (const Table table : {Table::kNone, Table::kSequences, Table::kHeads, Table::kCsr}) {
    for (const bool per_head : {false, true}) {
      PagedForm form = small_form();
      form.table = table;
      form.bias_heads = 1;
      if (table == Table::kNone) form.Z = 12;
      form.lengths_per_head = per_head;
      const std::vector<std::int64_t> lengths = per_head ? std::vector<std::int64_t>{kKeys, 4, 0, 7}
                                                         : std::vector<std::int64_t>{kKeys, 5};
      const std::vector<std::int64_t> firsts =
          per_head ? std::vector<std::int64_t>{3, 0, 1, 70} : std::vector<std::int64_t>{100, 3};
      AttentionSpec spec = causal();
      spec.window_left = 5;
      const PagedCase kv(form, lengths, firsts);
      check(Queries(kCounts, kHeads, form.K), kv.view(), spec,
            concat("table ", static_cast<int>(table), per_head ? ", lengths of heads" : ""));
    }
  }
}

TEST(AttentionBackwardOptions,
     PAG_03_PAG_05_FLA_05_B9_B10_T15_EmptySequencesAndMoreQueriesThanKeys) {
  const PagedCase kv(small_form(), {0, 2, 5, 0, 7});
  const Queries queries({3, 5, 0, 0, 2}, kHeads, 3);
  check(queries, kv.view(), causal(), "empty sequences");
  AttentionSpec sinks = causal();
  sinks.sink_H = shared_numbers().sink.data();
  check(queries, kv.view(), sinks, "empty sequences with sinks");
}

/// Ragged, with sequences without queries, without keys and without both; one key behind a page's
/// end; slopes, sinks, soft-cap, a bias of each head and dlse; values of another size.
TEST(AttentionBackwardOptions, PAG_03_PAG_05_PAG_13_FLA_05_FLA_07_FLA_12_T22_ManyOptionsAtOnce) {
  struct Sizes {
    std::int64_t Z, K, U;
  };
  for (const Sizes& size : {Sizes{1, 1, 3}, {1, 3, 1}, {2, 4, 1}, {4, 1, 1}, {1, 5, 17}}) {
    for (const Table table : {Table::kSequences, Table::kCsr}) {
      PagedForm form = small_form();
      form.Z = size.Z;
      form.K = size.K;
      form.U = size.U;
      form.table = table;
      form.bias_heads = kHeads;
      AttentionSpec spec = causal();
      spec.slope_H = shared_numbers().slope.data();
      spec.sink_H = shared_numbers().sink.data();
      spec.softcap = 1.5;
      spec.window_left = 3;
      PagedCase kv(form, {0, 5, 2, 0, 1, 9}, {0, 0, 3, 0, 70, 1});
      kv.set_bias(1, 2, 3, -kInfinity);
      check(Queries({2, 0, 4, 0, 3, 1}, kHeads, size.K), kv.view(), spec,
            concat("pages of ", size.Z, ", keys of ", size.K, ", values of ", size.U));
    }
  }
}

TEST(AttentionBackwardOptions, PAG_08_PAG_13_FLA_07_ManyOptionsOnWideHeads) {
  for (const auto& [K, U] : {std::pair<std::int64_t, std::int64_t>{512, 20}, {3, 512}}) {
    PagedForm form = small_form();
    form.Z = 1;
    form.K = K;
    form.U = U;
    form.bias_heads = 1;
    AttentionSpec spec = causal();
    spec.slope_H = shared_numbers().slope.data();
    spec.sink_H = shared_numbers().sink.data();
    const PagedCase kv(form, {5, 0, 2});
    expect_reference(BackwardCase(Queries({2, 1, 4}, kHeads, K), kv.view(), spec),
                     concat("keys of ", K, ", values of ", U));
  }
}

TEST(AttentionBackwardOptions, PAG_11_B4_T18_GroupsOfHeads) {
  for (const std::int64_t group : {1, 3, 4, 8}) {
    PagedForm form = small_form();
    const PagedCase kv(form, {5, 6});
    check(Queries({2, 3}, form.G * group, form.K), kv.view(), causal(), concat("group ", group));
  }
}

TEST(AttentionBackwardOptions, PAG_04_T13_T14_Alignments) {
  for (const Alignment alignment : {Alignment::kTopLeft, Alignment::kBottomRight}) {
    for (const std::int64_t left : {std::int64_t{0}, std::int64_t{1}, kUnlimited}) {
      for (const std::int64_t right : {std::int64_t{0}, std::int64_t{1}, kUnlimited}) {
        AttentionSpec spec;
        spec.alignment = alignment;
        spec.window_left = left;
        spec.window_right = right;
        const PagedCase kv(small_form(), {3, 8});
        check(Queries({5, 3}, kHeads, 3), kv.view(), spec,
              concat("alignment ", static_cast<int>(alignment), ", window ", left, ", ", right));
      }
    }
  }
}

}  // namespace
}  // namespace quire::test

#include "quire/ops/attention/attention_mass.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"
#include "tests/reference/attention.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

Tensor mass_of(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
               MassOf of = MassOf::kSum) {
  return attention_mass(queries.q_NHK, queries.start_J, kv, spec, queries.attend(kv, spec).lse_NH,
                        of);
}

void put_one(std::vector<std::byte>& values, DType dtype, std::size_t i) {
  const float single = 1;
  const double wide = 1;
  const BFloat16 narrow = to_bfloat16(1.0f);
  switch (dtype) {
    case DType::kF64:
      std::memcpy(&values[8 * i], &wide, 8);
      return;
    case DType::kBF16:
      std::memcpy(&values[2 * i], &narrow, 2);
      return;
    case DType::kI8:
      values[i] = std::byte{1};
      return;
    default:
      std::memcpy(&values[4 * i], &single, 4);
  }
}

/// By the naive loops, over values that are the unit vectors of the slots.
template <class T>
std::vector<T> naive_mass(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
                          MassOf of = MassOf::kSum) {
  const std::int64_t group = queries.H / kv.G;
  std::vector<T> mass(static_cast<std::size_t>(kv.P * kv.Z * kv.G));
  for (std::size_t b = 0; b + 1 < queries.start.size(); ++b) {
    const auto sequence = static_cast<std::int64_t>(b);
    for (std::int64_t h = 0; h < queries.H; ++h) {
      const std::int64_t g = h / group;
      const std::int64_t length =
          kv.length_BG[kv.length_stride_G == 0 ? sequence : sequence * kv.G + g];
      std::vector<std::byte> unit(static_cast<std::size_t>(kv.P * kv.Z * kv.G * length) *
                                  size_of(kv.dtype));
      for (std::int64_t s = 0; s < length; ++s) {
        const std::int64_t row =
            (ref::page_of(kv, sequence, g, s / kv.Z) * kv.Z + s % kv.Z) * kv.G + g;
        put_one(unit, kv.dtype, static_cast<std::size_t>(row * length + s));
      }
      KvView units = kv;
      units.U = length;
      if (length == 0) continue;
      units.v_pages = unit.data();
      units.v_scale_PZG = nullptr;
      units.v_strides = {kv.Z * kv.G * length, kv.G * length, length};
      for (std::int32_t n = queries.start[b]; n < queries.start[b + 1]; ++n) {
        ref::Attention<T> row;
        ref::attention_row(row, queries.values.data() + (n * queries.H + h) * kv.K, sequence, h,
                           queries.H, n - queries.start[b], queries.start[b + 1] - queries.start[b],
                           units, spec);
        for (std::int64_t s = 0; s < length; ++s) {
          const std::int64_t at =
              (ref::page_of(kv, sequence, g, s / kv.Z) * kv.Z + s % kv.Z) * kv.G + g;
          T& to = mass[static_cast<std::size_t>(at)];
          const T one = row.out_NHU[static_cast<std::size_t>(s)];
          to = of == MassOf::kLargest ? std::max(to, one) : to + one;
        }
      }
    }
  }
  return mass;
}

void expect_naive(const Queries& queries, const KvView& kv, const AttentionSpec& spec,
                  const std::string& what, MassOf of = MassOf::kSum) {
  const Tensor mass = mass_of(queries, kv, spec, of);
  ASSERT_EQ(mass.shape(), (Shape{kv.P, kv.Z, kv.G})) << what;
  const auto truth = naive_mass<double>(queries, kv, spec, of);
  const auto yardstick = naive_mass<float>(queries, kv, spec, of);
  double ours = 0, naive = 0, largest = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    ours = std::max(ours, std::abs(double{mass.data<float>()[i]} - truth[i]));
    naive = std::max(naive, std::abs(double{yardstick[i]} - truth[i]));
    largest = std::max(largest, truth[i]);
  }
  // lse is rounded to f32: a few parts in ten million of the largest mass.
  EXPECT_LE(ours, 2 * naive + 0x1p-21 * largest) << what;
}

TEST(AttentionMass, HandWorked) {
  // The second query sees both keys, the first only the first.
  const TwoKeys two(2);
  const Tensor mass = attention_mass(two.q_NHK, two.start_J, two.kv, causal(),
                                     attention(two.q_NHK, two.start_J, two.kv, causal()).lse_NH);
  EXPECT_FLOAT_EQ(mass.data<float>()[0], 1.25f);
  EXPECT_FLOAT_EQ(mass.data<float>()[1], 0.75f);
  const Tensor largest =
      attention_mass(two.q_NHK, two.start_J, two.kv, causal(),
                     attention(two.q_NHK, two.start_J, two.kv, causal()).lse_NH, MassOf::kLargest);
  EXPECT_FLOAT_EQ(largest.data<float>()[0], 1);
  EXPECT_FLOAT_EQ(largest.data<float>()[1], 0.75f);
}

TEST(AttentionMass, EqualsTheNaiveLoopsInEveryForm) {
  const float slopes[] = {0.5f, 0.25f, 0.03f, 0.001f}, sinks[] = {0.5f, -2, 4, -kInfinity};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const KLayout layout : {KLayout::kRows, KLayout::kBlocks}) {
      for (const std::int64_t Z : {16, 5, 64}) {
        if (layout == KLayout::kBlocks && Z % 16 != 0) continue;
        PagedForm form;
        form.dtype = dtype;
        form.layout = layout;
        form.Z = Z;
        form.G = 2;
        form.K = 20;
        form.bias_heads = Z == 5 ? 0 : Z == 16 ? 2 : 4;
        form.table = Z == 5 ? Table::kCsr : Table::kSequences;
        const PagedCase kv(form, {150, 0, 7, 70}, {0, 3, 255, 40});
        AttentionSpec spec = causal();
        if (Z == 64) spec.window_left = 60;
        if (Z == 16) spec.softcap = 2;
        if (Z == 5) spec.slope_H = slopes;
        if (Z != 16) spec.sink_H = sinks;
        for (const MassOf of : {MassOf::kSum, MassOf::kLargest})
          expect_naive(Queries({60, 2, 0, 9}, 4, 20), kv.view(), spec,
                       concat(to_string(dtype), ", pages of ", Z,
                              layout == KLayout::kBlocks ? ", blocks" : ", rows"),
                       of);
      }
    }
  }
}

TEST(AttentionMass, AllMassesAddUpToTheRowsThatSeeAKey) {
  PagedForm form;
  form.G = 2;
  const PagedCase kv(form, {300, 4});
  // Of the second sequence's 6 queries two see nothing.
  const Tensor mass = mass_of(Queries({50, 6}, 4, 16), kv.view(), causal());
  double sum = 0;
  for (std::int64_t i = 0; i < mass.elements(); ++i) sum += double{mass.data<float>()[i]};
  EXPECT_NEAR(sum, 4 * (50 + 4), 1e-3);
}

TEST(AttentionMass, ASharedPageReceivesTheSumOverItsSequences) {
  PagedForm form;
  form.Z = 4;
  PagedCase kv(form, {8, 8});
  const std::int64_t W = kv.view().W;
  const std::int32_t shared = kv.table()[0];
  kv.table()[static_cast<std::size_t>(W)] = shared;
  const Queries both({3, 5}, 2, 16);
  expect_naive(both, kv.view(), causal(), "shared");
  expect_naive(both, kv.view(), causal(), "shared, the largest", MassOf::kLargest);
  const Tensor together = mass_of(both, kv.view(), causal());
  const Tensor alone = mass_of(Queries({3, 0}, 2, 16), kv.view(), causal());
  for (std::int64_t z = 0; z < 4; ++z)
    EXPECT_GT(together.data<float>()[shared * 4 + z], alone.data<float>()[shared * 4 + z]);
}

TEST(AttentionMass, ThreadsAndPagesChangeNoBit) {
  std::vector<std::vector<float>> sorted;
  for (const std::int64_t order : {0, 1}) {
    PagedForm form;
    form.G = 3;
    form.order = static_cast<std::uint64_t>(order);
    const PagedCase kv(form, {700, 90});
    const Queries queries({130, 20}, 6, 16);
    set_threads(1);
    const Tensor one = mass_of(queries, kv.view(), causal());
    for (const int threads : {2, 5}) {
      set_threads(threads);
      EXPECT_TRUE(same_bits(mass_of(queries, kv.view(), causal()), one)) << threads;
    }
    // The same key, wherever its page lies.
    std::vector<float> by_position;
    const KvView view = kv.view();
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t s = 0; s < view.length_BG[b]; ++s)
        by_position.push_back(
            one.data<float>()[(ref::page_of(view, b, 0, s / view.Z) * view.Z + s % view.Z) * 3]);
    sorted.push_back(by_position);
  }
  set_threads(2);
  EXPECT_EQ(sorted[0], sorted[1]);
}

TEST(AttentionMass, FLA_15_NanInUnseenKeysReachesNothing) {
  PagedForm form;
  form.bias_heads = 1;
  PagedCase clean(form, {200}), poisoned(form, {200});
  for (std::int64_t s = 3; s < 200; s += 4) {
    clean.set_bias(0, s, 0, -kInfinity);
    poisoned.set_bias(0, s, 0, -kInfinity);
    poisoned.poison(0, 0, s, true, true);
  }
  const Queries queries({40}, 2, 16);
  EXPECT_TRUE(same_bits(mass_of(queries, clean.view(), causal()),
                        mass_of(queries, poisoned.view(), causal())));
}

TEST(AttentionMass, APartOfAMergeTakesTheFinalLse) {
  PagedForm form;
  const PagedCase whole(form, {100}), left(form, {60}), right(form, {40}, {60});
  AttentionSpec spec;
  spec.window_right = kUnlimited;
  const Queries queries({5}, 2, 16);
  const Tensor lse = queries.attend(whole.view(), spec).lse_NH;
  double sum = 0;
  for (const PagedCase* part : {&left, &right}) {
    const Tensor mass = attention_mass(queries.q_NHK, queries.start_J, part->view(), spec, lse);
    for (std::int64_t i = 0; i < mass.elements(); ++i) sum += double{mass.data<float>()[i]};
  }
  EXPECT_NEAR(sum, 10, 1e-4);
}

TEST(AttentionMass, DoublePrecision) {
  PagedForm form;
  form.dtype = DType::kF64;
  form.G = 2;
  const PagedCase kv(form, {50, 7});
  const Queries queries({9, 3}, 4, 16);
  const Tensor q = queries.q_NHK.to(DType::kF64);
  const AttentionResult result = attention(q, queries.start_J, kv.view(), causal());
  const Tensor mass = attention_mass(q, queries.start_J, kv.view(), causal(), result.lse_NH);
  ASSERT_EQ(mass.dtype(), DType::kF64);
  const auto truth = naive_mass<double>(queries, kv.view(), causal());
  for (std::size_t i = 0; i < truth.size(); ++i)
    ASSERT_NEAR(mass.data<double>()[i], truth[i], 1e-13) << i;
}

TEST(AttentionMass, Errors) {
  PagedForm form;
  const PagedCase kv(form, {50});
  const Queries queries({9}, 2, 16);
  const AttentionResult result = queries.attend(kv.view(), causal());
  const auto mass = [&](const Tensor& lse) {
    return [&queries, &kv, lse] {
      (void)attention_mass(queries.q_NHK, queries.start_J, kv.view(), causal(), lse);
    };
  };
  EXPECT_THAT(mass(result.lse_NH.to(DType::kF64)),
              ThrowsMessage<ArgumentError>(HasSubstr("lse_NH is f64")));
  EXPECT_THAT(mass(result.lse_NH.slice(0, 0, 8)), ThrowsMessage<ArgumentError>(HasSubstr("N is")));
  AttentionSpec unset;
  EXPECT_THAT([&] { (void)mass_of(queries, kv.view(), unset); },
              ThrowsMessage<ArgumentError>(HasSubstr("spec.alignment is unset")));
}

}  // namespace
}  // namespace quire::test

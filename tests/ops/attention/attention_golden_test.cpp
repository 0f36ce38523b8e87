// Attention beside PyTorch in double precision (tests/goldens/attention), and the six cases that
// the paged attention of another library was worked out for.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "quire/io/safetensors.h"
#include "quire/ops/attention/attention.h"
#include "tests/ops/attention/paged_case.h"

namespace quire::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

const io::SafetensorsFile& goldens() {
  static const io::SafetensorsFile file(QUIRE_SOURCE_DIR
                                        "/tests/goldens/attention/attention.safetensors");
  return file;
}

/// One case of the file, its keys and values in pages of 3 in no order.
class Golden {
 public:
  Golden(const std::string& name, DType dtype) : name_(name) {
    q = read("q").to(dtype);
    const Tensor k = read("k").to(dtype), v = read("v").to(dtype), counts = read("lengths");
    const std::int64_t B = counts.size(1), keys = k.size(0), size = dtype == DType::kF64 ? 8 : 4;
    kv.dtype = dtype;
    kv.Z = 3;
    kv.G = k.size(1);
    kv.K = k.size(2);
    kv.U = v.size(2);
    std::vector<std::int32_t> start{0};
    std::int64_t used = 0;
    for (std::int64_t b = 0; b < B; ++b) {
      start.push_back(start.back() + static_cast<std::int32_t>(counts.data<std::int64_t>()[b]));
      lengths_.push_back(counts.data<std::int64_t>()[B + b]);
      kv.W = std::max(kv.W, (lengths_.back() + 2) / 3);
      used += (lengths_.back() + 2) / 3;
    }
    kv.P = used + 1;
    table_.assign(static_cast<std::size_t>(B * kv.W), -1);
    k_.assign(static_cast<std::size_t>(kv.P * 3 * kv.G * kv.K * size), std::byte{0xff});
    v_.assign(static_cast<std::size_t>(kv.P * 3 * kv.G * kv.U * size), std::byte{0xff});
    std::int64_t next = used, row = 0;
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t s = 0; s < lengths_[static_cast<std::size_t>(b)]; ++s, ++row) {
        if (s % 3 == 0)
          table_[static_cast<std::size_t>(b * kv.W + s / 3)] = static_cast<std::int32_t>(next--);
        const std::int64_t at = (next + 1) * 3 + s % 3, k_bytes = kv.G * kv.K * size,
                           v_bytes = kv.G * kv.U * size;
        std::memcpy(&k_[static_cast<std::size_t>(at * k_bytes)],
                    static_cast<const std::byte*>(k.data<void>()) + row * k_bytes,
                    static_cast<std::size_t>(k_bytes));
        std::memcpy(&v_[static_cast<std::size_t>(at * v_bytes)],
                    static_cast<const std::byte*>(v.data<void>()) + row * v_bytes,
                    static_cast<std::size_t>(v_bytes));
      }
    }
    EXPECT_EQ(row, keys);
    fill(start);
  }

  void expect(double tolerance) const {
    const AttentionResult result = attention(q, start_J, kv, spec);
    const Tensor out = result.out_NHU.to(DType::kF64), lse = result.lse_NH.to(DType::kF64),
                 true_out = read("out"), true_lse = read("lse");
    ASSERT_EQ(out.shape(), true_out.shape()) << name_;
    ASSERT_EQ(lse.shape(), true_lse.shape()) << name_;
    for (std::int64_t i = 0; i < out.elements(); ++i)
      ASSERT_NEAR(out.data<double>()[i], true_out.data<double>()[i], tolerance) << name_;
    for (std::int64_t i = 0; i < lse.elements(); ++i) {
      const double truth = true_lse.data<double>()[i];
      if (truth == -kInf) {
        ASSERT_EQ(lse.data<double>()[i], -kInf) << name_;
      } else {
        ASSERT_NEAR(lse.data<double>()[i], truth, tolerance * std::max(1.0, std::abs(truth)))
            << name_;
      }
    }
  }

  Tensor q, start_J;
  KvView kv;
  AttentionSpec spec;

 private:
  Tensor read(const std::string& what) const { return goldens().read(name_ + "." + what); }
  bool has(const std::string& what) const { return goldens().find(name_ + "." + what) != nullptr; }

  void fill(const std::vector<std::int32_t>& start) {
    start_J =
        Tensor::of(std::span<const std::int32_t>(start), {static_cast<std::int64_t>(start.size())});
    kv.k_pages = k_.data();
    kv.v_pages = v_.data();
    kv.k_strides = {3 * kv.G * kv.K, kv.G * kv.K, kv.K};
    kv.v_strides = {3 * kv.G * kv.U, kv.G * kv.U, kv.U};
    kv.table = table_.data();
    kv.length_BG = lengths_.data();
    const Tensor window = read("window"), numbers = read("numbers");
    const std::int64_t* w = window.data<std::int64_t>();
    spec.window_left = w[0] < 0 ? kUnlimited : w[0];
    spec.window_right = w[1] < 0 ? kUnlimited : w[1];
    spec.alignment = w[2] != 0 ? Alignment::kTopLeft : Alignment::kBottomRight;
    spec.scale = numbers.data<double>()[0];
    spec.softcap = numbers.data<double>()[1];
    if (has("slope")) spec.slope_H = (slope_ = read("slope")).data<float>();
    if (has("sink")) spec.sink_H = (sink_ = read("sink")).data<float>();
    if (has("mask")) spec.mask_TS = (mask_ = read("mask")).data<float>();
    if (has("allow")) spec.allow_TS = (allow_ = read("allow")).data<std::uint8_t>();
    const Tensor& shape = has("mask") ? mask_ : allow_;
    if (has("mask") || has("allow")) {
      spec.mask_stride = shape.size(3);
      spec.mask_stride_H = shape.size(2) * shape.size(3);
      spec.mask_stride_B = shape.size(1) * spec.mask_stride_H;
    }
  }

  std::string name_;
  std::vector<std::byte> k_, v_;
  std::vector<std::int32_t> table_;
  std::vector<std::int64_t> lengths_;
  Tensor slope_, sink_, mask_, allow_;
};

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& entry : goldens().entries()) {
    if (entry.name.ends_with(".q")) out.push_back(entry.name.substr(0, entry.name.size() - 2));
  }
  return out;
}

TEST(AttentionGolden, FLA_01_EveryOptionEqualsPyTorchInDoublePrecision) {
  EXPECT_EQ(names().size(), 19u);
  for (const std::string& name : names()) Golden(name, DType::kF64).expect(1e-13);
}

TEST(AttentionGolden, FLA_01_EveryOptionInSinglePrecision) {
  for (const std::string& name : names()) Golden(name, DType::kF32).expect(3e-6);
}

TEST(AttentionGolden, FLA_06_MasksByNumberAndByTruth) {
  for (const std::string name : {"sdpa_allow", "sdpa_mask", "mask_and_allow"})
    Golden(name, DType::kF64).expect(1e-13);
}

TEST(AttentionGolden, FLA_05_RaggedBatchesWithEmptySequences) {
  Golden("sdpa_ragged", DType::kF64).expect(1e-13);
}

TEST(AttentionGolden, FLA_07_KeysAndValuesOfDifferentSizes) {
  Golden("sdpa_latent_sizes", DType::kF64).expect(1e-13);
}

TEST(AttentionGolden, PAG_13_OptionsAlone) {
  for (const std::string name : {"window_left", "window_both", "softcap", "slope", "slope_all",
                                 "sink", "sdpa_scale", "everything"})
    Golden(name, DType::kF64).expect(1e-13);
}

/// Pages of 2 slots, head size 4, 4 pages: K[i] = sin(0.017 i), V[i] = cos(0.023 i); queries [B, H,
/// T, K] with q[i] = cos(0.01 i).
struct Published {
  std::int64_t H, G, T, S;
  std::vector<std::int32_t> table;
  enum { kTopLeft, kBottomRight, kAll } mask;
  double out, lse;
};

void expect_published(const Published& p, const std::string& name) {
  constexpr std::int64_t B = 2, K = 4, Z = 2, P = 4;
  const std::int64_t elements = P * Z * p.G * K;
  std::vector<double> k, v, q(static_cast<std::size_t>(B * p.T * p.H * K));
  for (std::int64_t i = 0; i < elements; ++i) {
    k.push_back(std::sin(0.017 * static_cast<double>(i)));
    v.push_back(std::cos(0.023 * static_cast<double>(i)));
  }
  std::int64_t i = 0;
  for (std::int64_t b = 0; b < B; ++b)
    for (std::int64_t h = 0; h < p.H; ++h)
      for (std::int64_t t = 0; t < p.T; ++t)
        for (std::int64_t x = 0; x < K; ++x, ++i)
          q[static_cast<std::size_t>(((b * p.T + t) * p.H + h) * K + x)] =
              std::cos(0.01 * static_cast<double>(i));
  const std::int64_t lengths[] = {p.S, p.S};
  KvView kv;
  kv.k_pages = k.data();
  kv.v_pages = v.data();
  kv.k_strides = kv.v_strides = {Z * p.G * K, p.G * K, K};
  kv.dtype = DType::kF64;
  kv.P = P;
  kv.Z = Z;
  kv.G = p.G;
  kv.K = kv.U = K;
  kv.table = p.table.data();
  kv.W = 2;
  kv.length_BG = lengths;
  AttentionSpec spec;
  spec.alignment = p.mask == Published::kTopLeft ? Alignment::kTopLeft : Alignment::kBottomRight;
  if (p.mask == Published::kAll) spec.window_right = kUnlimited;
  const auto T = static_cast<std::int32_t>(p.T);
  const std::int32_t start[] = {0, T, 2 * T};
  const AttentionResult result =
      attention(Tensor::of(std::span<const double>(q), {B * p.T, p.H, K}),
                Tensor::of(std::span<const std::int32_t>(start), {3}), kv, spec);
  double out = 0, lse = 0;
  for (std::int64_t n = 0; n < result.out_NHU.elements(); ++n)
    out += result.out_NHU.data<double>()[n];
  for (std::int64_t n = 0; n < result.lse_NH.elements(); ++n)
    lse += result.lse_NH.data<double>()[n];
  EXPECT_NEAR(out, p.out, 1e-9) << name;
  EXPECT_NEAR(lse, p.lse, 1e-9) << name;
}

TEST(AttentionGolden, PAG_02_PublishedSums) {
  expect_published({2, 1, 4, 4, {0, 1, 2, 3}, Published::kTopLeft, 59.984848274, 18.785259365},
                   "G1");
  expect_published({2, 1, 4, 4, {0, 1, 0, 2}, Published::kTopLeft, 62.818283883, 15.490031156},
                   "G2, a shared page");
}

TEST(AttentionGolden, PAG_11_B3_GroupedHeadsReadTheirOwnKeys) {
  expect_published({4, 2, 4, 4, {3, 1, 0, 2}, Published::kTopLeft, 81.205550810, 50.934864582},
                   "G3");
}

TEST(AttentionGolden, PAG_04_B8_BothAlignmentsOfFewQueries) {
  expect_published({4, 2, 2, 4, {3, 1, 0, 2}, Published::kTopLeft, 42.096152073, 19.264076720},
                   "G4");
  expect_published({4, 2, 2, 4, {3, 1, 0, 2}, Published::kBottomRight, 38.026787406, 35.628404427},
                   "G5");
}

TEST(AttentionGolden, PAG_02_APartialLastPage) {
  expect_published({4, 2, 3, 3, {3, 1, 0, 2}, Published::kAll, 58.460147837, 47.843746077}, "G6");
}

}  // namespace
}  // namespace quire::test

// Gradients of attention over pages beside those of PyTorch in double precision
// (tests/goldens/attention/make_gradients.py): every option, in every form that pages and tables
// may have.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/io/safetensors.h"
#include "quire/ops/attention/attention_backward.h"
#include "tests/reference/attention_backward.h"
#include "tests/support/gradient_check.h"

namespace quire::test {
namespace {

const io::SafetensorsFile& goldens() {
  static const io::SafetensorsFile file(QUIRE_SOURCE_DIR
                                        "/tests/goldens/attention/gradients.safetensors");
  return file;
}

enum class Layout { kSlotsFirst, kHeadsFirst, kBlocks };

struct Form {
  Layout layout = Layout::kSlotsFirst;
  bool csr = false;
};

template <class T>
constexpr DType kDType = std::is_same_v<T, double> ? DType::kF64 : DType::kF32;

/// One case of the file, its pages laid out in one form, with numbers of type T.
template <class T>
class Golden {
 public:
  Golden(const std::string& name, const Form& form) : name_(name) {
    read_pages(form);
    read_tables(form);
    read_options();
  }

  /// `tolerance` is relative to the largest number of each result.
  void expect(double tolerance, const std::string& what) {
    const DType dtype = kDType<T>;
    const Tensor q = read("q").to(dtype);
    const AttentionResult result = attention(q, start_J_, kv_, spec_);
    check(values(result.out_NHU), values(read("out")), tolerance, what + ", out");
    check(values(result.lse_NH), values(read("lse")), tolerance, what + ", lse");
    std::vector<T> dk(k_.size()), dv(v_.size());
    std::vector<float> dbias(count("bias")), dslope(count("slope")), dsink(count("sink"));
    AttentionGradients found;
    found.dk_pages = dk.data();
    found.dv_pages = dv.data();
    if (has("bias")) found.dbias = dbias.data();
    if (has("slope")) found.dslope_H = dslope.data();
    if (has("sink")) found.dsink_H = dsink.data();
    attention_backward(found, read("dout").to(dtype),
                       has("dlse") ? read("dlse").to(dtype) : Tensor(), q, start_J_, kv_, spec_,
                       result);
    check(values(found.dq_NHK), values(read("dq")), tolerance, what + ", dq");
    check(plain(dk, true), values(read("dk")), tolerance, what + ", dk");
    check(plain(dv, false), values(read("dv")), tolerance, what + ", dv");
    // Gradients of biases, slopes and sinks are f32, whatever the rest is.
    const double narrow = std::max(tolerance, 0x1p-22);
    if (has("bias")) check(wide(dbias), values(read("dbias")), narrow, what + ", dbias");
    if (has("slope")) check(wide(dslope), values(read("dslope")), narrow, what + ", dslope");
    if (has("sink")) check(wide(dsink), values(read("dsink")), narrow, what + ", dsink");
  }

  std::int64_t page_slots() const { return kv_.Z; }

 private:
  Tensor read(const std::string& what) const { return goldens().read(name_ + "." + what); }
  bool has(const std::string& what) const { return goldens().find(name_ + "." + what) != nullptr; }
  std::size_t count(const std::string& what) const {
    return has(what) ? static_cast<std::size_t>(read(what).elements()) : 0;
  }
  static std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

  static void check(const std::vector<double>& found, const std::vector<double>& expected,
                    double tolerance, const std::string& what) {
    ASSERT_EQ(found.size(), expected.size()) << what;
    double most = 1;
    for (const double x : expected)
      if (std::isfinite(x)) most = std::max(most, std::abs(x));
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (std::isinf(expected[i])) {
        ASSERT_EQ(found[i], expected[i]) << what << " at " << i;
      } else {
        ASSERT_LE(std::abs(found[i] - expected[i]), tolerance * most)  // (false for NaN)
            << what << " at " << i;
      }
    }
  }

  /// Calls f(place in memory, place in [P, Z, G, width]).
  template <class F>
  void each_number(bool keys, F&& f) const {
    const std::int64_t width = keys ? kv_.K : kv_.U;
    for (std::int64_t i = 0; i < kv_.P * kv_.Z * kv_.G; ++i) {
      const std::int64_t page = i / kv_.G / kv_.Z, slot = i / kv_.G % kv_.Z, g = i % kv_.G;
      for (std::int64_t x = 0; x < width; ++x)
        f(ref::flat(keys ? ref::key_index(kv_, page, slot, g, x)
                         : ref::value_index(kv_, page, slot, g, x)),
          ref::flat(i * width + x));
    }
  }
  std::vector<double> plain(const std::vector<T>& pages, bool keys) const {
    std::vector<double> out(pages.size());
    each_number(keys, [&](std::size_t from, std::size_t to) { out[to] = double{pages[from]}; });
    return out;
  }
  PageStrides strides(std::int64_t width, bool heads_first) const {
    const std::int64_t page = kv_.Z * kv_.G * width;
    return heads_first ? PageStrides{page, width, kv_.Z * width}
                       : PageStrides{page, kv_.G * width, width};
  }

  void read_pages(const Form& form) {
    const Tensor k = read("k"), v = read("v");
    kv_.dtype = kDType<T>;
    kv_.P = k.size(0);
    kv_.Z = k.size(1);
    kv_.G = k.size(2);
    kv_.K = k.size(3);
    kv_.U = v.size(3);
    kv_.k_layout = form.layout == Layout::kBlocks ? KLayout::kBlocks : KLayout::kRows;
    kv_.k_strides = strides(kv_.K, form.layout != Layout::kSlotsFirst);
    kv_.v_strides = strides(kv_.U, form.layout == Layout::kHeadsFirst);
    k_.resize(static_cast<std::size_t>(k.elements()));
    v_.resize(static_cast<std::size_t>(v.elements()));
    each_number(true, [&](std::size_t to, std::size_t from) {
      k_[to] = static_cast<T>(k.data<double>()[from]);
    });
    each_number(false, [&](std::size_t to, std::size_t from) {
      v_[to] = static_cast<T>(v.data<double>()[from]);
    });
    kv_.k_pages = k_.data();
    kv_.v_pages = v_.data();
  }

  void read_tables(const Form& form) {
    table_ = read("table");
    lengths_ = read("lengths");
    first_ = read("first");
    const std::int64_t B = table_.size(0), W = table_.size(1);
    const auto* length = lengths_.data<std::int64_t>();
    std::vector<std::int32_t> start{0};
    for (std::int64_t b = 0; b < B; ++b)
      start.push_back(start.back() + static_cast<std::int32_t>(length[b]));
    start_J_ = Tensor::of(std::span<const std::int32_t>(start), {B + 1});
    kv_.length_BG = length + B;
    kv_.first_BG = first_.data<std::int64_t>();
    kv_.table = table_.data<std::int32_t>();
    kv_.W = W;
    if (!form.csr) return;
    csr_start_.push_back(0);
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t w = 0; w * kv_.Z < length[B + b]; ++w)
        csr_.push_back(table_.data<std::int32_t>()[b * W + w]);
      csr_start_.push_back(static_cast<std::int32_t>(csr_.size()));
    }
    kv_.table = csr_.data();
    kv_.table_start_J = csr_start_.data();
  }

  void read_options() {
    const Tensor window = read("window"), numbers = read("numbers");
    const auto* w = window.data<std::int64_t>();
    spec_.window_left = w[0] < 0 ? kUnlimited : w[0];
    spec_.window_right = w[1] < 0 ? kUnlimited : w[1];
    spec_.alignment = w[2] != 0 ? Alignment::kTopLeft : Alignment::kBottomRight;
    spec_.scale = numbers.data<double>()[0];
    spec_.softcap = numbers.data<double>()[1];
    if (has("bias")) {
      bias_ = read("bias");
      kv_.bias = bias_.data<float>();
      kv_.bias_heads = bias_.size(2);
    }
    if (has("slope")) spec_.slope_H = (slope_ = read("slope")).template data<float>();
    if (has("sink")) spec_.sink_H = (sink_ = read("sink")).template data<float>();
    for (const char* what : {"mask", "allow"}) {
      if (!has(what)) continue;
      const Tensor x = read(what);
      (what[0] == 'm' ? mask_ : allow_) = x;
      const std::int64_t rows = x.size(2), S = x.size(3);
      spec_.mask_stride = rows == 1 ? 0 : S;
      spec_.mask_stride_H = x.size(1) == 1 ? 0 : rows * S;
      spec_.mask_stride_B = x.size(0) == 1 ? 0 : x.size(1) * rows * S;
    }
    if (has("mask")) spec_.mask_TS = mask_.data<float>();
    if (has("allow")) spec_.allow_TS = allow_.data<std::uint8_t>();
  }

  std::string name_;
  std::vector<T> k_, v_;
  Tensor table_, lengths_, first_, start_J_, bias_, slope_, sink_, mask_, allow_;
  std::vector<std::int32_t> csr_, csr_start_;
  KvView kv_;
  AttentionSpec spec_;
};

/// The cases whose names begin with one of these; "" is all.
template <class T>
void expect_cases(const std::vector<std::string>& beginnings, double tolerance) {
  std::size_t found = 0;
  for (const auto& entry : goldens().entries()) {
    if (!entry.name.ends_with(".q")) continue;
    const std::string name = entry.name.substr(0, entry.name.size() - 2);
    if (std::none_of(beginnings.begin(), beginnings.end(),
                     [&](const std::string& x) { return name.starts_with(x); }))
      continue;
    ++found;
    for (const Layout layout : {Layout::kSlotsFirst, Layout::kHeadsFirst, Layout::kBlocks}) {
      const bool blocks = layout == Layout::kBlocks;
      if (blocks && Golden<T>(name, {}).page_slots() % 16 != 0) continue;
      for (const bool csr : {false, true})
        Golden<T>(name, {layout, csr})
            .expect(tolerance, concat(name, ", layout ", static_cast<int>(layout),
                                      csr ? ", prefix sums" : ", rows of a table"));
    }
  }
  EXPECT_GE(found, beginnings.size());
}

// f64: both sides round sums of a few dozen terms.
constexpr double kDouble = 1e-13;

TEST(AttentionGradientGolden, PAG_08_FLA_01_EveryOptionEqualsPyTorchInDoublePrecision) {
  expect_cases<double>({""}, kDouble);
  std::size_t cases = 0;
  for (const auto& entry : goldens().entries()) cases += entry.name.ends_with(".dq") ? 1u : 0u;
  EXPECT_EQ(cases, 34u);
}

// f32: terms of size 1 in sums of up to some hundred, 2⁻²⁴ each.
TEST(AttentionGradientGolden, PAG_08_EveryOptionInSinglePrecision) {
  expect_cases<float>({""}, 3e-6);
}

TEST(AttentionGradientGolden, PAG_13_FLA_03_FLA_12_OptionsAlone) {
  expect_cases<double>({"window", "scale", "softcap", "slopes", "sinks", "bias_", "positions"},
                       kDouble);
}

TEST(AttentionGradientGolden, FLA_06_MasksByNumberAndByTruth) {
  expect_cases<double>({"mask", "allow", "one_mask", "one_allow"}, kDouble);
}

TEST(AttentionGradientGolden, PAG_03_PAG_05_FLA_05_B9_B10_T15_RaggedBatchesAndRowsThatSeeNothing) {
  expect_cases<double>({"ragged", "more_queries"}, kDouble);
}

TEST(AttentionGradientGolden, PAG_04_B8_T13_BothAlignments) {
  expect_cases<double>({"causal", "top_left", "window_both", "more_queries"}, kDouble);
}

TEST(AttentionGradientGolden, PAG_09_T20_SharedPages) {
  expect_cases<double>({"shared_pages", "a_page_twice", "pages_of_sixteen", "all_options"},
                       kDouble);
}

TEST(AttentionGradientGolden, PAG_11_FLA_07_B4_T18_GroupedHeadsAndOtherValueSizes) {
  expect_cases<double>({"grouped", "one_kv_head", "wider"}, kDouble);
}

}  // namespace
}  // namespace quire::test

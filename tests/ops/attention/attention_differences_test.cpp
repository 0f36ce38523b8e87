// One attention through three systems (tests/goldens/attention): Quire computes what is asked, and
// the verdicts that docs/attention_differences.md prints about the others are what their numbers
// say.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_backward.h"

namespace quire {
namespace {

const std::string kFolder = QUIRE_SOURCE_DIR "/tests/goldens/attention/";

std::vector<double> numbers(const Tensor& x) {
  if (x.elements() == 0) return {};
  return {x.data<double>(), x.data<double>() + x.elements()};
}

struct Case {
  explicit Case(const std::string& line) : row(Json::parse(line, "differences.jsonl")) {
    name = row.find("name")->as_string();
  }
  Tensor read(const std::string& part) const { return file().read(name + "." + part); }
  bool has(const std::string& part) const { return file().find(name + "." + part) != nullptr; }
  std::string text(const char* key) const { return row.find(key)->as_string(); }
  std::int64_t window(const char* key) const {
    const std::int64_t keys = row.find(key)->as_int();
    return keys < 0 ? kUnlimited : keys;
  }
  static const io::SafetensorsFile& file() {
    static const io::SafetensorsFile all(kFolder + "differences.safetensors");
    return all;
  }

  Json row;
  std::string name;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  std::ifstream in(kFolder + "differences.jsonl");
  for (std::string line; std::getline(in, line);) out.emplace_back(line);
  return out;
}

/// A case as the op takes it: its keys are one page.
struct Call {
  explicit Call(const Case& c) : q(c.read("q")), k(c.read("k")), v(c.read("v")), length(k.size(0)) {
    const std::int32_t start[] = {0, static_cast<std::int32_t>(q.size(0))};
    start_J = Tensor::of(std::span<const std::int32_t>(start), {2});
    kv.k_pages = k.data<void>();
    kv.v_pages = v.data<void>();
    kv.dtype = DType::kF64;
    kv.P = 1;
    kv.Z = std::max<std::int64_t>(length, 1);
    kv.G = k.size(1);
    kv.K = kv.U = k.size(2);
    kv.k_strides = kv.v_strides = {kv.Z * kv.G * kv.K, kv.G * kv.K, kv.K};
    kv.length_BG = &length;
    spec.alignment =
        c.text("alignment") == "top_left" ? Alignment::kTopLeft : Alignment::kBottomRight;
    spec.window_left = c.window("left");
    spec.window_right = c.window("right");
    if (!c.has("allow")) return;
    allow = c.read("allow");
    spec.allow_TS = allow.data<std::uint8_t>();
    spec.mask_stride = length;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  AttentionResult forward() const { return attention(q, start_J, kv, spec); }

  /// dq, dk and dv.
  std::vector<std::vector<double>> backward(const Tensor& dout) const {
    std::vector<double> dk(static_cast<std::size_t>(k.elements())), dv(dk.size());
    AttentionGradients gradients;
    gradients.dk_pages = dk.data();
    gradients.dv_pages = dv.data();
    attention_backward(gradients, dout, Tensor(), q, start_J, kv, spec, forward());
    return {numbers(gradients.dq_NHK), std::move(dk), std::move(dv)};
  }

 private:
  Tensor q, k, v, start_J, allow;
  std::int64_t length;
  KvView kv;
  AttentionSpec spec;
};

constexpr const char* kGradients[] = {"dq", "dk", "dv"};

/// Rows that are not those of `right`; and whether a NaN is among the numbers.
struct Verdict {
  std::vector<std::int64_t> rows;
  bool nan = false;
};

Verdict compare(const std::vector<double>& found, const std::vector<double>& right,
                std::int64_t rows) {
  Verdict out;
  const std::size_t width = rows == 0 ? 0 : right.size() / static_cast<std::size_t>(rows);
  for (std::int64_t row = 0; row < rows; ++row) {
    bool same = true;
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t at = static_cast<std::size_t>(row) * width + i;
      out.nan = out.nan || std::isnan(found[at]);
      same = same && std::abs(found[at] - right[at]) <= 1e-12;
    }
    if (!same) out.rows.push_back(row);
  }
  return out;
}

TEST(AttentionDifferences, B3_B7_B8_B9_B10_FLA_15_OursIsWhatIsAsked) {
  ASSERT_EQ(cases().size(), 12u);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const AttentionResult result = Call(c).forward();
    const Verdict verdict =
        compare(numbers(result.out_NHU), numbers(c.read("right")), c.read("q").size(0));
    EXPECT_TRUE(verdict.rows.empty());
    EXPECT_FALSE(verdict.nan);
    for (const double lse : numbers(result.lse_NH)) EXPECT_FALSE(std::isnan(lse));
  }
}

TEST(AttentionDifferences, B3_B7_B8_B9_B10_TheVerdictsAreWhatTheNumbersSay) {
  std::ifstream in(QUIRE_SOURCE_DIR "/docs/attention_differences.md");
  std::stringstream page;
  page << in.rdbuf();
  for (const Case& c : cases()) {
    for (const char* system : {"torch", "boostr"}) {
      SCOPED_TRACE(c.name + " in " + system);
      const std::string said = c.text(system);
      const Verdict verdict =
          compare(numbers(c.read(system)), numbers(c.read("right")), c.read("q").size(0));
      if (said == "same") {
        EXPECT_TRUE(verdict.rows.empty());
      } else if (said.substr(0, 3) == "NaN") {
        EXPECT_TRUE(verdict.nan);
      } else {
        ASSERT_FALSE(verdict.rows.empty());
        EXPECT_FALSE(verdict.nan);
        std::string rows;
        for (const std::int64_t row : verdict.rows) {
          if (!rows.empty()) rows += ", ";
          rows += std::to_string(row);
        }
        EXPECT_NE(said.find(rows + " differ"), std::string::npos) << said;
      }
    }
    const std::string cells = "| same | " + c.text("torch") + " | " + c.text("boostr") + " |";
    EXPECT_NE(page.str().find(cells), std::string::npos) << c.name;
  }
}

TEST(AttentionDifferences, B3_B7_B8_B9_B10_PAG_05_PAG_08_OurGradientsAreThoseOfWhatIsAsked) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<std::vector<double>> found = Call(c).backward(c.read("dout"));
    for (std::size_t i = 0; i < 3; ++i) {
      const Tensor right = c.read(std::string("right.") + kGradients[i]);
      ASSERT_EQ(found[i].size(), static_cast<std::size_t>(right.elements()));
      const Verdict verdict = compare(found[i], numbers(right), right.size(0));
      EXPECT_TRUE(verdict.rows.empty()) << kGradients[i];
      EXPECT_FALSE(verdict.nan) << kGradients[i];
    }
  }
}

TEST(AttentionDifferences, B7_B8_B9_B10_TheVerdictsOnGradientsAreWhatTheNumbersSay) {
  std::stringstream page;
  page << std::ifstream(QUIRE_SOURCE_DIR "/docs/attention_differences.md").rdbuf();
  for (const Case& c : cases()) {
    for (const char* system : {"torch", "boostr"}) {
      SCOPED_TRACE(c.name + " in " + system);
      std::string broken, wrong;
      for (const char* name : kGradients) {
        const Tensor right = c.read(std::string("right.") + name);
        const Verdict verdict = compare(numbers(c.read(std::string(system) + "." + name)),
                                        numbers(right), right.size(0));
        std::string& list = verdict.nan ? broken : wrong;
        if (verdict.nan || !verdict.rows.empty())
          list += (list.empty() ? "" : ", ") + std::string(name);
      }
      const std::string said = c.text((std::string(system) + "_backward").c_str());
      if (!broken.empty()) {
        EXPECT_NE(said.find("NaN in " + broken), std::string::npos) << said;
      }
      if (!wrong.empty()) {
        EXPECT_NE(said.find(wrong + " differ"), std::string::npos) << said;
      }
      EXPECT_EQ(said == "same", broken.empty() && wrong.empty()) << said;
    }
    const std::string cells =
        "| same | " + c.text("torch_backward") + " | " + c.text("boostr_backward") + " |";
    EXPECT_NE(page.str().find(cells, page.str().find("## Gradients")), std::string::npos) << c.name;
  }
}

}  // namespace
}  // namespace quire

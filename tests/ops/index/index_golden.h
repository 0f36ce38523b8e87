#pragma once

// PyTorch's own samples of the index ops (tests/goldens/index).

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>

#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "quire/ops/index/reduce.h"
#include "quire/ops/index/segment_reduce.h"
#include "quire/ops/index/sort.h"
#include "tests/ops/index/index_case.h"

namespace quire::test {

inline const std::string kFolder = QUIRE_SOURCE_DIR "/tests/goldens/index/";

struct Manifest {
  std::vector<Json> rows;
  std::map<std::string, io::SafetensorsFile> files;
};

inline Manifest& manifest() {
  static Manifest all = [] {
    Manifest out;
    std::ifstream in(kFolder + "manifest.jsonl");
    for (std::string line; std::getline(in, line);) {
      Json row = Json::parse(line, "manifest.jsonl");
      if (row.find("op") == nullptr) continue;
      if (const Json* file = row.find("file"))
        out.files.try_emplace(file->as_string(), kFolder + file->as_string());
      out.rows.push_back(std::move(row));
    }
    return out;
  }();
  return all;
}

// One line of the manifest.
class GoldenCase {
 public:
  explicit GoldenCase(const Json& row) : row_(row) {}

  std::string op() const { return row_.find("op")->as_string(); }
  std::string dtype() const { return row_.find("dtype")->as_string(); }
  std::string name() const {
    return op() + " " + dtype() + " case " + std::to_string(row_.find("case")->as_int()) + " " +
           row_.find("args")->dump();
  }
  bool unsupported() const { return row_.find("unsupported") != nullptr; }
  bool error() const { return row_.find("error") != nullptr; }
  const Json* member(const char* key) const { return row_.find(key); }

  bool has(const char* arg) const {
    const Json* found = row_.find("args")->find(arg);
    return found != nullptr && !found->is_null();
  }
  const Json& arg(const char* name) const { return *row_.find("args")->find(name); }
  Tensor tensor(const char* name) const { return read(arg(name)); }
  int dim() const { return static_cast<int>(arg("dim").as_int()); }
  std::optional<int> maybe_dim() const { return has("dim") ? std::optional(dim()) : std::nullopt; }

  Tensor read(const Json& reference) const {
    const auto& file = manifest().files.at(row_.find("file")->as_string());
    Tensor x = file.read(reference.find("tensor")->as_string());
    const Json* strides = reference.find("strides");
    return strides == nullptr ? x : strided(x, strides->as_array());
  }

 private:
  // With the sample's own strides: expanded where 0, else transposed or gapped.
  static Tensor strided(const Tensor& x, const Json::Array& strides) {
    Tensor out = x;
    bool expanded = false;
    for (int d = 0; d < x.rank(); ++d) {
      if (strides[static_cast<std::size_t>(d)].as_int() != 0 || x.size(d) < 2) continue;
      out = out.slice(d, 0, 1);
      expanded = true;
    }
    return expanded ? out.expand(x.shape()) : awkward(x);
  }

  const Json& row_;
};

inline Reduce reduce_of(const GoldenCase& c) {
  static const std::map<std::string, Reduce> kNames = {
      {"sum", Reduce::kSum},       {"add", Reduce::kSum},   {"prod", Reduce::kProd},
      {"multiply", Reduce::kProd}, {"mean", Reduce::kMean}, {"amax", Reduce::kAmax},
      {"max", Reduce::kAmax},      {"amin", Reduce::kAmin}, {"min", Reduce::kAmin}};
  return kNames.at(c.arg("reduce").as_string());
}

inline IncludeSelf include_of(const GoldenCase& c) {
  return !c.has("include_self") || c.arg("include_self").as_bool() ? IncludeSelf::kYes
                                                                   : IncludeSelf::kNo;
}

inline double alpha_of(const GoldenCase& c) {
  if (!c.has("alpha")) return 1;
  return c.arg("alpha").is_bool() ? (c.arg("alpha").as_bool() ? 1 : 0) : c.arg("alpha").as_double();
}

inline SortOrder order_of(const GoldenCase& c) {
  return c.has("descending") && c.arg("descending").as_bool() ? SortOrder::kDescending
                                                              : SortOrder::kAscending;
}

inline std::optional<std::int64_t> output_size_of(const GoldenCase& c) {
  return c.has("output_size") ? std::optional(c.arg("output_size").as_int()) : std::nullopt;
}

inline Tensor starts_of(const GoldenCase& c) {
  return c.has("offsets") ? c.tensor("offsets") : starts_of_lengths(c.tensor("lengths"));
}

// PyTorch rounds sums of f16 and bf16 after every addition in some of these ops.
inline double tolerance(DType dtype, bool gradient) {
  switch (dtype) {
    case DType::kF64:
      return 1e-12;
    case DType::kF32:
      return gradient ? 1e-4 : 1e-5;
    case DType::kF16:
      return 0x1p-8;
    case DType::kBF16:
      return 0x1p-5;
    default:
      return 0;
  }
}

inline void expect_golden(const Tensor& ours, const Tensor& theirs, double tolerance,
                          const std::string& what) {
  ASSERT_EQ(ours.shape(), theirs.shape()) << what;
  ASSERT_EQ(ours.dtype(), theirs.dtype()) << what;
  if (!is_floating(ours.dtype())) {
    ASSERT_TRUE(bytes(ours) == bytes(theirs)) << what;
    return;
  }
  const std::vector<double> a = numbers(ours), b = numbers(theirs);
  double largest = 0;
  for (const double x : b) largest = std::isfinite(x) ? std::max(largest, std::abs(x)) : largest;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(b[i]) ? std::isnan(a[i]) : a[i] == b[i]) continue;
    ASSERT_LE(std::abs(a[i] - b[i]), tolerance * std::max(std::abs(b[i]), std::min(1.0, largest)))
        << what << " at " << i << ": " << a[i] << ", PyTorch has " << b[i];
  }
}

}  // namespace quire::test

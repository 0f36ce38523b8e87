// PyTorch's own samples of the index ops (tests/goldens/index): results, gradients, and errors.

#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <string>

#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "quire/ops/index/bincount.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_add.h"
#include "quire/ops/index/index_reduce.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/repeat_interleave.h"
#include "quire/ops/index/scatter.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/ops/index/segment_reduce.h"
#include "quire/ops/index/sort.h"
#include "quire/ops/index/take_along_dim.h"
#include "tests/ops/index/index_case.h"

namespace quire {
namespace {

const std::string kFolder = QUIRE_SOURCE_DIR "/tests/goldens/index/";

struct Manifest {
  std::vector<Json> rows;
  std::map<std::string, io::SafetensorsFile> files;
};

Manifest& manifest() {
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
class Case {
 public:
  explicit Case(const Json& row) : row_(row) {}

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
    return expanded ? out.expand(x.shape()) : test::awkward(x);
  }

  const Json& row_;
};

Reduce reduce_of(const Case& c) {
  static const std::map<std::string, Reduce> kNames = {
      {"sum", Reduce::kSum},       {"add", Reduce::kSum},   {"prod", Reduce::kProd},
      {"multiply", Reduce::kProd}, {"mean", Reduce::kMean}, {"amax", Reduce::kAmax},
      {"max", Reduce::kAmax},      {"amin", Reduce::kAmin}, {"min", Reduce::kAmin}};
  return kNames.at(c.arg("reduce").as_string());
}

IncludeSelf include_of(const Case& c) {
  return !c.has("include_self") || c.arg("include_self").as_bool() ? IncludeSelf::kYes
                                                                   : IncludeSelf::kNo;
}

double alpha_of(const Case& c) {
  if (!c.has("alpha")) return 1;
  return c.arg("alpha").is_bool() ? (c.arg("alpha").as_bool() ? 1 : 0) : c.arg("alpha").as_double();
}

SortOrder order_of(const Case& c) {
  return c.has("descending") && c.arg("descending").as_bool() ? SortOrder::kDescending
                                                              : SortOrder::kAscending;
}

std::optional<std::int64_t> output_size_of(const Case& c) {
  return c.has("output_size") ? std::optional(c.arg("output_size").as_int()) : std::nullopt;
}

Tensor starts_of(const Case& c) {
  return c.has("offsets") ? c.tensor("offsets") : starts_of_lengths(c.tensor("lengths"));
}

Tensor filled(double value, DType dtype, const Shape& shape) {
  const Tensor zero = Tensor::zeros({1}, DType::kI64);
  const Tensor one = scatter(Tensor::zeros({1}, dtype), 0, zero, value);
  return shape.empty() ? one.view({}) : one.view(Shape(shape.size(), 1)).expand(shape);
}

std::vector<Tensor> forward(const Case& c) {
  const std::string op = c.op().substr(0, c.op().find('.'));
  const Tensor input = c.tensor("input");
  if (op == "gather") return {gather(input, c.dim(), c.tensor("index"))};
  if (op == "index_select") return {index_select(input, c.dim(), c.tensor("index"))};
  if (op == "take_along_dim") return {take_along_dim(input, c.tensor("index"), c.maybe_dim())};
  if (op == "scatter_add") return {scatter_add(input, c.dim(), c.tensor("index"), c.tensor("src"))};
  if (op == "scatter" && !c.has("reduce") && !c.arg("src").is_object())
    return {scatter(input, c.dim(), c.tensor("index"), c.arg("src").as_double())};
  if (op == "scatter" && !c.has("reduce"))
    return {scatter(input, c.dim(), c.tensor("index"), c.tensor("src"))};
  if (op == "scatter" || op == "scatter_reduce") {
    const Tensor index = c.tensor("index");
    const Tensor src = c.arg("src").is_object()
                           ? c.tensor("src")
                           : filled(c.arg("src").as_double(), input.dtype(), index.shape());
    return {scatter_reduce(input, c.dim(), c.tensor("index"), src, reduce_of(c), include_of(c))};
  }
  if (op == "index_add")
    return {index_add(input, c.dim(), c.tensor("index"), c.tensor("src"), alpha_of(c))};
  if (op == "index_reduce")
    return {index_reduce(input, c.dim(), c.tensor("index"), c.tensor("src"), reduce_of(c),
                         include_of(c))};
  if (op == "repeat_interleave" && !c.has("repeats")) return {repeat_interleave_index(input)};
  if (op == "repeat_interleave" && c.arg("repeats").is_int())
    return {repeat_interleave(input, c.arg("repeats").as_int(), c.maybe_dim(), output_size_of(c))};
  if (op == "repeat_interleave")
    return {repeat_interleave(input, c.tensor("repeats"), c.maybe_dim(), output_size_of(c))};
  if (op == "bincount" && c.has("weights"))
    return {bincount(input, c.tensor("weights"), c.arg("minlength").as_int())};
  if (op == "bincount") return {bincount(input, c.arg("minlength").as_int())};
  if (op == "sort") {
    const Sorted sorted = sort(input, c.maybe_dim().value_or(-1), order_of(c));
    return {sorted.values, sorted.index};
  }
  if (op == "argsort") return {argsort(input, c.maybe_dim().value_or(-1), order_of(c))};
  return {segment_reduce(input, starts_of(c), reduce_of(c), c.arg("initial").as_double(),
                         static_cast<int>(c.arg("axis").as_int()))};
}

using Grads = std::map<std::string, Tensor>;

Grads scatter_gradients(const Case& c, const std::string& op, const Tensor& dy,
                        const Tensor& input) {
  const Tensor index = c.tensor("index");
  if (!c.arg("src").is_object())
    return {{"input", scatter_backward(dy, c.dim(), index, index.shape()).dself}};
  const Tensor src = c.tensor("src");
  if (op == "scatter_reduce") {
    const ScatterReduceGrads grads = scatter_reduce_backward(
        dy, input, c.dim(), index, src, {.reduce = reduce_of(c), .include = include_of(c)});
    return {{"input", grads.dself}, {"src", grads.dsrc}};
  }
  const ScatterGrads grads = op == "scatter"
                                 ? scatter_backward(dy, c.dim(), index, src.shape())
                                 : scatter_add_backward(dy, c.dim(), index, src.shape());
  return {{"input", grads.dself}, {"src", grads.dsrc}};
}

Grads backward(const Case& c, const std::vector<Tensor>& outputs) {
  const std::string op = c.op().substr(0, c.op().find('.'));
  const Tensor dy = c.read(*c.member("dy")), input = c.tensor("input");
  if (op == "gather")
    return {{"input", gather_backward(dy, input.shape(), c.dim(), c.tensor("index"))}};
  if (op == "index_select")
    return {{"input", index_select_backward(dy, input.shape(), c.dim(), c.tensor("index"))}};
  if (op == "take_along_dim")
    return {
        {"input", take_along_dim_backward(dy, input.shape(), c.tensor("index"), c.maybe_dim())}};
  if (op == "sort") return {{"input", sort_backward(dy, c.maybe_dim().value_or(-1), outputs[1])}};
  if (op == "segment_reduce")
    return {{"input", segment_reduce_backward(dy, input, starts_of(c), reduce_of(c),
                                              c.arg("initial").as_double(),
                                              static_cast<int>(c.arg("axis").as_int()))}};
  if (op == "repeat_interleave" && c.arg("repeats").is_int())
    return {{"input", repeat_interleave_backward(dy, input.shape(), c.arg("repeats").as_int(),
                                                 c.maybe_dim())}};
  if (op == "repeat_interleave")
    return {{"input",
             repeat_interleave_backward(dy, input.shape(), c.tensor("repeats"), c.maybe_dim())}};
  if (op == "index_add") {
    const IndexAddGrads grads = index_add_backward(dy, c.dim(), c.tensor("index"), alpha_of(c));
    return {{"input", grads.dself}, {"src", grads.dsource}};
  }
  if (op == "index_reduce") {
    const ScatterReduceGrads grads =
        index_reduce_backward(dy, input, c.dim(), c.tensor("index"), c.tensor("src"),
                              {.reduce = reduce_of(c), .include = include_of(c)});
    return {{"input", grads.dself}, {"src", grads.dsrc}};
  }
  return scatter_gradients(c, op, dy, input);
}

// PyTorch rounds sums of f16 and bf16 after every addition in some of these ops.
double tolerance(DType dtype, bool gradient) {
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

void expect_close(const Tensor& ours, const Tensor& theirs, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(ours.shape(), theirs.shape()) << what;
  ASSERT_EQ(ours.dtype(), theirs.dtype()) << what;
  if (!is_floating(ours.dtype())) {
    ASSERT_TRUE(test::bytes(ours) == test::bytes(theirs)) << what;
    return;
  }
  const std::vector<double> a = test::numbers(ours), b = test::numbers(theirs);
  double largest = 0;
  for (const double x : b) largest = std::isfinite(x) ? std::max(largest, std::abs(x)) : largest;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(b[i]) ? std::isnan(a[i]) : a[i] == b[i]) continue;
    ASSERT_LE(std::abs(a[i] - b[i]), tolerance * std::max(std::abs(b[i]), std::min(1.0, largest)))
        << what << " at " << i << ": " << a[i] << ", PyTorch has " << b[i];
  }
}

void check(const std::vector<std::string>& families, std::size_t least) {
  std::size_t checked = 0, gradients = 0;
  for (const Json& row : manifest().rows) {
    const Case c(row);
    const std::string family = c.op().substr(0, c.op().find('.'));
    if (std::find(families.begin(), families.end(), family) == families.end()) continue;
    if (c.unsupported() || c.error()) continue;
    std::vector<Tensor> out;
    ASSERT_NO_THROW(out = forward(c)) << c.name();
    const auto& expected = c.member("outputs")->as_array();
    ASSERT_EQ(out.size(), expected.size()) << c.name();
    for (std::size_t i = 0; i < out.size(); ++i) {
      const Tensor theirs = c.read(expected[i]);
      ASSERT_NO_FATAL_FAILURE(
          expect_close(out[i], theirs, tolerance(out[i].dtype(), false), c.name()));
    }
    ++checked;
    if (c.member("grads") == nullptr || c.member("dy") == nullptr) continue;
    Grads grads;
    ASSERT_NO_THROW(grads = backward(c, out)) << c.name();
    for (const auto& [name, reference] : c.member("grads")->as_object()) {
      ASSERT_TRUE(grads.count(name) == 1) << c.name() << " d" << name;
      const Tensor theirs = c.read(reference);
      ASSERT_NO_FATAL_FAILURE(expect_close(grads.at(name), theirs, tolerance(theirs.dtype(), true),
                                           c.name() + " d" + name));
      ++gradients;
    }
  }
  EXPECT_GE(checked, least);
  std::printf("%zu results, %zu gradients\n", checked, gradients);
}

TEST(IndexGolden, IDX_03_IDX_13_IDX_15_ScatterReduceOfPyTorch) { check({"scatter_reduce"}, 600); }
TEST(IndexGolden, IDX_19_GatherAndScatterOfPyTorch) {
  check({"gather", "scatter", "scatter_add"}, 250);
}
TEST(IndexGolden, IDX_19_SlicesOfPyTorch) {
  check({"index_select", "index_add", "index_reduce", "take_along_dim"}, 400);
}
TEST(IndexGolden, IDX_20_RepeatInterleaveOfPyTorch) { check({"repeat_interleave"}, 50); }
TEST(IndexGolden, SortOfPyTorch) { check({"sort", "argsort"}, 400); }
TEST(IndexGolden, SegmentReduceOfPyTorch) { check({"segment_reduce"}, 320); }
TEST(IndexGolden, OTH_02_BincountOfPyTorch) { check({"bincount"}, 100); }

// What PyTorch refuses on the CPU is refused here by the same split of dtypes.
TEST(IndexGolden, IDX_13_TheSameDtypesAreRefused) {
  int refused = 0;
  const std::map<std::string, DType> dtypes = {{"bool", DType::kBool}, {"u8", DType::kU8},
                                               {"i8", DType::kI8},     {"i16", DType::kI16},
                                               {"i32", DType::kI32},   {"i64", DType::kI64}};
  const std::map<std::string, Reduce> reduces = {{"prod", Reduce::kProd},
                                                 {"mean", Reduce::kMean},
                                                 {"amax", Reduce::kAmax},
                                                 {"amin", Reduce::kAmin}};
  for (const Json& row : manifest().rows) {
    const Case c(row);
    if (!c.unsupported()) continue;
    const Tensor x = Tensor::zeros({3}, dtypes.at(c.dtype())),
                 index = Tensor::zeros({3}, DType::kI64);
    const std::string family = c.op().substr(0, c.op().find('.'));
    const std::string kind = c.op().substr(c.op().find('.') + 1);
    const Tensor starts = test::ints({0, 3}, {2});
    if (family == "segment_reduce") {
      EXPECT_THROW(segment_reduce(x, starts, Reduce::kSum), ArgumentError) << c.op() << c.dtype();
    } else if (family == "index_reduce") {
      EXPECT_THROW(index_reduce(x, 0, index, x, reduces.at(kind)), ArgumentError) << c.op();
    } else {
      ASSERT_EQ(family, "scatter_reduce");
      EXPECT_THROW(scatter_reduce(x, 0, index, x, reduces.at(kind)), ArgumentError) << c.op();
    }
    ++refused;
  }
  EXPECT_GE(refused, 17);
}

// Each of PyTorch's error cases is an ArgumentError here, and an output argument keeps its bits.
TEST(IndexGolden, IDX_07_ErrorsOfPyTorch) {
  int errors = 0;
  for (const Json& row : manifest().rows) {
    const Case c(row);
    if (c.unsupported() || !c.error()) continue;
    ++errors;
    if (!c.has("out")) {
      EXPECT_THROW(forward(c), ArgumentError) << c.name();
      continue;
    }
    const Json* shares = c.member("shares");
    const Tensor input = c.tensor("input");
    Tensor index = c.tensor("index");
    Tensor out = c.tensor("out");
    if (shares != nullptr && shares->find("out")->as_string() == "input") out = input;
    if (shares != nullptr && shares->find("out")->as_string() == "index") out = index;
    const std::vector<std::byte> before = test::bytes(out);
    if (c.op() == "gather") {
      EXPECT_THROW(gather_out(out, input, c.dim(), index), ArgumentError) << c.name();
    } else {
      EXPECT_THROW(index_select_out(out, input, c.dim(), index), ArgumentError) << c.name();
    }
    EXPECT_TRUE(test::bytes(out) == before) << c.name();
  }
  EXPECT_GE(errors, 28);
}

}  // namespace
}  // namespace quire

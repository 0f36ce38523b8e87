// PyTorch's own samples of the index ops (tests/goldens/index): results, gradients, and errors.

#include "tests/ops/index/index_golden.h"

#include <algorithm>
#include <map>
#include <string>

#include "quire/ops/index/bincount.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_add.h"
#include "quire/ops/index/index_reduce.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/repeat_interleave.h"
#include "quire/ops/index/scatter.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/ops/index/take_along_dim.h"

namespace quire {
namespace {

using test::alpha_of;
using Case = test::GoldenCase;
using test::expect_golden;
using test::include_of;
using test::manifest;
using test::order_of;
using test::output_size_of;
using test::reduce_of;
using test::starts_of;
using test::tolerance;

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
          expect_golden(out[i], theirs, tolerance(out[i].dtype(), false), c.name()));
    }
    ++checked;
    if (c.member("grads") == nullptr || c.member("dy") == nullptr) continue;
    Grads grads;
    ASSERT_NO_THROW(grads = backward(c, out)) << c.name();
    for (const auto& [name, reference] : c.member("grads")->as_object()) {
      ASSERT_TRUE(grads.count(name) == 1) << c.name() << " d" << name;
      const Tensor theirs = c.read(reference);
      ASSERT_NO_FATAL_FAILURE(expect_golden(grads.at(name), theirs, tolerance(theirs.dtype(), true),
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

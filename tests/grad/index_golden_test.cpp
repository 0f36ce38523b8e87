// The gradients of PyTorch's own samples (tests/goldens/index), through the tape.

#include "tests/ops/index/index_golden.h"

#include <algorithm>

#include "quire/grad/index.h"
#include "quire/grad/tape.h"

namespace quire::grad {
namespace {

using test::GoldenCase;
using test::include_of;
using test::reduce_of;

std::string family_of(const GoldenCase& c) { return c.op().substr(0, c.op().find('.')); }

// The op of a sample, as a function of its inputs: `input`, then `src` where the sample has one.
Var call(const GoldenCase& c, const Var& input, const Var& src) {
  const std::string op = family_of(c);
  if (op == "sort") return sort(input, c.maybe_dim().value_or(-1), test::order_of(c)).values;
  if (op == "segment_reduce")
    return segment_reduce(input, test::starts_of(c), reduce_of(c), c.arg("initial").as_double(),
                          static_cast<int>(c.arg("axis").as_int()));
  if (op == "repeat_interleave" && c.arg("repeats").is_int())
    return repeat_interleave(input, c.arg("repeats").as_int(), c.maybe_dim());
  if (op == "repeat_interleave")
    return repeat_interleave(input, c.tensor("repeats"), c.maybe_dim());
  const Tensor index = c.tensor("index");
  if (op == "take_along_dim") return take_along_dim(input, index, c.maybe_dim());
  if (op == "gather") return gather(input, c.dim(), index);
  if (op == "index_select") return index_select(input, c.dim(), index);
  if (op == "scatter") return scatter(input, c.dim(), index, src);
  if (op == "scatter_add") return scatter_add(input, c.dim(), index, src);
  if (op == "index_add") return index_add(input, c.dim(), index, src, test::alpha_of(c));
  if (op == "index_reduce")
    return index_reduce(input, c.dim(), index, src, reduce_of(c), include_of(c));
  return scatter_reduce(input, c.dim(), index, src, reduce_of(c), include_of(c));
}

// Samples whose src is one number go through the ops alone.
bool on_the_tape(const GoldenCase& c) {
  const bool differentiable =
      !c.unsupported() && !c.error() && c.member("grads") != nullptr && c.member("dy") != nullptr;
  return differentiable && (!c.has("src") || c.arg("src").is_object()) &&
         !(family_of(c) == "scatter" && c.has("reduce"));
}

void check(const std::vector<std::string>& families, std::size_t least) {
  std::size_t checked = 0;
  for (const Json& row : test::manifest().rows) {
    const GoldenCase c(row);
    if (std::find(families.begin(), families.end(), family_of(c)) == families.end()) continue;
    if (!on_the_tape(c)) continue;
    const Var input(c.tensor("input"), Needs::kGradient);
    const Var src = c.has("src") ? Var(c.tensor("src"), Needs::kGradient) : Var();
    backward(call(c, input, src), c.read(*c.member("dy")));
    for (const auto& [name, reference] : c.member("grads")->as_object()) {
      const Tensor theirs = c.read(reference);
      const Var& var = name == "input" ? input : src;
      ASSERT_TRUE(var.has_gradient()) << c.name() << " d" << name;
      ASSERT_NO_FATAL_FAILURE(test::expect_golden(
          var.gradient(), theirs, test::tolerance(theirs.dtype(), true), c.name() + " d" + name));
      ++checked;
    }
  }
  EXPECT_GE(checked, least);
  std::printf("%zu gradients\n", checked);
}

TEST(GradIndexGolden, IDX_15_ScatterReduceOfPyTorch) { check({"scatter_reduce"}, 500); }
TEST(GradIndexGolden, IDX_18_GathersAndScattersOfPyTorch) {
  check({"gather", "scatter", "scatter_add"}, 100);
}
TEST(GradIndexGolden, IDX_19_SlicesOfPyTorch) {
  check({"index_select", "index_add", "index_reduce", "take_along_dim"}, 300);
}
TEST(GradIndexGolden, IDX_20_RepeatInterleaveOfPyTorch) { check({"repeat_interleave"}, 25); }
TEST(GradIndexGolden, SortAndSegmentsOfPyTorch) { check({"sort", "segment_reduce"}, 350); }

}  // namespace
}  // namespace quire::grad

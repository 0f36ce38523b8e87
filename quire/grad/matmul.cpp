#include "quire/grad/matmul.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"
#include "quire/grad/views.h"
#include "quire/ops/matmul/dense.h"
#include "quire/ops/matmul/embedding.h"
#include "quire/ops/matmul/linear.h"

namespace quire::grad {

namespace {

Want want(const Var& input) { return input.needs_gradient() ? Want::kYes : Want::kNo; }

// `factor` as backward sees it: a factor is read for the other one's gradient alone. Where nobody
// wants that, its shape is enough, and its memory is neither kept nor guarded.
Tensor kept(const Var& factor, const Var& other) {
  if (other.needs_gradient() || factor.shape().empty()) return factor.value();
  return Tensor::zeros(Shape(factor.shape().size(), 1), factor.dtype()).expand(factor.shape());
}

}  // namespace

Var matmul(const Var& a, const Var& b) {
  Tensor out = quire::matmul(a.value(), b.value());
  if (!recording(a, b)) return Var(std::move(out));
  return record_once("matmul", std::move(out), {a, b},
                     [want_da = want(a), want_db = want(b), a = Saved("matmul", kept(a, b)),
                      b = Saved("matmul", kept(b, a))](const Tensor& dout) {
                       const MatmulGradients both =
                           matmul_backward(dout, a.tensor(), b.tensor(), want_da, want_db);
                       return Tensors{both.da, both.db};
                     });
}

namespace {

Var record_linear(const Var& x, const Var& weight_MD, const Var& bias_M, Tensor out) {
  const LinearWants wants{want(x), want(weight_MD), want(bias_M)};
  return record_once("linear", std::move(out), {x, weight_MD, bias_M},
                     [wants, x = Saved("linear", kept(x, weight_MD)),
                      weight = Saved("linear", kept(weight_MD, x))](const Tensor& dout) {
                       const LinearGradients all =
                           linear_backward(dout, x.tensor(), weight.tensor(), wants);
                       return Tensors{all.dx, all.dweight_MD, all.dbias_M};
                     });
}

}  // namespace

Var linear(const Var& x, const Var& weight_MD) {
  Tensor out = quire::linear(x.value(), weight_MD.value());
  if (!recording(x, weight_MD)) return Var(std::move(out));
  return record_linear(x, weight_MD, Var(), std::move(out));
}

Var linear(const Var& x, const Var& weight_MD, const Var& bias_M) {
  Tensor out = quire::linear(x.value(), weight_MD.value(), bias_M.value());
  if (!recording(x, weight_MD, bias_M)) return Var(std::move(out));
  return record_linear(x, weight_MD, bias_M, std::move(out));
}

Var embedding(const Tensor& ids, const Var& table_VD) {
  Tensor out = quire::embedding(ids, table_VD.value());
  if (!recording(table_VD)) return Var(std::move(out));
  return record_once(
      "embedding", std::move(out), {table_VD},
      [ids = Saved("embedding", ids), V = table_VD.value().size(0)](const Tensor& dout) {
        return Tensors{embedding_backward(dout, ids.tensor(), V)};
      });
}

}  // namespace quire::grad

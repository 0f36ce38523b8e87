#include "quire/ops/matmul/matmul.h"

#include "quire/base/error.h"
#include "quire/ops/matmul/matmul_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

bool has_integers(const Weight& weight) { return info(weight.type()).block > 1; }

int terms_of(MatmulMode mode) {
  return mode == MatmulMode::kExact ? 0 : mode == MatmulMode::kFast ? 1 : 2;
}

}  // namespace

Tensor matmul(const Tensor& x_ND, const Weight& weight, MatmulMode mode) {
  const Weight* one[] = {&weight};
  return matmul_each(x_ND, one, mode)[0];
}

std::vector<Tensor> matmul_each(const Tensor& x_ND, std::span<const Weight* const> weights,
                                MatmulMode mode) {
  const Dims dims = QUIRE_DIMS(x_ND);
  QUIRE_CHECK(x_ND.dtype() == DType::kF32, "x_ND is ", to_string(x_ND.dtype()),
              "; matmul takes f32");
  const Tensor x = x_ND.contiguous_copy();
  std::vector<Tensor> out;
  std::vector<kernel::MatmulWeight> plain;
  bool integers = false;
  for (const Weight* weight : weights) {
    QUIRE_CHECK(weight->columns() == dims['D'], "x_ND: D is ", dims['D'],
                ", but the weight has D = ", weight->columns());
    out.push_back(Tensor::empty({dims['N'], weight->rows()}, DType::kF32));
    plain.push_back({static_cast<int>(weight->type()), weight->panels(), weight->rows(),
                     weight->columns(), out.back().mutable_data<float>()});
    integers = integers || has_integers(*weight);
  }
  if (dims['N'] == 0) return out;
  kernel::matmul_cpu({plain.data(), static_cast<int>(plain.size()), x.data<float>(), dims['N'],
                      dims['D'], integers ? terms_of(mode) : 0});
  return out;
}

}  // namespace quire

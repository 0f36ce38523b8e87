#include "quire/ops/merge/nearest_anchor.h"

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/merge/nearest_anchor_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

template <class T>
NearestAnchor nearest(const KvView& kv, std::int64_t b, std::int64_t S, const Tensor& anchors) {
  const Tensor plain = anchors.contiguous_copy();
  NearestAnchor out{Tensor::empty({kv.G, S}, DType::kI64), Tensor::empty({kv.G, S}, dtype_of<T>)};
  Tensor unit = Tensor::empty(plain.shape(), dtype_of<T>);
  kernel::nearest_anchor_cpu(kernel::NearestAnchorArgs<T>{
      kv, b, S, plain.size(1), plain.data<T>(), unit.mutable_data<T>(),
      out.group_GS.mutable_data<std::int64_t>(), out.cosine_GS.mutable_data<T>()});
  return out;
}

}  // namespace

NearestAnchor nearest_anchor(const KvView& kv, std::int64_t b, const Tensor& anchor_GMK) {
  const Dims dims = QUIRE_DIMS(anchor_GMK);
  const std::int64_t S = checked_keys(kv, b);
  const DType dtype = kv.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  QUIRE_CHECK(anchor_GMK.dtype() == dtype, "anchor_GMK is ", to_string(anchor_GMK.dtype()),
              ", but keys of ", to_string(kv.dtype), " need ", to_string(dtype));
  QUIRE_CHECK(dims['G'] == kv.G && dims['K'] == kv.K, "anchor_GMK is ",
              to_string(anchor_GMK.shape()), ", but kv has G = ", kv.G, " and K = ", kv.K);
  // Their numbers are kept as floats while the best is searched.
  QUIRE_CHECK(dims['M'] >= 1 && dims['M'] <= (std::int64_t{1} << 24),
              "anchor_GMK has M = ", dims['M'], "; it may be 1 to 2^24");
  QUIRE_CHECK(dtype == DType::kF32 || kv.k_layout == KLayout::kRows, "kv: keys of f64 lie in rows");
  return dtype == DType::kF64 ? nearest<double>(kv, b, S, anchor_GMK)
                              : nearest<float>(kv, b, S, anchor_GMK);
}

}  // namespace quire

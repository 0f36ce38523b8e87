#include "quire/ops/merge/group_mean.h"

#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/merge/combine_groups_kernel.h"
#include "quire/ops/merge/group_mean_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

/// Arguments as contiguous tensors, which the kernel's pointers need to live.
struct Plain {
  Tensor group_GS;
  std::optional<Tensor> weight_GS, count_GS, cosine_GS;
};

template <class T>
void check_numbers(const Tensor& x, const char* name, T least) {
  const T* at = x.data<T>();
  for (std::int64_t i = 0; i < x.elements(); ++i)
    QUIRE_CHECK(at[i] >= least && at[i] <= std::numeric_limits<T>::max(), name, " has ", at[i],
                " at ", i);
}

std::optional<Tensor> checked_numbers(const std::optional<Tensor>& x_GS, const char* name,
                                      const Shape& shape, DType dtype, double least) {
  if (!x_GS) return std::nullopt;
  QUIRE_CHECK(x_GS->dtype() == dtype && x_GS->shape() == shape, name, " is ",
              to_string(x_GS->dtype()), " ", to_string(x_GS->shape()), ", expected ",
              to_string(dtype), " ", to_string(shape));
  const Tensor plain = x_GS->contiguous_copy();
  if (dtype == DType::kF64) {
    check_numbers<double>(plain, name, least);
  } else {
    check_numbers<float>(plain, name, static_cast<float>(least));
  }
  return plain;
}

DType computed(const KvView& kv) { return kv.dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

Plain checked(const KvView& kv, std::int64_t b, const Tensor& group_GS, std::int64_t M,
              const KeyNumbers& numbers, const GroupMeanSpec& spec) {
  const std::int64_t S = checked_keys(kv, b);
  const Shape shape{kv.G, S};
  QUIRE_CHECK(group_GS.dtype() == DType::kI64 && group_GS.shape() == shape, "group_GS is ",
              to_string(group_GS.dtype()), " ", to_string(group_GS.shape()), ", expected i64 ",
              to_string(shape));
  QUIRE_CHECK(M >= 0 && M <= (std::int64_t{1} << 40), "M is ", M);
  QUIRE_CHECK(spec.temperature > 0 && std::isfinite(spec.temperature), "spec.temperature is ",
              spec.temperature, "; it must be positive");
  QUIRE_CHECK(spec.weights == GroupWeights::kMass || numbers.cosine_GS.has_value(),
              "weights by cosine need numbers.cosine_GS");
  QUIRE_CHECK(kv.dtype != DType::kF64 || kv.k_layout == KLayout::kRows,
              "kv: keys of f64 lie in rows");
  const DType dtype = computed(kv);
  Plain out{group_GS.contiguous_copy(),
            checked_numbers(numbers.weight_GS, "weight_GS", shape, dtype, 0),
            checked_numbers(numbers.count_GS, "count_GS", shape, dtype, 0),
            spec.weights == GroupWeights::kMass
                ? std::nullopt
                : checked_numbers(numbers.cosine_GS, "cosine_GS", shape, dtype, -2)};
  const auto* group = out.group_GS.data<std::int64_t>();
  for (std::int64_t i = 0; i < kv.G * S; ++i)
    QUIRE_CHECK(group[i] >= -1 && group[i] < M, "group_GS has ", group[i], " at ", i,
                "; it may be -1 to ", M - 1);
  return out;
}

template <class T>
const T* data_of(const std::optional<Tensor>& x) {
  return x ? x->data<T>() : nullptr;
}

template <class T>
kernel::KeyGroups<T> keys_of(const KvView& kv, std::int64_t b, std::int64_t M, const Plain& plain,
                             const GroupMeanSpec& spec) {
  return {kv,
          b,
          plain.group_GS.size(1),
          M,
          plain.group_GS.data<std::int64_t>(),
          data_of<T>(plain.weight_GS),
          data_of<T>(plain.count_GS),
          data_of<T>(plain.cosine_GS),
          spec.temperature,
          spec.bias == GroupBias::kLogCount};
}

MergedKeys empty_groups(std::int64_t G, std::int64_t M, std::int64_t K, std::int64_t U,
                        DType dtype) {
  return {Tensor::zeros({G, M, K}, dtype), Tensor::zeros({G, M, U}, dtype),
          Tensor::empty({G, M}, dtype),    Tensor::empty({G, M}, dtype),
          Tensor::empty({G, M}, dtype),    Tensor::empty({G, M}, dtype)};
}

template <class T>
MergedKeys merged(const KvView& kv, std::int64_t b, std::int64_t M, const Plain& plain,
                  const GroupMeanSpec& spec) {
  MergedKeys out = empty_groups(kv.G, M, kv.K, kv.U, dtype_of<T>);
  Tensor share_GS = Tensor::empty(plain.group_GS.shape(), dtype_of<T>);
  kernel::group_mean_cpu(
      keys_of<T>(kv, b, M, plain, spec),
      {out.k_GMK.mutable_data<T>(), out.v_GMU.mutable_data<T>(), out.weight_GM.mutable_data<T>(),
       out.peak_GM.mutable_data<T>(), out.count_GM.mutable_data<T>(), out.bias_GM.mutable_data<T>(),
       share_GS.mutable_data<T>()});
  return out;
}

MergedKeys plain_groups(const MergedKeys& from) {
  return {from.k_GMK.contiguous_copy(),     from.v_GMU.contiguous_copy(),
          from.weight_GM.contiguous_copy(), from.peak_GM.contiguous_copy(),
          from.count_GM.contiguous_copy(),  from.bias_GM.contiguous_copy()};
}

Dims dims_of(const MergedKeys& groups) {
  const Tensor &k_GMK = groups.k_GMK, &v_GMU = groups.v_GMU, &weight_GM = groups.weight_GM,
               &peak_GM = groups.peak_GM, &count_GM = groups.count_GM, &bias_GM = groups.bias_GM;
  return QUIRE_DIMS(k_GMK, v_GMU, weight_GM, peak_GM, count_GM, bias_GM);
}

template <class T>
kernel::Groups<const T> read(const MergedKeys& from) {
  return {from.k_GMK.data<T>(),   from.v_GMU.data<T>(),    from.weight_GM.data<T>(),
          from.peak_GM.data<T>(), from.count_GM.data<T>(), from.bias_GM.data<T>()};
}

template <class T>
void combine(MergedKeys& out, const MergedKeys& a, const MergedKeys& b, bool log_count) {
  const std::int64_t rows = a.weight_GM.elements();
  kernel::combine_groups_cpu(
      kernel::CombineGroups<T>{read<T>(a),
                               read<T>(b),
                               {out.k_GMK.mutable_data<T>(), out.v_GMU.mutable_data<T>(),
                                out.weight_GM.mutable_data<T>(), out.peak_GM.mutable_data<T>(),
                                out.count_GM.mutable_data<T>(), out.bias_GM.mutable_data<T>()},
                               rows,
                               a.k_GMK.size(2),
                               a.v_GMU.size(2),
                               log_count});
}

template <class T>
GroupMeanGradients backward(const Tensor& dk_GMK, const Tensor& dv_GMU, const Tensor& dbias_GM,
                            const kernel::KeyGroups<T>& keys, const MergedKeys& groups) {
  const std::int64_t G = keys.kv.G, S = keys.S;
  GroupMeanGradients out{Tensor::empty({G, S, keys.kv.K}, dtype_of<T>),
                         Tensor::empty({G, S, keys.kv.U}, dtype_of<T>),
                         Tensor::empty({G, S}, dtype_of<T>), Tensor::empty({G, S}, dtype_of<T>)};
  const Tensor dk = dk_GMK.contiguous_copy(), dv = dv_GMU.contiguous_copy(),
               dbias = dbias_GM.contiguous_copy();
  const MergedKeys plain = plain_groups(groups);
  kernel::group_mean_backward_cpu(
      keys,
      kernel::GroupMeanBackward<T>{
          dk.data<T>(), dv.data<T>(), dbias.data<T>(), plain.k_GMK.data<T>(), plain.v_GMU.data<T>(),
          plain.weight_GM.data<T>(), plain.peak_GM.data<T>(), plain.count_GM.data<T>(),
          out.dk_GSK.mutable_data<T>(), out.dv_GSU.mutable_data<T>(),
          out.dweight_GS.mutable_data<T>(), out.dcount_GS.mutable_data<T>()});
  return out;
}

}  // namespace

MergedKeys group_mean(const KvView& kv, std::int64_t b, const Tensor& group_GS, std::int64_t M,
                      const KeyNumbers& numbers, const GroupMeanSpec& spec) {
  const Plain plain = checked(kv, b, group_GS, M, numbers, spec);
  return computed(kv) == DType::kF64 ? merged<double>(kv, b, M, plain, spec)
                                     : merged<float>(kv, b, M, plain, spec);
}

MergedKeys combine_groups(const MergedKeys& a, const MergedKeys& b, const GroupMeanSpec& spec) {
  const Dims dims = dims_of(a), other = dims_of(b);
  for (const char letter : {'G', 'M', 'K', 'U'})
    QUIRE_CHECK(dims[letter] == other[letter], "a and b: ", letter, " is ", dims[letter], " and ",
                other[letter]);
  const DType dtype = a.k_GMK.dtype();
  QUIRE_CHECK((dtype == DType::kF32 || dtype == DType::kF64) && b.k_GMK.dtype() == dtype,
              "a and b are ", to_string(dtype), " and ", to_string(b.k_GMK.dtype()),
              "; groups are f32 or f64, both the same");
  const MergedKeys left = plain_groups(a), right = plain_groups(b);
  MergedKeys out = empty_groups(dims['G'], dims['M'], dims['K'], dims['U'], dtype);
  const bool log_count = spec.bias == GroupBias::kLogCount;
  if (dtype == DType::kF64) {
    combine<double>(out, left, right, log_count);
  } else {
    combine<float>(out, left, right, log_count);
  }
  return out;
}

GroupMeanGradients group_mean_backward(const Tensor& dk_GMK, const Tensor& dv_GMU,
                                       const Tensor& dbias_GM, const KvView& kv, std::int64_t b,
                                       const Tensor& group_GS, const KeyNumbers& numbers,
                                       const MergedKeys& merged, const GroupMeanSpec& spec) {
  const Dims dims = QUIRE_DIMS(dk_GMK, dv_GMU, dbias_GM), groups = dims_of(merged);
  for (const char letter : {'G', 'M', 'K', 'U'})
    QUIRE_CHECK(dims[letter] == groups[letter], "dk_GMK, dv_GMU and dbias_GM: ", letter, " is ",
                dims[letter], ", but of merged it is ", groups[letter]);
  QUIRE_CHECK(dims['G'] == kv.G && dims['K'] == kv.K && dims['U'] == kv.U,
              "dk_GMK and dv_GMU have G = ", dims['G'], ", K = ", dims['K'], ", U = ", dims['U'],
              ", but kv has ", kv.G, ", ", kv.K, ", ", kv.U);
  const Plain plain = checked(kv, b, group_GS, dims['M'], numbers, spec);
  if (computed(kv) == DType::kF64)
    return backward(dk_GMK, dv_GMU, dbias_GM, keys_of<double>(kv, b, dims['M'], plain, spec),
                    merged);
  return backward(dk_GMK, dv_GMU, dbias_GM, keys_of<float>(kv, b, dims['M'], plain, spec), merged);
}

}  // namespace quire

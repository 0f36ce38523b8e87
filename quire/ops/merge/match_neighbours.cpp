#include "quire/ops/merge/match_neighbours.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_check.h"
#include "quire/ops/merge/match_neighbours_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

std::optional<Tensor> checked_plane(const std::optional<Tensor>& x_GS, const char* name,
                                    const Shape& shape, DType dtype) {
  if (!x_GS) return std::nullopt;
  QUIRE_CHECK(x_GS->dtype() == dtype && x_GS->shape() == shape, name, " is ",
              to_string(x_GS->dtype()), " ", to_string(x_GS->shape()), ", expected ",
              to_string(dtype), " ", to_string(shape));
  return x_GS->contiguous_copy();
}

void check_ascending(const Tensor& position_GS) {
  const std::int64_t G = position_GS.size(0), S = position_GS.size(1);
  const auto* position = position_GS.data<std::int64_t>();
  for (std::int64_t g = 0; g < G; ++g) {
    for (std::int64_t s = 0; s < S; ++s) {
      const std::int64_t here = position[g * S + s];
      QUIRE_CHECK(here >= 0 && here < (std::int64_t{1} << 48), "position_GS has ", here);
      QUIRE_CHECK(s == 0 || here > position[g * S + s - 1], "position_GS of head ", g,
                  " does not ascend at ", s);
    }
  }
}

void check_spec(const MatchSpec& spec) {
  QUIRE_CHECK(spec.window >= 1 && spec.window <= (std::int64_t{1} << 20), "spec.window is ",
              spec.window, "; it may be 1 to 2^20");
  QUIRE_CHECK(spec.threshold >= -1 && spec.threshold <= 1, "spec.threshold is ", spec.threshold,
              "; a cosine is -1 to 1");
  QUIRE_CHECK(spec.group_cap >= 2, "spec.group_cap is ", spec.group_cap,
              "; a group has at least 2 keys");
  QUIRE_CHECK(spec.merges >= 0, "spec.merges is ", spec.merges);
}

}  // namespace

Matching match_neighbours(const KvView& kv, std::int64_t b, const MatchSpec& spec,
                          const std::optional<Tensor>& protected_GS,
                          const std::optional<Tensor>& position_GS) {
  const std::int64_t S = checked_keys(kv, b);
  QUIRE_CHECK(kv.dtype != DType::kF64, "kv.dtype is f64; neighbours are matched in f32");
  check_spec(spec);
  const Shape shape{kv.G, S};
  const auto excluded = checked_plane(protected_GS, "protected_GS", shape, DType::kU8);
  const auto positions = checked_plane(position_GS, "position_GS", shape, DType::kI64);
  if (positions) check_ascending(*positions);
  Tensor mean_GK = Tensor::empty({kv.G, kv.K}, DType::kF32);
  const bool centred = spec.centre == Centre::kMean;
  if (centred) kernel::key_means_cpu(kv, b, S, mean_GK.mutable_data<float>());
  Tensor partner_GS = Tensor::empty(shape, DType::kI64);
  Matching out{Tensor::empty(shape, DType::kI64), Tensor::empty(shape, DType::kF32),
               Tensor::empty({kv.G}, DType::kI64)};
  auto* groups = out.groups_G.mutable_data<std::int64_t>();
  kernel::match_neighbours_cpu(
      {kv, b, S, spec.window, spec.group_cap, spec.merges, static_cast<float>(spec.threshold),
       centred ? mean_GK.data<float>() : nullptr,
       excluded ? excluded->data<std::uint8_t>() : nullptr,
       positions ? positions->data<std::int64_t>() : nullptr,
       partner_GS.mutable_data<std::int64_t>(), out.group_GS.mutable_data<std::int64_t>(),
       out.cosine_GS.mutable_data<float>(), groups});
  out.groups = *std::max_element(groups, groups + kv.G);
  return out;
}

Tensor protected_keys(const Tensor& mass_GS, const ProtectSpec& spec) {
  const Dims dims = QUIRE_DIMS(mass_GS);
  QUIRE_CHECK(mass_GS.dtype() == DType::kF32, "mass_GS is ", to_string(mass_GS.dtype()),
              ", expected f32");
  QUIRE_CHECK(spec.sinks >= 0 && spec.recent >= 0, "spec.sinks is ", spec.sinks,
              " and spec.recent ", spec.recent);
  QUIRE_CHECK(spec.heavy >= 0 && spec.heavy <= 1, "spec.heavy is ", spec.heavy,
              "; it is a share, 0 to 1");
  const Tensor mass = mass_GS.contiguous_copy();
  const std::int64_t S = dims['S'];
  for (std::int64_t i = 0; i < mass.elements(); ++i)
    QUIRE_CHECK(mass.data<float>()[i] >= 0, "mass_GS has ", mass.data<float>()[i], " at ", i);
  Tensor out = Tensor::empty({dims['G'], S}, DType::kU8);
  const auto heavy = static_cast<std::int64_t>(std::ceil(spec.heavy * static_cast<double>(S)));
  kernel::protected_keys_cpu({mass.data<float>(), out.mutable_data<std::uint8_t>(), dims['G'], S,
                              spec.sinks, spec.recent, std::min(heavy, S)});
  return out;
}

}  // namespace quire

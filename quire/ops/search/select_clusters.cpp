#include "quire/ops/search/select_clusters.h"

#include <span>

#include "quire/base/error.h"
#include "quire/ops/search/select_clusters_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {

Selection select_clusters(const Tensor& rank_GM, const Tensor& size_GM,
                          std::int64_t budget_tokens) {
  const Dims dims = QUIRE_DIMS(rank_GM, size_GM);
  QUIRE_CHECK(rank_GM.dtype() == DType::kF32, "rank_GM is ", to_string(rank_GM.dtype()),
              ", expected f32");
  QUIRE_CHECK(size_GM.dtype() == DType::kI64, "size_GM is ", to_string(size_GM.dtype()),
              ", expected i64");
  QUIRE_CHECK(budget_tokens >= 0, "budget_tokens is ", budget_tokens);
  const Tensor rank = rank_GM.contiguous_copy(), size = size_GM.contiguous_copy();
  const std::span<const std::int64_t> sizes(size.data<std::int64_t>(),
                                            static_cast<std::size_t>(size.elements()));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    QUIRE_CHECK(sizes[i] >= 0 && sizes[i] <= (std::int64_t{1} << 40), "size_GM has ", sizes[i],
                " at ", i);
  Selection out{Tensor::empty({dims['G'], dims['M']}, DType::kU8),
                Tensor::empty({dims['G']}, DType::kI64)};
  kernel::select_clusters_cpu(
      {rank.data<float>(), size.data<std::int64_t>(), out.taken_GM.mutable_data<std::uint8_t>(),
       out.tokens_G.mutable_data<std::int64_t>(), dims['G'], dims['M'], budget_tokens});
  return out;
}

void select_best(std::span<const float> rank, std::int64_t count, std::span<std::uint8_t> taken) {
  QUIRE_CHECK(rank.size() == taken.size() && std::ssize(rank) < (std::int64_t{1} << 24),
              "rank has ", rank.size(), " numbers, and taken ", taken.size());
  QUIRE_CHECK(count >= 0, "count is ", count);
  kernel::select_best_cpu(rank.data(), std::ssize(rank), count, taken.data());
}

}  // namespace quire

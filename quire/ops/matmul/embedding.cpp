#include "quire/ops/matmul/embedding.h"

#include "quire/base/error.h"

namespace quire {

Tensor embedding(std::span<const std::int32_t> ids, const Weight& table) {
  for (std::size_t n = 0; n < ids.size(); ++n) {
    QUIRE_CHECK(ids[n] >= 0 && ids[n] < table.rows(), "ids[", n, "] is ", ids[n],
                ", but the table has V = ", table.rows());
  }
  const auto rows = static_cast<std::int64_t>(ids.size());
  Tensor out = Tensor::empty({rows, table.columns()}, DType::kF32);
  float* to = out.mutable_data<float>();
  thread_pool().run(rows, [&](std::int64_t n) {
    table.row(ids[static_cast<std::size_t>(n)], to + n * table.columns());
  });
  return out;
}

}  // namespace quire

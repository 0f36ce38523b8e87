#include "quire/ops/matmul/embedding.h"

#include "quire/base/error.h"
#include "quire/ops/index/index_select.h"

namespace quire {
namespace {

Tensor flat(const Tensor& ids) { return ids.contiguous_copy().view({ids.elements()}); }

}  // namespace

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

Tensor embedding(const Tensor& ids, const Tensor& table_VD) {
  QUIRE_CHECK(table_VD.rank() == 2, "table_VD: rank is ", table_VD.rank(), ", expected 2");
  Shape shape = ids.shape();
  shape.push_back(table_VD.size(1));
  return index_select(table_VD, 0, flat(ids)).view(std::move(shape));
}

Tensor embedding_backward(const Tensor& dout, const Tensor& ids, std::int64_t V) {
  QUIRE_CHECK(dout.rank() == ids.rank() + 1, "embedding_backward: dout has rank ", dout.rank(),
              ", but ids has rank ", ids.rank(), "; expected one more");
  for (int d = 0; d < ids.rank(); ++d) {
    QUIRE_CHECK(dout.size(d) == ids.size(d), "embedding_backward: dimension ", d, " of dout is ",
                dout.size(d), ", but of ids it is ", ids.size(d));
  }
  const std::int64_t D = dout.size(-1);
  const Tensor rows = dout.contiguous_copy().view({ids.elements(), D});
  return index_select_backward(rows, {V, D}, 0, flat(ids));
}

}  // namespace quire

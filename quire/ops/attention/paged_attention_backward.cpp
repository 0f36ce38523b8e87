#include "quire/ops/attention/paged_attention_backward.h"

#include "quire/base/error.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

/// [B, H, T, X] to rows [B · T, H, X], and back.
Tensor by_query(const Tensor& x) {
  return x.transpose(1, 2).contiguous_copy().view({x.size(0) * x.size(2), x.size(1), x.size(3)});
}
Tensor by_head(const Tensor& x, std::int64_t B) {
  return x.view({B, B == 0 ? 0 : x.size(0) / B, x.size(1), x.size(2)}).transpose(1, 2);
}

/// Pages as a view can describe them: rows of contiguous elements, with one stride each for pages,
/// slots and heads that a tensor of gradients can share.
Tensor plain_pages(const Tensor& pages) {
  return pages.transpose(1, 2).contiguous() ? pages : pages.contiguous_copy();
}
Tensor zeros_like_pages(const Tensor& pages, DType dtype) {
  if (pages.contiguous()) return Tensor::zeros(pages.shape(), dtype);
  return Tensor::zeros(pages.transpose(1, 2).shape(), dtype).transpose(1, 2);
}
PageStrides strides_of(const Tensor& pages) {
  return {pages.strides()[0], pages.strides()[1], pages.strides()[2]};
}

}  // namespace

Tensor paged_rows(const Tensor& table_BW, std::int64_t Z, std::int64_t G, std::int64_t S) {
  const Dims dims = QUIRE_DIMS(table_BW);
  QUIRE_CHECK(table_BW.dtype() == DType::kI32, "table_BW is ", to_string(table_BW.dtype()),
              "; it must be i32");
  QUIRE_CHECK(Z > 0 && G > 0 && S >= 0, "paged_rows: Z is ", Z, ", G ", G, ", S ", S);
  QUIRE_CHECK(S == 0 || (S - 1) / Z < dims['W'], "paged_rows: S is ", S, ", but the table has ",
              dims['W'], " pages of ", Z);
  const Tensor plain = table_BW.contiguous_copy();
  const auto* table = plain.data<std::int32_t>();
  Tensor rows = Tensor::empty({dims['B'], G, S}, DType::kI64);
  auto* row = rows.mutable_data<std::int64_t>();
  for (std::int64_t i = 0; i < rows.elements(); ++i) {
    const std::int64_t b = i / (G * S), g = i / S % G, s = i % S;
    const std::int64_t page = table[b * dims['W'] + s / Z];
    QUIRE_CHECK(page >= 0, "table_BW: page ", s / Z, " of sequence ", b, " is ", page);
    row[i] = (page * Z + s % Z) * G + g;
  }
  return rows;
}

PagedAttentionGradients paged_attention_backward(const Tensor& dout_BHTU, const Tensor& q_BHTK,
                                                 const PagedKv& kv, const Tensor& out_BHTU,
                                                 const AttentionSpec& spec) {
  const Tensor &k_pages_PZGK = kv.k_pages_PZGK, &v_pages_PZGU = kv.v_pages_PZGU,
               &table_BW = kv.table_BW, &length_B = kv.length_B;
  const Dims dims =
      QUIRE_DIMS(dout_BHTU, q_BHTK, k_pages_PZGK, v_pages_PZGU, table_BW, out_BHTU, length_B);
  QUIRE_CHECK(table_BW.dtype() == DType::kI32, "table_BW is ", to_string(table_BW.dtype()),
              "; it must be i32");
  QUIRE_CHECK(length_B.dtype() == DType::kI64, "length_B is ", to_string(length_B.dtype()),
              "; it must be i64");
  QUIRE_CHECK(k_pages_PZGK.dtype() == v_pages_PZGU.dtype(), "k_pages_PZGK is ",
              to_string(k_pages_PZGK.dtype()), ", but v_pages_PZGU is ",
              to_string(v_pages_PZGU.dtype()));
  const Tensor k = plain_pages(k_pages_PZGK), v = plain_pages(v_pages_PZGU);
  const Tensor table = table_BW.contiguous_copy(), length = length_B.contiguous_copy();
  KvView view;
  view.k_pages = k.data<void>();
  view.v_pages = v.data<void>();
  view.k_strides = strides_of(k);
  view.v_strides = strides_of(v);
  view.dtype = k.dtype();
  view.P = dims['P'];
  view.Z = dims['Z'];
  view.G = dims['G'];
  view.K = dims['K'];
  view.U = dims['U'];
  view.table = table.data<std::int32_t>();
  view.W = dims['W'];
  view.length_BG = length.data<std::int64_t>();

  Tensor start_J = Tensor::empty({dims['B'] + 1}, DType::kI32);
  for (std::int64_t b = 0; b <= dims['B']; ++b)
    start_J.mutable_data<std::int32_t>()[b] = static_cast<std::int32_t>(b * dims['T']);
  const Tensor q = by_query(q_BHTK);
  AttentionResult result = attention(q, start_J, view, spec);
  result.out_NHU = by_query(out_BHTU);
  const DType dtype = q.dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  PagedAttentionGradients out{{}, zeros_like_pages(k, dtype), zeros_like_pages(v, dtype)};
  AttentionGradients gradients;
  gradients.dk_pages = out.dk_pages_PZGK.mutable_data<void>();
  gradients.dv_pages = out.dv_pages_PZGU.mutable_data<void>();
  attention_backward(gradients, by_query(dout_BHTU), Tensor(), q, start_J, view, spec, result);
  out.dq_BHTK = by_head(gradients.dq_NHK, dims['B']).contiguous_copy();
  return out;
}

}  // namespace quire

#include "quire/grad/kv_pool.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/tensor/dims.h"

namespace quire::grad {
namespace {

void check_pages(const Tensor& pages, const char* name) {
  QUIRE_CHECK(is_floating(pages.dtype()), name, " is ", to_string(pages.dtype()),
              ", expected f64, f32, bf16 or f16");
  QUIRE_CHECK(pages.contiguous() || pages.transpose(1, 2).contiguous(), name, " of shape ",
              to_string(pages.shape()),
              " is neither row-major nor the transpose(1, 2) of a "
              "row-major tensor");
}

PageStrides strides_of(const Tensor& pages) {
  const auto& s = pages.strides();
  return {s[0], s[1], s[2]};
}

/// Calls visit(page, slots) for each page that holds keys of sequence b and kv head g.
template <class Visit>
void for_pages(const KvView& kv, std::int64_t b, std::int64_t g, const Visit& visit) {
  const std::int64_t length = kv.length_BG[kv.length_stride_G == 0 ? b : b * kv.G + g];
  const std::int32_t* row = nullptr;
  if (kv.table_start_J != nullptr) {
    row = kv.table + kv.table_start_J[b];
  } else if (kv.table != nullptr) {
    row = kv.table + (kv.table_head_stride == 0 ? b * kv.W : (b * kv.G + g) * kv.table_head_stride);
  }
  for (std::int64_t w = 0; w * kv.Z < length; ++w)
    visit(row == nullptr ? b : std::int64_t{row[w]}, std::min(kv.Z, length - w * kv.Z));
}

}  // namespace

KvPool::State::State(Var k_pages, Var v_pages)
    : k(std::move(k_pages)),
      v(std::move(v_pages)),
      P(k.value().size(0)),
      Z(k.value().size(1)),
      version_P(static_cast<std::size_t>(P)),
      seen_(static_cast<std::size_t>(P * Z)),
      k_known_(k.value().version()),
      v_known_(v.value().version()) {}

void KvPool::State::notice_writes() {
  if (k.value().version() == k_known_ && v.value().version() == v_known_) return;
  for (std::uint64_t& version : version_P) ++version;
  k_known_ = k.value().version();
  v_known_ = v.value().version();
}

void KvPool::State::mark_seen(const KvView& kv, std::int64_t B) {
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t g = 0; g < kv.G; ++g) {
      for_pages(kv, b, g, [&](std::int64_t page, std::int64_t slots) {
        const auto begin = seen_.begin() + page * Z;
        std::fill(begin, begin + slots, true);
      });
      if (kv.length_stride_G == 0 && kv.table_head_stride == 0) break;  // all heads see the same
    }
  }
}

KvPages KvPool::State::writable() {
  notice_writes();
  const KvView from = view();
  Tensor k_pages = k.value(), v_pages = v.value();
  KvPages pages;
  pages.k_pages = k_pages.mutable_data<void>();
  pages.v_pages = v_pages.mutable_data<void>();
  k_known_ = k_pages.version();
  v_known_ = v_pages.version();
  pages.k_strides = from.k_strides;
  pages.v_strides = from.v_strides;
  pages.dtype = from.dtype;
  pages.P = P;
  pages.Z = Z;
  pages.G = from.G;
  pages.K = from.K;
  pages.U = from.U;
  return pages;
}

void KvPool::State::count_write(const std::int64_t* slots, std::int64_t N) {
  for (std::int64_t n = 0; n < N; ++n) {
    if (slots[n] < 0) continue;
    const auto slot = static_cast<std::size_t>(slots[n]);
    if (seen_[slot]) ++version_P[slot / static_cast<std::size_t>(Z)];
  }
}

KvView KvPool::State::view() const {
  KvView out;
  out.k_pages = k.value().data<void>();
  out.v_pages = v.value().data<void>();
  out.k_strides = strides_of(k.value());
  out.v_strides = strides_of(v.value());
  out.dtype = k.dtype();
  out.P = P;
  out.Z = Z;
  out.G = k.value().size(2);
  out.K = k.value().size(3);
  out.U = v.value().size(3);
  out.version_P = version_P.data();
  return out;
}

KvPool::KvPool(Var k_pages_PZGK, Var v_pages_PZGU) {
  const Tensor &k_PZGK = k_pages_PZGK.value(), &v_PZGU = v_pages_PZGU.value();
  (void)QUIRE_DIMS(k_PZGK, v_PZGU);
  check_pages(k_PZGK, "k_PZGK");
  check_pages(v_PZGU, "v_PZGU");
  QUIRE_CHECK(k_PZGK.dtype() == v_PZGU.dtype(), "k_PZGK is ", to_string(k_PZGK.dtype()),
              ", but v_PZGU is ", to_string(v_PZGU.dtype()));
  state_ = std::make_shared<State>(std::move(k_pages_PZGK), std::move(v_pages_PZGU));
}

const Var& KvPool::k_pages_PZGK() const { return state_->k; }
const Var& KvPool::v_pages_PZGU() const { return state_->v; }
KvView KvPool::view() const { return state_->view(); }

Tensor zeros_for_gradient(const Tensor& pages) {
  const DType dtype = pages.dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  if (pages.contiguous()) return Tensor::zeros(pages.shape(), dtype);
  return Tensor::zeros(pages.transpose(1, 2).shape(), dtype).transpose(1, 2);
}

}  // namespace quire::grad

#include "quire/cache/contiguous.h"

#include <numeric>

#include "quire/base/error.h"
#include "quire/cache/reserved.h"
#include "quire/cache/steps.h"
#include "quire/ops/attention/kv_format.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kSlotUnit = 64;  // tiles of attention end inside the page

struct Layer {
  LayerSpec spec;
  Reserved k, v, k_scale, v_scale;
  std::int64_t length = 0;  // with the tokens of the step under way
};

}  // namespace

struct ContiguousCache::Impl {
  std::vector<Layer> layers;
  std::int64_t capacity = 0, slots = 0, length = 0;
  DType kv = DType::kF32;

  Layer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  PageStrides strides(std::int64_t size, std::int64_t heads) const {
    const std::int64_t row = kv_row_stride(kv, size);
    return {slots * row * heads, row, slots * row};
  }
  KvPages pages(const Layer& layer) const {
    const LayerSpec& s = layer.spec;
    return {layer.k.data(),
            layer.v.data(),
            strides(s.K, s.G),
            strides(s.U, s.G),
            KLayout::kBlocks,
            kv,
            reinterpret_cast<float*>(layer.k_scale.data()),
            reinterpret_cast<float*>(layer.v_scale.data()),
            1,
            slots,
            s.G,
            s.K,
            s.U};
  }
};

ContiguousCache::ContiguousCache(std::vector<LayerSpec> layers, std::int64_t capacity, DType kv)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 40), "a cache for ", capacity,
              " tokens; it must hold at least one");
  QUIRE_CHECK(stores_kv(kv), "a cache of ", to_string(kv), "; it may be ", kv_formats());
  impl_->capacity = capacity;
  impl_->slots = (capacity + kSlotUnit - 1) / kSlotUnit * kSlotUnit;
  impl_->kv = kv;
  for (LayerSpec& s : layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
                "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
    const auto bytes = [&](std::int64_t row) { return checked_bytes(impl_->slots, s.G, row, 1); };
    const std::uint64_t scales = bytes(kv_scale_bytes(kv));
    impl_->layers.push_back({s, Reserved(bytes(kv_row_bytes(kv, s.K))),
                             Reserved(bytes(kv_row_bytes(kv, s.U))), Reserved(scales),
                             Reserved(scales)});
  }
}

ContiguousCache::~ContiguousCache() = default;

std::int64_t ContiguousCache::length() const { return impl_->length; }
std::int64_t ContiguousCache::capacity() const { return impl_->capacity; }

void ContiguousCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Layer& to = impl_->at(layer);
  const std::int64_t N = k_NGK.size(0);
  check_room(impl_->length, N, impl_->capacity);
  Tensor slot_N = Tensor::empty({N}, DType::kI64);
  std::iota(slot_N.mutable_data<std::int64_t>(), slot_N.mutable_data<std::int64_t>() + N,
            impl_->length);
  kv_write(impl_->pages(to), k_NGK, v_NGU, slot_N);
  to.length = impl_->length + N;
}

KvView ContiguousCache::view(std::int64_t layer) const {
  const Layer& from = impl_->at(layer);
  KvView view = view_of(impl_->pages(from));
  view.length_BG = &from.length;
  return view;
}

Tensor ContiguousCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  const Layer& from = impl_->at(layer);
  Tensor start_J = Tensor::empty({2}, DType::kI32);
  start_J.mutable_data<std::int32_t>()[0] = 0;
  start_J.mutable_data<std::int32_t>()[1] = static_cast<std::int32_t>(q_NHK.size(0));
  AttentionSpec spec = from.spec.attention;
  spec.alignment = Alignment::kBottomRight;
  return attention(q_NHK, start_J, view(layer), spec).out_NHU;
}

void ContiguousCache::advance(std::int64_t tokens) {
  impl_->length = advanced(impl_->length, tokens, impl_->capacity, impl_->layers);
}

void ContiguousCache::truncate(std::int64_t length) {
  QUIRE_CHECK(length >= 0 && length <= impl_->length, "truncate to ", length,
              ", but the cache has ", impl_->length, " tokens");
  impl_->length = length;
  for (Layer& layer : impl_->layers) layer.length = length;
}

std::int64_t ContiguousCache::bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const Layer& layer : impl_->layers)
    bytes += kv_bytes_per_token(impl_->kv, layer.spec.G, layer.spec.K, layer.spec.U);
  return bytes;
}

std::int64_t ContiguousCache::bytes() const { return impl_->length * bytes_per_token(); }

}  // namespace quire::cache

#include "quire/cache/page_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "quire/base/error.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

constexpr std::uint64_t kAlignment = 64;

std::int64_t padded(std::uint64_t bytes) {
  return static_cast<std::int64_t>((bytes + kAlignment - 1) / kAlignment * kAlignment);
}

void check(const LayerSpec& s) {
  QUIRE_CHECK(s.H > 0 && s.G > 0 && s.K > 0 && s.U > 0 && s.H % s.G == 0,
              "a cache layer has H = ", s.H, ", G = ", s.G, ", K = ", s.K, ", U = ", s.U);
}

std::int64_t page_bytes(const std::vector<LayerSpec>& layers, std::int64_t pages, std::int64_t Z,
                        DType kv) {
  QUIRE_CHECK(pages > 0 && Z > 0 && Z <= (1 << 20), "a pool of ", pages, " pages of ", Z,
              " tokens; it needs at least one, and pages of at most ", 1 << 20);
  QUIRE_CHECK(stores_kv(kv), "a cache of ", to_string(kv), "; it may be ", kv_formats());
  std::int64_t bytes = 0;
  for (const LayerSpec& s : layers) {
    check(s);
    bytes += padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.K), 1)) +
             padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.U), 1));
  }
  return bytes;
}

}  // namespace

PageStore::PageStore(std::vector<LayerSpec> layers, std::int64_t pages, std::int64_t Z, DType kv)
    : layers_(std::move(layers)),
      P_(pages),
      Z_(Z),
      data_bytes_(page_bytes(layers_, pages, Z, kv)),
      kv_(kv),
      data_(checked_bytes(pages, 1, data_bytes_, 1), Reserved::Commit::kLarge) {
  std::int64_t at = 0;
  for (const LayerSpec& s : layers_) {
    const std::int64_t scale = kv_scale_bytes(kv);
    const std::uint64_t scales = checked_bytes(pages, Z, s.G * scale, 1);
    Layer layer{at, 0, Reserved(scales), Reserved(scales)};
    at += padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.K), 1));
    layer.v = at;
    at += padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.U), 1));
    scale_bytes_ += 2 * Z * s.G * scale;
    places_.push_back(std::move(layer));
  }
}

const PageStore::Layer& PageStore::layer_at(std::int64_t layer) const {
  QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers_.size()), "layer is ", layer,
              ", but the cache has ", layers_.size());
  return places_[static_cast<std::size_t>(layer)];
}

KvPages PageStore::pages(std::int64_t layer) const {
  const Layer& at = layer_at(layer);
  const LayerSpec& s = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t page = data_bytes_ / kv_unit_bytes(kv_), k_row = kv_row_stride(kv_, s.K),
                     v_row = kv_row_stride(kv_, s.U);
  return {data_.data() + at.k,
          data_.data() + at.v,
          {page, k_row, Z_ * k_row},
          {page, v_row, Z_ * v_row},
          k_layout(),
          kv_,
          reinterpret_cast<float*>(at.k_scale.data()),
          reinterpret_cast<float*>(at.v_scale.data()),
          P_,
          Z_,
          s.G,
          s.K,
          s.U};
}

KvView PageStore::view(std::int64_t layer) const { return view_of(pages(layer)); }

std::span<std::byte> PageStore::data(std::int32_t page) const {
  return {data_.data() + page * data_bytes_, static_cast<std::size_t>(data_bytes_)};
}

void PageStore::copy_tokens(const std::byte* from, std::byte* to, std::int64_t slots) const {
  const auto part = [&](std::int64_t at, std::int64_t bytes) {
    std::memcpy(to + at, from + at, static_cast<std::size_t>(bytes));
  };
  // Whole blocks of 16 keys, then the lanes of the last one.
  const std::int64_t whole = k_layout() == KLayout::kBlocks ? slots / 16 * 16 : slots;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerSpec& s = layers_[i];
    for (std::int64_t g = 0; g < s.G; ++g) {
      const std::int64_t k_row = kv_row_bytes(kv_, s.K), v_row = kv_row_bytes(kv_, s.U),
                         k = places_[i].k + g * Z_ * k_row;
      part(k, whole * k_row);
      if (whole < slots) {
        each_kv_lane_part(kv_, s.K, [&](std::int64_t at, std::int64_t lane_bytes) {
          part(k + whole * k_row + at, (slots - whole) * lane_bytes);
        });
      }
      part(places_[i].v + g * Z_ * v_row, slots * v_row);
    }
  }
}

template <class F>
void PageStore::each_scale(std::int32_t page, F&& f) const {
  if (kv_ != DType::kI8) return;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::int64_t row = layers_[i].G * static_cast<std::int64_t>(sizeof(float));
    f(places_[i].k_scale.data() + page * Z_ * row, row);
    f(places_[i].v_scale.data() + page * Z_ * row, row);
  }
}

void PageStore::copy(std::int32_t from, std::int32_t to, std::int64_t slots) {
  copy_tokens(data(from).data(), data(to).data(), slots);
  each_scale(from, [&](std::byte* scales, std::int64_t row) {
    std::memcpy(scales + (to - from) * Z_ * row, scales, static_cast<std::size_t>(slots * row));
  });
}

void PageStore::copy_data(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  copy_tokens(data(page).data(), out.data(), slots);
}

void PageStore::copy_scales(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const {
  std::byte* at = out.data();
  each_scale(page, [&](const std::byte* scales, std::int64_t row) {
    std::memcpy(at, scales, static_cast<std::size_t>(slots * row));
    std::memset(at + slots * row, 0, static_cast<std::size_t>((Z_ - slots) * row));
    at += Z_ * row;
  });
}

void PageStore::set_scales(std::int32_t page, std::span<const std::byte> from) {
  const std::byte* at = from.data();
  each_scale(page, [&](std::byte* scales, std::int64_t row) {
    std::memcpy(scales, at, static_cast<std::size_t>(Z_ * row));
    at += Z_ * row;
  });
}

std::int64_t PageStore::bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const LayerSpec& s : layers_) bytes += kv_bytes_per_token(kv_, s.G, s.K, s.U);
  return bytes;
}

}  // namespace quire::cache

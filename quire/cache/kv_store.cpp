#include "quire/cache/kv_store.h"

#include <cstring>
#include <numeric>

#include "quire/base/error.h"
#include "quire/base/half.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kSlotUnit = 64;  // tiles of attention end inside the store

std::int64_t rounded(std::int64_t slots) { return (slots + kSlotUnit - 1) / kSlotUnit * kSlotUnit; }

std::uint64_t scale_bytes(const LayerSpec& spec, std::int64_t slots, DType dtype) {
  return dtype == DType::kI8 ? checked_bytes(slots, spec.G, 1, sizeof(float)) : 0;
}

template <class T>
void copy_elements(const std::byte* from, std::int64_t from_step, std::byte* to,
                   std::int64_t to_step, std::int64_t count) {
  const T* x = reinterpret_cast<const T*>(from);
  T* y = reinterpret_cast<T*>(to);
  for (std::int64_t i = 0; i < count; ++i) y[i * to_step] = x[i * from_step];
}

void copy_elements(std::size_t size, const std::byte* from, std::int64_t from_step, std::byte* to,
                   std::int64_t to_step, std::int64_t count) {
  if (size == 4) return copy_elements<std::uint32_t>(from, from_step, to, to_step, count);
  if (size == 2) return copy_elements<std::uint16_t>(from, from_step, to, to_step, count);
  copy_elements<std::uint8_t>(from, from_step, to, to_step, count);
}

template <class T, class Widen>
void widen_elements(const std::byte* from, std::int64_t step, std::int64_t count, float* to,
                    Widen widen) {
  const T* x = reinterpret_cast<const T*>(from);
  for (std::int64_t i = 0; i < count; ++i) to[i] = widen(x[i * step]);
}

void widen_elements(DType dtype, const std::byte* from, std::int64_t step, std::int64_t count,
                    float scale, float* to) {
  switch (dtype) {
    case DType::kF16:
      return widen_elements<Half>(from, step, count, to, [](Half x) { return to_float(x); });
    case DType::kBF16:
      return widen_elements<BFloat16>(from, step, count, to,
                                      [](BFloat16 x) { return to_float(x); });
    case DType::kI8:
      return widen_elements<std::int8_t>(
          from, step, count, to, [&](std::int8_t x) { return static_cast<float>(x) * scale; });
    default:
      return widen_elements<float>(from, step, count, to, [](float x) { return x; });
  }
}

}  // namespace

KvStore::KvStore(const LayerSpec& spec, std::int64_t slots, DType dtype, KLayout layout)
    : G_(spec.G),
      K_(spec.K),
      U_(spec.U),
      slots_(rounded(slots)),
      dtype_(dtype),
      layout_(layout),
      k_(checked_bytes(slots_, spec.G, spec.K, size_of(dtype))),
      v_(checked_bytes(slots_, spec.G, spec.U, size_of(dtype))),
      k_scale_(scale_bytes(spec, slots_, dtype)),
      v_scale_(scale_bytes(spec, slots_, dtype)) {}

KvPages KvStore::pages(std::int64_t P, std::int64_t Z) const {
  return {k_.data(),
          v_.data(),
          {Z * K_, K_, slots_ * K_},
          {Z * U_, U_, slots_ * U_},
          layout_,
          dtype_,
          reinterpret_cast<float*>(k_scale_.data()),
          reinterpret_cast<float*>(v_scale_.data()),
          P,
          Z,
          G_,
          K_,
          U_};
}

void KvStore::write(const Tensor& k_NGK, const Tensor& v_NGU, std::int64_t first) {
  const std::int64_t N = k_NGK.size(0);
  QUIRE_CHECK(first >= 0 && first + N <= slots_, "slots ", first, " to ", first + N, " of ",
              slots_);
  Tensor slot_N = Tensor::empty({N}, DType::kI64);
  auto* slot = slot_N.mutable_data<std::int64_t>();
  std::iota(slot, slot + N, first);
  kv_write(pages(1, slots_), k_NGK, v_NGU, slot_N);
}

KvView KvStore::view(std::int64_t end) const {
  return view_of(pages(1, std::min(slots_, rounded(end))));
}

KvView KvStore::paged_view(std::int64_t Z) const { return view_of(pages(slots_ / Z, Z)); }

std::int64_t KvStore::key_at(std::int64_t g, std::int64_t slot) const {
  const std::int64_t head = g * slots_ * K_;
  return layout_ == KLayout::kBlocks ? head + slot / 16 * 16 * K_ + slot % 16 : head + slot * K_;
}

void KvStore::copy(const KvStore& from, std::int64_t g, std::span<const std::int32_t> slots) {
  const auto size = static_cast<std::int64_t>(size_of(dtype_));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t slot = slots[i], to = static_cast<std::int64_t>(i);
    copy_elements(size_of(dtype_), from.k_.data() + from.key_at(g, slot) * size, from.key_step(),
                  k_.data() + key_at(g, to) * size, key_step(), K_);
    std::memcpy(v_.data() + (g * slots_ + to) * U_ * size,
                from.v_.data() + (g * from.slots_ + slot) * U_ * size,
                static_cast<std::size_t>(U_ * size));
    if (dtype_ != DType::kI8) continue;
    const auto scale = [&](const Reserved& of, std::int64_t at) {
      return of.data() + (at * G_ + g) * static_cast<std::int64_t>(sizeof(float));
    };
    std::memcpy(scale(k_scale_, to), scale(from.k_scale_, slot), sizeof(float));
    std::memcpy(scale(v_scale_, to), scale(from.v_scale_, slot), sizeof(float));
  }
}

void KvStore::copy(const KvStore& from, std::int64_t tokens) {
  const auto size = static_cast<std::int64_t>(size_of(dtype_));
  for (std::int64_t g = 0; g < G_; ++g) {
    std::memcpy(k_.data() + g * slots_ * K_ * size, from.k_.data() + g * from.slots_ * K_ * size,
                static_cast<std::size_t>(tokens * K_ * size));
    std::memcpy(v_.data() + g * slots_ * U_ * size, from.v_.data() + g * from.slots_ * U_ * size,
                static_cast<std::size_t>(tokens * U_ * size));
  }
  if (dtype_ != DType::kI8) return;
  const auto scales = static_cast<std::size_t>(tokens * G_) * sizeof(float);
  std::memcpy(k_scale_.data(), from.k_scale_.data(), scales);
  std::memcpy(v_scale_.data(), from.v_scale_.data(), scales);
}

void KvStore::widen(std::int64_t g, std::int64_t tokens, float* k_SK, float* v_SU) const {
  const auto size = static_cast<std::int64_t>(size_of(dtype_));
  const auto scale = [&](const Reserved& of, std::int64_t slot) {
    return dtype_ == DType::kI8 ? reinterpret_cast<const float*>(of.data())[slot * G_ + g] : 1.0f;
  };
  for (std::int64_t slot = 0; slot < tokens; ++slot) {
    widen_elements(dtype_, k_.data() + key_at(g, slot) * size, key_step(), K_,
                   scale(k_scale_, slot), k_SK + slot * K_);
    widen_elements(dtype_, v_.data() + (g * slots_ + slot) * U_ * size, 1, U_,
                   scale(v_scale_, slot), v_SU + slot * U_);
  }
}

std::int64_t KvStore::bytes_per_token() const {
  const auto size = static_cast<std::int64_t>(size_of(dtype_));
  return G_ * ((K_ + U_) * size +
               (dtype_ == DType::kI8 ? 2 * static_cast<std::int64_t>(sizeof(float)) : 0));
}

}  // namespace quire::cache

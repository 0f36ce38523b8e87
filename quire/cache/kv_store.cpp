#include "quire/cache/kv_store.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "quire/base/error.h"
#include "quire/ops/attention/hadamard.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

std::size_t unsigned_of(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

std::int64_t whole_tiles(std::int64_t slots) { return (slots + 63) / 64 * 64; }

void write_from(const KvPages& pages, const Tensor& k_NGK, const Tensor& v_NGU,
                std::int64_t first) {
  Tensor slot_N = Tensor::empty({k_NGK.size(0)}, DType::kI64);
  auto* slot = slot_N.mutable_data<std::int64_t>();
  std::iota(slot, slot + k_NGK.size(0), first);
  kv_write(pages, k_NGK, v_NGU, slot_N);
}

KvStore::KvStore(const LayerSpec& spec, std::int64_t slots, DType dtype, KLayout layout)
    : G_(spec.G),
      K_(spec.K),
      U_(spec.U),
      slots_(whole_tiles(slots)),
      dtype_(dtype),
      layout_(layout),
      k_row_(kv_row_bytes(dtype, spec.K)),
      v_row_(kv_row_bytes(dtype, spec.U)),
      k_(checked_bytes(slots_, spec.G, k_row_, 1)),
      v_(checked_bytes(slots_, spec.G, v_row_, 1)),
      k_scale_(checked_bytes(slots_, spec.G, kv_scale_bytes(dtype), 1)),
      v_scale_(checked_bytes(slots_, spec.G, kv_scale_bytes(dtype), 1)) {
  each_kv_lane_part(dtype, K_, [&](std::int64_t offset, std::int64_t bytes) {
    parts_.push_back({offset, bytes});
  });
}

KvPages KvStore::pages(std::int64_t P, std::int64_t Z) const {
  const std::int64_t k = kv_row_stride(dtype_, K_), v = kv_row_stride(dtype_, U_);
  return {k_.data(),
          v_.data(),
          {Z * k, k, slots_ * k},
          {Z * v, v, slots_ * v},
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
  write_from(pages(1, slots_), k_NGK, v_NGU, first);
}

KvView KvStore::view(std::int64_t end) const {
  return view_of(pages(1, std::min(slots_, whole_tiles(end))));
}

KvView KvStore::paged_view(std::int64_t Z) const { return view_of(pages(slots_ / Z, Z)); }

const std::byte* KvStore::value_row(std::int64_t g, std::int64_t slot) const {
  return v_.data() + (g * slots_ + slot) * v_row_;
}

void KvStore::take_key(std::int64_t g, std::int64_t slot, std::byte* row) const {
  if (layout_ == KLayout::kRows) {
    std::memcpy(row, k_.data() + (g * slots_ + slot) * k_row_, unsigned_of(k_row_));
    return;
  }
  const std::byte* block = k_.data() + (g * slots_ + slot / 16 * 16) * k_row_;
  for (const Part& part : parts_) {
    std::memcpy(row, block + part.offset + slot % 16 * part.bytes, unsigned_of(part.bytes));
    row += part.bytes;
  }
}

void KvStore::put_key(std::int64_t g, std::int64_t slot, const std::byte* row) {
  if (layout_ == KLayout::kRows) {
    std::memcpy(k_.data() + (g * slots_ + slot) * k_row_, row, unsigned_of(k_row_));
    return;
  }
  std::byte* block = k_.data() + (g * slots_ + slot / 16 * 16) * k_row_;
  for (const Part& part : parts_) {
    std::memcpy(block + part.offset + slot % 16 * part.bytes, row, unsigned_of(part.bytes));
    row += part.bytes;
  }
}

void KvStore::copy(const KvStore& from, std::int64_t g, std::span<const std::int32_t> slots) {
  std::vector<std::byte> row(unsigned_of(k_row_));
  const std::int64_t scale_bytes = kv_scale_bytes(dtype_);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t slot = slots[i], to = static_cast<std::int64_t>(i);
    from.take_key(g, slot, row.data());
    put_key(g, to, row.data());
    std::memcpy(v_.data() + (g * slots_ + to) * v_row_, from.value_row(g, slot),
                unsigned_of(v_row_));
    if (scale_bytes == 0) continue;
    const auto scale = [&](const Reserved& of, std::int64_t at) {
      return of.data() + (at * G_ + g) * scale_bytes;
    };
    std::memcpy(scale(k_scale_, to), scale(from.k_scale_, slot), unsigned_of(scale_bytes));
    std::memcpy(scale(v_scale_, to), scale(from.v_scale_, slot), unsigned_of(scale_bytes));
  }
}

void KvStore::copy(const KvStore& from, std::int64_t tokens) {
  for (std::int64_t g = 0; g < G_; ++g) {
    std::memcpy(k_.data() + g * slots_ * k_row_, from.k_.data() + g * from.slots_ * k_row_,
                unsigned_of(tokens * k_row_));
    std::memcpy(v_.data() + g * slots_ * v_row_, from.value_row(g, 0),
                unsigned_of(tokens * v_row_));
  }
  const std::int64_t scales = tokens * G_ * kv_scale_bytes(dtype_);
  if (scales == 0) return;
  std::memcpy(k_scale_.data(), from.k_scale_.data(), unsigned_of(scales));
  std::memcpy(v_scale_.data(), from.v_scale_.data(), unsigned_of(scales));
}

std::int64_t KvStore::stretch_bytes(std::int64_t tokens) const {
  std::int64_t sum = 0;
  each_stretch(tokens, [&](const std::byte*, std::int64_t bytes) { sum += bytes; });
  return sum;
}

std::vector<std::byte> KvStore::stretch(std::int64_t tokens) const {
  std::vector<std::byte> out;
  out.reserve(unsigned_of(stretch_bytes(tokens)));
  each_stretch(tokens, [&](const std::byte* from, std::int64_t bytes) {
    out.insert(out.end(), from, from + bytes);
  });
  return out;
}

void KvStore::set_stretch(std::span<const std::byte> from, std::int64_t tokens) {
  each_stretch(tokens, [&](std::byte* to, std::int64_t bytes) {
    std::memcpy(to, from.data(), unsigned_of(bytes));
    from = from.subspan(unsigned_of(bytes));
  });
}

void KvStore::widen(std::int64_t g, std::int64_t first, std::int64_t tokens, float* k_SK,
                    float* v_SU) const {
  const auto scale = [&](const Reserved& of, std::int64_t slot) {
    return dtype_ == DType::kI8 ? reinterpret_cast<const float*>(of.data())[slot * G_ + g] : 1.0f;
  };
  std::vector<std::byte> row(unsigned_of(k_row_));
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::int64_t slot = first + i;
    take_key(g, slot, row.data());
    kv_widen_row(dtype_, row.data(), K_, scale(k_scale_, slot), k_SK + i * K_);
    kv_widen_row(dtype_, value_row(g, slot), U_, scale(v_scale_, slot), v_SU + i * U_);
  }
  if (!turns_keys(dtype_) || tokens == 0) return;
  // Keys lie turned; the turn is its own inverse.
  const Tensor k = hadamard(Tensor::of<float>({k_SK, unsigned_of(tokens * K_)}, {tokens, K_}));
  std::copy_n(k.data<float>(), tokens * K_, k_SK);
}

std::int64_t KvStore::bytes_per_token() const { return kv_bytes_per_token(dtype_, G_, K_, U_); }

}  // namespace quire::cache

#include "quire/cache/page_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "quire/base/checked.h"
#include "quire/base/error.h"
#include "quire/cache/tier_file.h"
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

/// Bytes of a page: keys and values over all layers, those of the largest layer, and its scales.
struct PageBytes {
  std::int64_t data = 0, largest = 0, largest_scales = 0;
  std::int64_t frame() const { return largest + largest_scales; }
};

PageBytes page_bytes(const std::vector<LayerSpec>& layers, std::int64_t pages, std::int64_t Z,
                     DType kv) {
  QUIRE_CHECK(pages > 0 && Z > 0 && Z <= (1 << 20), "a pool of ", pages, " pages of ", Z,
              " tokens; it needs at least one, and pages of at most ", 1 << 20);
  QUIRE_CHECK(stores_kv(kv), "a cache of ", to_string(kv), "; it may be ", kv_formats());
  PageBytes out;
  for (const LayerSpec& s : layers) {
    check(s);
    const std::int64_t layer = padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.K), 1)) +
                               padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.U), 1));
    out.data += layer;
    out.largest = std::max(out.largest, layer);
    out.largest_scales = std::max(out.largest_scales, 2 * Z * s.G * kv_scale_bytes(kv));
  }
  return out;
}

/// How many frames a limit has room for; 0 where there is none, or all pages fit.
std::int64_t frames_of(const std::vector<LayerSpec>& layers, std::int64_t pages, std::int64_t Z,
                       DType kv, const MemoryLimit& limit) {
  QUIRE_CHECK(limit.ram_bytes >= 0 && limit.disk_bytes >= 0, "a memory limit of ", limit.ram_bytes,
              " bytes, and ", limit.disk_bytes, " on disk");
  if (limit.ram_bytes == 0) return 0;
  const PageBytes bytes = page_bytes(layers, pages, Z, kv);
  const auto L = static_cast<std::int64_t>(layers.size());
  const std::int64_t frames = limit.ram_bytes / bytes.frame();
  if (frames / L >= pages) return 0;
  const std::int64_t least = PageStore::least_ram_bytes(layers, pages, Z, kv);
  QUIRE_CHECK(limit.ram_bytes >= least, "--cache-ram is ", limit.ram_bytes, " bytes; a cache of ",
              pages * Z, " tokens needs at least ", least,
              ", which is two of its layers: one that is used, and one that is read meanwhile");
  for (const LayerSpec& s : layers)
    QUIRE_CHECK(kv_scale_bytes(kv) == 0 || s.G == layers[0].G, "a cache of i8 with layers of ", s.G,
                " and ", layers[0].G, " heads cannot be limited (--cache-ram); use --kv f16");
  const std::uint64_t all = checked_bytes(L, pages, bytes.frame() + TierFile::header_bytes(), 1);
  QUIRE_CHECK(limit.disk_bytes == 0 || static_cast<std::uint64_t>(limit.disk_bytes) >= all,
              "--cache-disk may take ", limit.disk_bytes, " bytes; a cache of ", pages * Z,
              " tokens takes ", all);
  return std::min<std::int64_t>(frames, INT32_MAX);
}

std::uint64_t reserved_bytes(const std::vector<LayerSpec>& layers, std::int64_t pages,
                             std::int64_t Z, DType kv, std::int64_t frames) {
  const PageBytes bytes = page_bytes(layers, pages, Z, kv);
  return frames > 0 ? checked_bytes(frames, 1, bytes.largest, 1)
                    : checked_bytes(pages, 1, bytes.data, 1);
}

}  // namespace

void PageStore::check_limit(const std::vector<LayerSpec>& layers, std::int64_t pages,
                            std::int64_t Z, DType kv, const MemoryLimit& limit) {
  static_cast<void>(frames_of(layers, pages, Z, kv, limit));
}

std::int64_t PageStore::least_ram_bytes(const std::vector<LayerSpec>& layers, std::int64_t pages,
                                        std::int64_t Z, DType kv) {
  return static_cast<std::int64_t>(
      checked_bytes(2, pages, page_bytes(layers, pages, Z, kv).frame(), 1));
}

PageStore::PageStore(std::vector<LayerSpec> layers, std::int64_t pages, std::int64_t Z, DType kv,
                     const MemoryLimit& limit, const std::string& identity,
                     std::function<void(std::int32_t)> lost)
    : layers_(std::move(layers)),
      P_(frames_of(layers_, pages, Z, kv, limit)),
      Z_(Z),
      kv_(kv),
      data_(reserved_bytes(layers_, pages, Z, kv, P_), Reserved::Commit::kLarge) {
  const bool is_tiered = P_ > 0;
  if (!is_tiered) P_ = pages;
  const PageBytes bytes = page_bytes(layers_, pages, Z, kv);
  data_bytes_ = bytes.data;
  stride_ = is_tiered ? bytes.largest : bytes.data;
  std::int64_t at = 0;
  for (const LayerSpec& s : layers_) {
    Layer layer;
    layer.k_bytes = padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.K), 1));
    layer.v_bytes = padded(checked_bytes(Z, s.G, kv_row_bytes(kv, s.U), 1));
    layer.saved_k = at;
    layer.saved_v = at + layer.k_bytes;
    at = layer.saved_v + layer.v_bytes;
    layer.k = is_tiered ? 0 : layer.saved_k;
    layer.v = layer.k + layer.k_bytes;
    // Frames of all layers share their scales: there every layer has as many heads.
    if (scales_.empty() || !is_tiered) {
      const std::uint64_t scales = checked_bytes(P_, Z, s.G * kv_scale_bytes(kv), 1);
      scales_.emplace_back(scales);
      scales_.emplace_back(scales);
    }
    layer.scales = scales_.size() - 2;
    scale_bytes_ += 2 * Z * s.G * kv_scale_bytes(kv);
    places_.push_back(layer);
  }
  if (is_tiered) make_tier(limit, identity, pages, std::move(lost));
}

void PageStore::make_tier(const MemoryLimit& limit, const std::string& identity, std::int64_t pages,
                          std::function<void(std::int32_t)> lost) {
  TierSpec spec;
  spec.layers = static_cast<std::int64_t>(layers_.size());
  spec.pages = pages;
  spec.frames = P_;
  spec.folder = limit.folder;
  spec.deadline_ms = limit.deadline_ms;
  const std::int64_t scales = Z_ * scale_row(0);
  spec.payload_bytes = stride_ + 2 * scales;
  std::string format = concat(identity, ";", to_string(kv_), ";", Z_, ";",
                              k_layout() == KLayout::kBlocks ? "blocks" : "rows");
  for (const LayerSpec& s : layers_) format += concat(";", s.G, ",", s.K, ",", s.U);
  spec.format = checksum(std::as_bytes(std::span(format)));
  spec.parts = [this, scales](std::int32_t frame, std::int64_t layer) {
    const auto part = [&](std::byte* from, std::int64_t bytes) {
      return bytes == 0 ? std::span<std::byte>()
                        : std::span(from + frame * bytes, static_cast<std::size_t>(bytes));
    };
    const std::size_t s = places_[static_cast<std::size_t>(layer)].scales;
    return std::array{part(data_.data(), stride_), part(scales_[s].data(), scales),
                      part(scales_[s + 1].data(), scales)};
  };
  spec.lost = std::move(lost);
  tier_ = std::make_unique<Tier>(std::move(spec));
}

const PageStore::Layer& PageStore::layer_at(std::int64_t layer) const {
  QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers_.size()), "layer is ", layer,
              ", but the cache has ", layers_.size());
  return places_[static_cast<std::size_t>(layer)];
}

KvPages PageStore::places(std::int64_t layer) const {
  const Layer& at = layer_at(layer);
  const LayerSpec& s = layers_[static_cast<std::size_t>(layer)];
  const std::int64_t page = stride_ / kv_unit_bytes(kv_), k_row = kv_row_stride(kv_, s.K),
                     v_row = kv_row_stride(kv_, s.U);
  return {data_.data() + at.k,
          data_.data() + at.v,
          {page, k_row, Z_ * k_row},
          {page, v_row, Z_ * v_row},
          k_layout(),
          kv_,
          reinterpret_cast<float*>(scales_[at.scales].data()),
          reinterpret_cast<float*>(scales_[at.scales + 1].data()),
          P_,
          Z_,
          s.G,
          s.K,
          s.U};
}

KvPages PageStore::pages(std::int64_t layer) const {
  QUIRE_CHECK(tier_ == nullptr,
              "pages under a memory limit have no lasting place: ask the cache to attend");
  return places(layer);
}

KvView PageStore::view(std::int64_t layer) const { return view_of(pages(layer)); }

void PageStore::write(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU,
                      const Tensor& slot_N) {
  const KvPages to = places(layer);
  if (tier_ == nullptr) return kv_write(to, k_NGK, v_NGU, slot_N);
  const std::span slots(slot_N.data<std::int64_t>(), static_cast<std::size_t>(slot_N.size(0)));
  std::vector<std::int32_t> touched;
  for (const std::int64_t slot : slots)
    if (touched.empty() || touched.back() != slot / Z_)
      touched.push_back(static_cast<std::int32_t>(slot / Z_));
  Tier::Lease lease = tier_->lease(layer, touched);
  for (const std::int32_t page : touched) lease.mark_written(page);
  Tensor place_N = Tensor::empty({slot_N.size(0)}, DType::kI64);
  auto* place = place_N.mutable_data<std::int64_t>();
  for (const std::int64_t slot : slots)
    *place++ = lease.frame(static_cast<std::int32_t>(slot / Z_)) * Z_ + slot % Z_;
  kv_write(to, k_NGK, v_NGU, place_N);
}

PageStore::Reading PageStore::read(std::int64_t layer, std::span<const std::int32_t> table) const {
  Reading out;
  out.view = view_of(places(layer));
  out.view.table = table.data();
  out.view.W = static_cast<std::int64_t>(table.size());
  if (tier_ == nullptr) return out;
  std::vector<std::int32_t> held;
  std::copy_if(table.begin(), table.end(), std::back_inserter(held),
               [](std::int32_t page) { return page >= 0; });
  out.lease_.emplace(tier_->lease(layer, held));
  out.lease_->read_ahead((layer + 1) % static_cast<std::int64_t>(layers_.size()));
  out.frames_.reserve(table.size());
  for (const std::int32_t page : table)
    out.frames_.push_back(page < 0 ? page : out.lease_->frame(page));
  out.view.table = out.frames_.data();
  return out;
}

PageStore::Sides PageStore::sides(std::size_t i, std::int64_t place) const {
  std::byte* stretch = data_.data() + place * stride_;
  return {stretch + places_[i].k, stretch + places_[i].v};
}

PageStore::Sides PageStore::saved_sides(std::size_t i, std::byte* stretch) const {
  return {stretch + places_[i].saved_k, stretch + places_[i].saved_v};
}

/// Calls f(i, place) for each layer of a page, with its place in memory.
template <class F>
void PageStore::each_layer(std::int32_t page, F&& f) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (tier_ == nullptr) {
      f(i, std::int64_t{page}, nullptr);
      continue;
    }
    Tier::Lease lease = tier_->lease(static_cast<std::int64_t>(i), {&page, 1});
    f(i, std::int64_t{lease.frame(page)}, &lease);
  }
}

std::span<std::byte> PageStore::data(std::int32_t page) const {
  if (tier_ != nullptr) return {};
  return {data_.data() + page * data_bytes_, static_cast<std::size_t>(data_bytes_)};
}

void PageStore::copy_tokens(std::size_t i, const Sides& from, const Sides& to,
                            std::int64_t slots) const {
  const LayerSpec& s = layers_[i];
  const auto part = [](std::byte* out, const std::byte* in, std::int64_t bytes) {
    std::memcpy(out, in, static_cast<std::size_t>(bytes));
  };
  // Whole blocks of 16 keys, then the lanes of the last one.
  const std::int64_t whole = k_layout() == KLayout::kBlocks ? slots / 16 * 16 : slots,
                     k_row = kv_row_bytes(kv_, s.K), v_row = kv_row_bytes(kv_, s.U);
  for (std::int64_t g = 0; g < s.G; ++g) {
    const std::int64_t k = g * Z_ * k_row, v = g * Z_ * v_row;
    part(to.k + k, from.k + k, whole * k_row);
    if (whole < slots) {
      each_kv_lane_part(kv_, s.K, [&](std::int64_t at, std::int64_t lane_bytes) {
        const std::int64_t lanes = k + whole * k_row + at;
        part(to.k + lanes, from.k + lanes, (slots - whole) * lane_bytes);
      });
    }
    part(to.v + v, from.v + v, slots * v_row);
  }
}

std::int64_t PageStore::scale_row(std::size_t i) const {
  return layers_[i].G * kv_scale_bytes(kv_);
}

/// Calls f(scales of the place, bytes of a token) for keys, then for values.
template <class F>
void PageStore::each_scale(std::size_t i, std::int64_t place, F&& f) const {
  const std::int64_t row = scale_row(i);
  if (row == 0) return;
  for (std::size_t side = 0; side < 2; ++side)
    f(scales_[places_[i].scales + side].data() + place * Z_ * row, row);
}

void PageStore::copy(std::int32_t from, std::int32_t to, std::int64_t slots) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    std::int64_t source = from, target = to;
    std::optional<Tier::Lease> lease;
    if (tier_ != nullptr) {
      lease.emplace(tier_->lease(static_cast<std::int64_t>(i), std::array{from, to}));
      lease->mark_written(to);
      source = lease->frame(from);
      target = lease->frame(to);
    }
    copy_tokens(i, sides(i, source), sides(i, target), slots);
    each_scale(i, source, [&](std::byte* scales, std::int64_t row) {
      std::memcpy(scales + (target - source) * Z_ * row, scales,
                  static_cast<std::size_t>(slots * row));
    });
  }
}

void PageStore::forget(std::int32_t page) {
  if (tier_ != nullptr) tier_->forget(page);
}

void PageStore::copy_data(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  each_layer(page, [&](std::size_t i, std::int64_t place, Tier::Lease*) {
    copy_tokens(i, sides(i, place), saved_sides(i, out.data()), slots);
  });
}

void PageStore::set_data(std::int32_t page, std::span<const std::byte> from) {
  each_layer(page, [&](std::size_t i, std::int64_t place, Tier::Lease* lease) {
    if (lease != nullptr) lease->mark_written(page);
    const Layer& at = places_[i];
    const Sides to = sides(i, place);
    std::memcpy(to.k, from.data() + at.saved_k, static_cast<std::size_t>(at.k_bytes));
    std::memcpy(to.v, from.data() + at.saved_v, static_cast<std::size_t>(at.v_bytes));
  });
}

void PageStore::copy_scales(std::int32_t page, std::int64_t slots, std::span<std::byte> out) const {
  std::byte* at = out.data();
  each_layer(page, [&](std::size_t i, std::int64_t place, Tier::Lease*) {
    each_scale(i, place, [&](const std::byte* scales, std::int64_t row) {
      std::memcpy(at, scales, static_cast<std::size_t>(slots * row));
      std::memset(at + slots * row, 0, static_cast<std::size_t>((Z_ - slots) * row));
      at += Z_ * row;
    });
  });
}

void PageStore::set_scales(std::int32_t page, std::span<const std::byte> from) {
  if (from.empty()) return;
  const std::byte* at = from.data();
  each_layer(page, [&](std::size_t i, std::int64_t place, Tier::Lease* lease) {
    if (lease != nullptr) lease->mark_written(page);
    each_scale(i, place, [&](std::byte* scales, std::int64_t row) {
      std::memcpy(scales, at, static_cast<std::size_t>(Z_ * row));
      at += Z_ * row;
    });
  });
}

std::int64_t PageStore::bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const LayerSpec& s : layers_) bytes += kv_bytes_per_token(kv_, s.G, s.K, s.U);
  return bytes;
}

}  // namespace quire::cache

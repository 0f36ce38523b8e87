#include "quire/cache/tiered_pages.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/kv_store.h"
#include "quire/cache/tier_file.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

constexpr std::int64_t kZ = TieredPages::kTokens;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int64_t row_bytes(const LayerSpec& s, DType kv) {
  return (s.K + s.U) * static_cast<std::int64_t>(size_of(kv));
}

/// Pages of a head, and of a layer with the most heads.
std::int64_t pages_of_head(std::int64_t capacity) { return (capacity + kZ - 1) / kZ; }
std::int64_t pages_of_layer(const std::vector<LayerSpec>& layers, std::int64_t capacity) {
  std::int64_t heads = 0;
  for (const LayerSpec& s : layers) heads = std::max(heads, s.G);
  return heads * pages_of_head(capacity);
}

/// Bytes of a page in memory. Scales of i8 lie beside those of the other heads, as attention reads
/// them, and only one head's are used.
std::int64_t page_bytes(const LayerSpec& s, DType kv) {
  return kZ * (row_bytes(s, kv) + 2 * s.G * kv_scale_bytes(kv));
}

}  // namespace

std::int64_t TieredPages::least_ram_bytes(const std::vector<LayerSpec>& layers,
                                          std::int64_t capacity, DType kv) {
  return static_cast<std::int64_t>(
      checked_bytes(2, pages_of_layer(layers, capacity), page_bytes(layers.at(0), kv), 1));
}

bool TieredPages::needs_tier(const std::vector<LayerSpec>& layers, std::int64_t capacity, DType kv,
                             const MemoryLimit& limit) {
  QUIRE_CHECK(limit.ram_bytes >= 0 && limit.disk_bytes >= 0, "a memory limit of ", limit.ram_bytes,
              " bytes, and ", limit.disk_bytes, " on disk");
  if (limit.ram_bytes == 0 || layers.empty()) return false;
  const std::int64_t frame = page_bytes(layers[0], kv), L = std::ssize(layers),
                     pages = pages_of_layer(layers, capacity);
  if (limit.ram_bytes / frame / L >= pages) return false;
  const std::int64_t least = least_ram_bytes(layers, capacity, kv);
  QUIRE_CHECK(limit.ram_bytes >= least, "--cache-ram is ", limit.ram_bytes, " bytes; a cache of ",
              capacity, " tokens needs at least ", least,
              ", which is two of its layers: one that is used, and one that is read meanwhile");
  for (const LayerSpec& s : layers)
    QUIRE_CHECK(page_bytes(s, kv) == frame, "a tiered cache whose layers differ in size cannot be ",
                "limited (--cache-ram)");
  const std::uint64_t all = checked_bytes(L, pages, frame + TierFile::header_bytes(), 1);
  QUIRE_CHECK(limit.disk_bytes == 0 || static_cast<std::uint64_t>(limit.disk_bytes) >= all,
              "--cache-disk may take ", limit.disk_bytes, " bytes; a cache of ", capacity,
              " tokens takes ", all);
  return true;
}

TieredPages::TieredPages(std::vector<LayerSpec> layers, std::int64_t capacity, DType kv,
                         const MemoryLimit& limit, const std::string& identity)
    : layers_(std::move(layers)), kv_(kv), per_head_(pages_of_head(capacity)) {
  QUIRE_CHECK(needs_tier(layers_, capacity, kv, limit), "a limit of ", limit.ram_bytes,
              " bytes, which all fits into");
  row_bytes_ = row_bytes(layers_[0], kv);
  scale_bytes_ = layers_[0].G * kv_scale_bytes(kv);
  frames_ = std::min<std::int64_t>(limit.ram_bytes / frame_bytes(), INT32_MAX / kZ);
  rows_.emplace(checked_bytes(frames_, kZ, row_bytes_, 1), Reserved::Commit::kLarge);
  k_scale_.emplace(checked_bytes(frames_, kZ, scale_bytes_, 1));
  v_scale_.emplace(checked_bytes(frames_, kZ, scale_bytes_, 1));
  TierSpec spec;
  spec.layers = std::ssize(layers_);
  spec.pages = pages_of_layer(layers_, capacity);
  spec.frames = frames_;
  spec.folder = limit.folder;
  spec.deadline_ms = limit.deadline_ms;
  spec.payload_bytes = frame_bytes();
  std::string format = concat(identity, ";heads;", to_string(kv), ";", kZ);
  for (const LayerSpec& s : layers_) format += concat(";", s.G, ",", s.K, ",", s.U);
  spec.format = checksum(std::as_bytes(std::span(format)));
  spec.parts = [this](std::int32_t frame, std::int64_t) {
    const auto part = [&](const Reserved& of, std::int64_t token) {
      const std::int64_t bytes = kZ * token;
      return bytes == 0 ? std::span<std::byte>() : std::span(of.data() + frame * bytes, at(bytes));
    };
    return std::array{part(*rows_, row_bytes_), part(*k_scale_, scale_bytes_),
                      part(*v_scale_, scale_bytes_)};
  };
  spec.lost = [this](std::int32_t page) {
    const std::int64_t slot = page % per_head_ * kZ;
    lost_ = lost_ ? std::min(*lost_, slot) : slot;
  };
  tier_ = std::make_unique<Tier>(std::move(spec));
}

TieredPages::~TieredPages() = default;

/// Whose head a page is, the table says.
KvPages TieredPages::places(std::int64_t layer, std::int64_t Z) const {
  const LayerSpec& s = spec_at(layer);
  const std::int64_t row = s.K + s.U;
  const PageStrides strides{Z * row, row, 0};
  return {rows_->data(),
          rows_->data() + s.K * static_cast<std::int64_t>(size_of(kv_)),
          strides,
          strides,
          KLayout::kRows,
          kv_,
          reinterpret_cast<float*>(k_scale_->data()),
          reinterpret_cast<float*>(v_scale_->data()),
          frames_ * kZ / Z,
          Z,
          s.G,
          s.K,
          s.U};
}

TieredPages::Reading::Reading(const TieredPages& of, std::int64_t layer,
                              std::vector<std::int32_t> pages)
    : of_(&of), layer_(layer), pages_(std::move(pages)), lease_(of.tier_->lease(layer, pages_)) {}

TieredPages::Reading TieredPages::read(std::int64_t layer, std::span<const Range> ranges) const {
  std::vector<std::int32_t> pages;
  for (std::int64_t g = 0; g < spec_at(layer).G; ++g)
    for (const Range& range : ranges)
      for (std::int64_t slot = range.begin / kZ * kZ; slot < range.end; slot += kZ)
        pages.push_back(page_of(g, slot));
  return {*this, layer, std::move(pages)};
}

TieredPages::Reading TieredPages::read(std::int64_t layer,
                                       std::span<const std::vector<std::int32_t>> slots_G) const {
  std::vector<std::int32_t> pages;
  for (std::size_t g = 0; g < slots_G.size(); ++g)
    for (const std::int32_t slot : slots_G[g]) {
      const std::int32_t page = page_of(static_cast<std::int64_t>(g), slot);
      if (pages.empty() || pages.back() != page) pages.push_back(page);
    }
  return {*this, layer, std::move(pages)};
}

KvView TieredPages::Reading::rows() const {
  return view_of(of_->places(layer_, of_->frames_ * kZ));
}

std::int32_t TieredPages::Reading::place(std::int64_t g, std::int64_t slot) const {
  return lease_.frame(of_->page_of(g, slot)) * static_cast<std::int32_t>(kZ) +
         static_cast<std::int32_t>(slot % kZ);
}

KvView TieredPages::Reading::stretch(std::int64_t begin, std::int64_t end) {
  const std::int64_t G = of_->spec_at(layer_).G;
  table_.clear();
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t slot = begin; slot < end; slot += kZ)
      table_.push_back(lease_.frame(of_->page_of(g, slot)));
  KvView view = view_of(of_->places(layer_, kZ));
  view.table = table_.data();
  view.W = view.table_head_stride = std::ssize(table_) / G;
  return view;
}

KvView TieredPages::Reading::tokens(std::span<const std::int32_t> slot_GN, std::int64_t N) {
  table_.clear();
  for (std::size_t i = 0; i < slot_GN.size(); ++i)
    table_.push_back(place(static_cast<std::int64_t>(i) / N, slot_GN[i]));
  KvView view = view_of(of_->places(layer_, 1));
  view.table = table_.data();
  view.W = view.table_head_stride = N;
  return view;
}

/// Rows of a layer outside the frames, [G, N], with scales [N, G].
struct TieredPages::Rows {
  const TieredPages& of;
  std::int64_t G, N;
  std::vector<std::byte> data;
  std::vector<float> k_scale, v_scale;

  Rows(const TieredPages& from, std::int64_t heads, std::int64_t tokens)
      : of(from), G(heads), N(tokens), data(at(heads * tokens * from.row_bytes_)) {
    if (of.scale_bytes_ == 0) return;
    k_scale.resize(at(G * N));
    v_scale.resize(at(G * N));
  }
  void put(std::int64_t g, std::int64_t n, std::int64_t place) const {
    std::memcpy(of.rows_->data() + place * of.row_bytes_, row(g, n), at(of.row_bytes_));
    if (of.scale_bytes_ == 0) return;
    scale(*of.k_scale_, place, g) = k_scale[at(n * G + g)];
    scale(*of.v_scale_, place, g) = v_scale[at(n * G + g)];
  }
  void take(std::int64_t g, std::int64_t n, std::int64_t place) {
    std::memcpy(data.data() + (g * N + n) * of.row_bytes_, of.rows_->data() + place * of.row_bytes_,
                at(of.row_bytes_));
    if (of.scale_bytes_ == 0) return;
    k_scale[at(n * G + g)] = scale(*of.k_scale_, place, g);
    v_scale[at(n * G + g)] = scale(*of.v_scale_, place, g);
  }

 private:
  const std::byte* row(std::int64_t g, std::int64_t n) const {
    return data.data() + (g * N + n) * of.row_bytes_;
  }
  float& scale(const Reserved& scales, std::int64_t place, std::int64_t g) const {
    return reinterpret_cast<float*>(scales.data())[place * G + g];
  }
};

void TieredPages::write(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU,
                        std::int64_t first) {
  const std::int64_t N = k_NGK.size(0), G = spec_at(layer).G;
  if (N == 0) return;
  // Rounded side by side, then dealt out: each head has frames of its own.
  Rows rows(*this, G, N);
  KvPages side = places(layer, kZ);
  const std::int64_t row = side.K + side.U;
  side.k_pages = rows.data.data();
  side.v_pages = rows.data.data() + side.K * static_cast<std::int64_t>(size_of(kv_));
  side.k_strides = side.v_strides = {N * G * row, row, N * row};
  side.P = 1;
  side.Z = N;
  if (scale_bytes_ > 0) {
    side.k_scale_PZG = rows.k_scale.data();
    side.v_scale_PZG = rows.v_scale.data();
  }
  write_from(side, k_NGK, v_NGU, 0);
  const Range range{first, first + N};
  Reading to = read(layer, std::span(&range, 1));
  for (const std::int32_t page : to.pages_) to.lease_.mark_written(page);
  used_ = std::max(used_, first + N);
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t n = 0; n < N; ++n) rows.put(g, n, to.place(g, first + n));
}

void TieredPages::arrange(Reading& reading, std::int64_t begin,
                          std::span<const std::vector<std::int32_t>> from_G) {
  const auto N = std::ssize(from_G[0]);
  const std::int64_t G = std::ssize(from_G);
  Rows rows(*this, G, N);
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t i = 0; i < N; ++i)
      rows.take(g, i, reading.place(g, begin + from_G[at(g)][at(i)]));
  for (const std::int32_t page : reading.pages_) reading.lease_.mark_written(page);
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t i = 0; i < N; ++i) rows.put(g, i, reading.place(g, begin + i));
}

std::vector<std::byte> TieredPages::rows(Reading& reading, std::span<const std::int32_t> slot_GN,
                                         std::int64_t N) const {
  const std::int64_t G = std::ssize(slot_GN) / N;
  Rows rows(*this, G, N);
  for (std::int64_t i = 0; i < G * N; ++i)
    rows.take(i / N, i % N, reading.place(i / N, slot_GN[at(i)]));
  for (const std::vector<float>* scale : {&rows.k_scale, &rows.v_scale}) {
    const auto bytes = std::as_bytes(std::span(*scale));
    rows.data.insert(rows.data.end(), bytes.begin(), bytes.end());
  }
  return std::move(rows.data);
}

void TieredPages::set_rows(std::int64_t layer, std::span<const std::byte> bytes, std::int64_t N) {
  const std::int64_t G = spec_at(layer).G;
  Rows rows(*this, G, N);
  std::memcpy(rows.data.data(), bytes.data(), rows.data.size());
  std::size_t from = rows.data.size();
  for (std::vector<float>* scale : {&rows.k_scale, &rows.v_scale}) {
    if (scale->empty()) continue;
    std::memcpy(scale->data(), bytes.data() + from, 4 * scale->size());
    from += 4 * scale->size();
  }
  const Range range{0, N};
  Reading to = read(layer, std::span(&range, 1));
  for (const std::int32_t page : to.pages_) to.lease_.mark_written(page);
  used_ = std::max(used_, N);
  for (std::int64_t i = 0; i < G * N; ++i) rows.put(i / N, i % N, to.place(i / N, i % N));
}

void TieredPages::forget_from(std::int64_t slot) {
  std::int64_t heads = 0;
  for (const LayerSpec& s : layers_) heads = std::max(heads, s.G);
  for (std::int64_t whole = (slot + kZ - 1) / kZ * kZ; whole < used_; whole += kZ)
    for (std::int64_t g = 0; g < heads; ++g) tier_->forget(page_of(g, whole));
  used_ = std::min(used_, slot);
}

std::optional<std::int64_t> TieredPages::take_lost() { return std::exchange(lost_, std::nullopt); }

}  // namespace quire::cache

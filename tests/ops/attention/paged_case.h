#pragma once

// Keys and values that are a function of (sequence, head, position), in any form that a KvView can
// describe: what the attention tests compare. Whatever no sequence owns is NaN.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/base/half.h"
#include "quire/ops/attention/attention.h"
#include "quire/tensor/rng.h"

namespace quire::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum class Table { kNone, kSequences, kHeads, kCsr };

struct PagedForm {
  DType dtype = DType::kF32;
  KLayout layout = KLayout::kRows;
  bool head_first = false;  // pages are [G, Z, K] instead of [Z, G, K]; blocks always are
  std::int64_t Z = 16, G = 1, K = 16, U = 16;
  Table table = Table::kSequences;
  std::uint64_t order = 1;      // shuffles the pages; 0 leaves them in order
  std::int64_t bias_heads = 0;  // 0: no bias
  bool lengths_per_head = false;
};

/// A number that depends on these four alone, roughly normal.
inline float value_at(std::uint64_t what, std::int64_t b, std::int64_t head, std::int64_t position,
                      std::int64_t k) {
  const auto bits = philox({static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(head),
                            static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(k)},
                           {static_cast<std::uint32_t>(what), 77u});
  double sum = 0;
  for (const std::uint32_t word : bits) sum += static_cast<double>(word) * 0x1p-32 - 0.5;
  return static_cast<float>(sum * 1.7);
}

class PagedCase {
 public:
  /// `lengths` and `firsts` are [B], or [B, G] with lengths_per_head; `firsts` may be empty.
  PagedCase(const PagedForm& form, std::vector<std::int64_t> lengths,
            std::vector<std::int64_t> firsts = {})
      : form_(form), lengths_(std::move(lengths)), firsts_(std::move(firsts)) {
    const std::int64_t per = form_.lengths_per_head ? form_.G : 1;
    B_ = static_cast<std::int64_t>(lengths_.size()) / per;
    make_table();
    make_pages();
    for (std::int64_t b = 0; b < B_; ++b)
      for (std::int64_t g = 0; g < form_.G; ++g)
        for (std::int64_t s = 0; s < length(b, g); ++s) fill(b, g, s);
  }

  std::int64_t length(std::int64_t b, std::int64_t g) const { return lengths_[at(b, g)]; }
  std::int64_t first(std::int64_t b, std::int64_t g) const {
    return firsts_.empty() ? 0 : firsts_[at(b, g)];
  }

  KvView view() const {
    KvView kv;
    kv.k_pages = k_.data();
    kv.v_pages = v_.data();
    kv.k_strides = strides(form_.K, form_.head_first || form_.layout == KLayout::kBlocks);
    kv.v_strides = strides(form_.U, form_.head_first);
    kv.k_layout = form_.layout;
    kv.dtype = form_.dtype;
    if (form_.dtype == DType::kI8) {
      kv.k_scale_PZG = k_scale_.data();
      kv.v_scale_PZG = v_scale_.data();
    }
    kv.P = P_;
    kv.Z = form_.Z;
    kv.G = form_.G;
    kv.K = form_.K;
    kv.U = form_.U;
    if (form_.bias_heads > 0) {
      kv.bias = bias_.data();
      kv.bias_heads = form_.bias_heads;
    }
    kv.W = W_;
    if (form_.table != Table::kNone) kv.table = table_.data();
    if (form_.table == Table::kHeads) kv.table_head_stride = W_;
    if (form_.table == Table::kCsr) kv.table_start_J = table_start_.data();
    kv.length_BG = lengths_.data();
    kv.length_stride_G = form_.lengths_per_head ? 1 : 0;
    if (!firsts_.empty()) kv.first_BG = firsts_.data();
    return kv;
  }

  /// Puts NaN into key, value or both of a slot; into the scales of i8.
  void poison(std::int64_t b, std::int64_t g, std::int64_t s, bool key, bool value) {
    const std::int64_t page = page_of(b, g, s / form_.Z), slot = s % form_.Z;
    const auto i = static_cast<std::size_t>((page * form_.Z + slot) * form_.G + g);
    if (key && form_.dtype == DType::kI8) k_scale_[i] = kNan;
    if (value && form_.dtype == DType::kI8) v_scale_[i] = kNan;
    if (form_.dtype == DType::kI8) return;
    for (std::int64_t k = 0; key && k < form_.K; ++k) put(k_, key_index(page, slot, g, k), kNan);
    for (std::int64_t u = 0; value && u < form_.U; ++u)
      put(v_, value_index(page, slot, g, u), kNan);
  }
  void set_value(std::int64_t b, std::int64_t g, std::int64_t s, std::int64_t u, float x) {
    put(v_, value_index(page_of(b, g, s / form_.Z), s % form_.Z, g, u), x);
  }
  void set_bias(std::int64_t b, std::int64_t s, std::int64_t head, float x) {
    const std::int64_t g = form_.bias_heads <= 1 ? 0 : head * form_.G / form_.bias_heads;
    const std::int64_t key = page_of(b, g, s / form_.Z) * form_.Z + s % form_.Z;
    bias_[static_cast<std::size_t>(key * form_.bias_heads + head)] = x;
  }
  std::vector<std::int32_t>& table() { return table_; }
  std::vector<std::int64_t>& lengths() { return lengths_; }

 private:
  std::size_t at(std::int64_t b, std::int64_t g) const {
    return static_cast<std::size_t>(form_.lengths_per_head ? b * form_.G + g : b);
  }
  std::int64_t pages_of(std::int64_t b, std::int64_t g) const {
    return (length(b, g) + form_.Z - 1) / form_.Z;
  }
  std::int64_t longest(std::int64_t b) const {
    std::int64_t most = 0;
    for (std::int64_t g = 0; g < form_.G; ++g) most = std::max(most, pages_of(b, g));
    return most;
  }
  PageStrides strides(std::int64_t width, bool head_first) const {
    const std::int64_t page = form_.Z * form_.G * width;
    return head_first ? PageStrides{page, width, form_.Z * width}
                      : PageStrides{page, form_.G * width, width};
  }
  std::int64_t key_index(std::int64_t page, std::int64_t slot, std::int64_t g,
                         std::int64_t k) const {
    const PageStrides s = strides(form_.K, form_.head_first || form_.layout == KLayout::kBlocks);
    const std::int64_t base = page * s.page + g * s.head;
    if (form_.layout == KLayout::kRows) return base + slot * s.slot + k;
    return base + slot / 16 * 16 * s.slot + k * 16 + slot % 16;
  }
  std::int64_t value_index(std::int64_t page, std::int64_t slot, std::int64_t g,
                           std::int64_t u) const {
    const PageStrides s = strides(form_.U, form_.head_first);
    return page * s.page + slot * s.slot + g * s.head + u;
  }
  std::int64_t page_of(std::int64_t b, std::int64_t g, std::int64_t w) const {
    if (form_.table == Table::kNone) return b;
    if (form_.table == Table::kCsr)
      return table_[static_cast<std::size_t>(table_start_[static_cast<std::size_t>(b)] + w)];
    return table_[static_cast<std::size_t>(form_.table == Table::kHeads ? (b * form_.G + g) * W_ + w
                                                                        : b * W_ + w)];
  }

  void make_table() {
    const std::int64_t rows = form_.table == Table::kHeads ? B_ * form_.G : B_;
    std::int64_t used = 0;
    W_ = 1;
    for (std::int64_t b = 0; b < B_; ++b) W_ = std::max(W_, longest(b) + 1);
    std::vector<std::int64_t> counts;
    for (std::int64_t r = 0; r < rows; ++r) {
      counts.push_back(form_.table == Table::kHeads ? pages_of(r / form_.G, r % form_.G)
                                                    : longest(r));
      used += counts.back();
    }
    P_ = form_.table == Table::kNone ? B_ : used + 2;
    std::vector<std::int32_t> pages(static_cast<std::size_t>(P_));
    std::iota(pages.begin(), pages.end(), 0);
    Rng rng(form_.order);
    for (std::size_t i = pages.size(); form_.order != 0 && i > 1; --i)
      std::swap(pages[i - 1], pages[rng.below(i)]);
    std::size_t next = 0;
    if (form_.table == Table::kCsr) {
      table_start_.push_back(0);
      for (const std::int64_t count : counts) {
        for (std::int64_t w = 0; w < count; ++w) table_.push_back(pages[next++]);
        table_start_.push_back(static_cast<std::int32_t>(table_.size()));
      }
      table_.push_back(-1);  // so that an empty table still has an address
    } else {
      table_.assign(static_cast<std::size_t>(rows * W_), -1);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t w = 0; w < counts[static_cast<std::size_t>(r)]; ++w)
          table_[static_cast<std::size_t>(r * W_ + w)] = pages[next++];
    }
  }

  void make_pages() {
    const auto slots = static_cast<std::size_t>(P_ * form_.Z * form_.G);
    const std::size_t width = size_of(form_.dtype);
    // 0xff bytes are NaN in every floating type.
    k_.assign(slots * static_cast<std::size_t>(form_.K) * width, std::byte{0xff});
    v_.assign(slots * static_cast<std::size_t>(form_.U) * width, std::byte{0xff});
    k_scale_.assign(slots, kNan);
    v_scale_.assign(slots, kNan);
    bias_.assign(static_cast<std::size_t>(P_ * form_.Z * form_.bias_heads), kNan);
  }

  void put(std::vector<std::byte>& pages, std::int64_t index, float x) {
    const auto i = static_cast<std::size_t>(index);
    const double wide = double{x};
    if (form_.dtype == DType::kF64) std::memcpy(&pages[8 * i], &wide, 8);
    if (form_.dtype == DType::kF32) std::memcpy(&pages[4 * i], &x, 4);
    const Half half = to_half(x);
    const BFloat16 narrow = to_bfloat16(x);
    if (form_.dtype == DType::kF16) std::memcpy(&pages[2 * i], &half, 2);
    if (form_.dtype == DType::kBF16) std::memcpy(&pages[2 * i], &narrow, 2);
    if (form_.dtype == DType::kI8)
      pages[i] = static_cast<std::byte>(static_cast<std::int8_t>(std::lround(36.0f * x)));
  }

  void fill(std::int64_t b, std::int64_t g, std::int64_t s) {
    const std::int64_t page = page_of(b, g, s / form_.Z), slot = s % form_.Z,
                       position = first(b, g) + s;
    for (std::int64_t k = 0; k < form_.K; ++k)
      put(k_, key_index(page, slot, g, k), value_at(1, b, g, position, k));
    for (std::int64_t u = 0; u < form_.U; ++u)
      put(v_, value_index(page, slot, g, u), value_at(2, b, g, position, u));
    const auto i = static_cast<std::size_t>((page * form_.Z + slot) * form_.G + g);
    k_scale_[i] = 0.03f + 0.003f * value_at(3, b, g, position, 0);
    v_scale_[i] = 0.03f + 0.003f * value_at(4, b, g, position, 0);
    for (std::int64_t h = 0; h < form_.bias_heads; ++h) {
      if (form_.bias_heads > 1 && h * form_.G / form_.bias_heads != g) continue;
      bias_[static_cast<std::size_t>((page * form_.Z + slot) * form_.bias_heads + h)] =
          value_at(5, b, h, position, 0);
    }
  }

  PagedForm form_;
  std::vector<std::int64_t> lengths_, firsts_;
  std::int64_t B_ = 0, P_ = 0, W_ = 1;
  std::vector<std::byte> k_, v_;
  std::vector<float> k_scale_, v_scale_, bias_;
  std::vector<std::int32_t> table_, table_start_;
};

/// kv head `g` of a view of one sequence, alone.
inline KvView one_head(KvView kv, std::int64_t g) {
  const std::int64_t bytes = kv.dtype == DType::kI8 ? 1 : kv.dtype == DType::kF32 ? 4 : 2;
  kv.k_pages = static_cast<const std::byte*>(kv.k_pages) + g * kv.k_strides.head * bytes;
  kv.v_pages = static_cast<const std::byte*>(kv.v_pages) + g * kv.v_strides.head * bytes;
  kv.table += g * kv.table_head_stride;
  kv.length_BG += g * kv.length_stride_G;
  if (kv.first_BG != nullptr) kv.first_BG += g * kv.length_stride_G;
  kv.G = 1;
  return kv;
}

/// Queries of sequences with these counts; query t of sequence b depends on (b, h, t + skip) alone.
struct Queries {
  Queries(const std::vector<std::int64_t>& counts, std::int64_t heads, std::int64_t K,
          std::int64_t skip = 0, std::int64_t first_sequence = 0)
      : H(heads) {
    start.push_back(0);
    for (std::size_t b = 0; b < counts.size(); ++b) {
      for (std::int64_t t = 0; t < counts[b]; ++t)
        for (std::int64_t h = 0; h < H; ++h)
          for (std::int64_t k = 0; k < K; ++k)
            values.push_back(
                1.5f * value_at(6, first_sequence + static_cast<std::int64_t>(b), h, t + skip, k));
      start.push_back(start.back() + static_cast<std::int32_t>(counts[b]));
    }
    q_NHK = Tensor::of(std::span<const float>(values), {start.back(), H, K});
    start_J =
        Tensor::of(std::span<const std::int32_t>(start), {static_cast<std::int64_t>(start.size())});
  }

  AttentionResult attend(const KvView& kv, const AttentionSpec& spec) const {
    return attention(q_NHK, start_J, kv, spec);
  }

  std::int64_t H;
  std::vector<float> values;
  std::vector<std::int32_t> start;
  Tensor q_NHK, start_J;
};

inline AttentionSpec causal(Alignment alignment = Alignment::kBottomRight) {
  AttentionSpec spec;
  spec.alignment = alignment;
  return spec;
}

/// What the hand-worked cases stand on: keys 0 and ln 3 with values 8 and 4, so that queries of 1
/// weigh them by 1/4 and 3/4.
struct TwoKeys {
  explicit TwoKeys(std::int32_t queries) : start{0, queries} {
    kv.k_pages = k;
    kv.v_pages = v;
    kv.k_strides = kv.v_strides = {2, 1, 2};
    kv.P = kv.G = kv.K = kv.U = 1;
    kv.Z = 2;
    kv.length_BG = &length;
    const std::vector<float> ones(static_cast<std::size_t>(queries), 1.0f);
    q_NHK = Tensor::of(std::span<const float>(ones), {queries, 1, 1});
    start_J = Tensor::of(std::span<const std::int32_t>(start), {2});
  }
  TwoKeys(const TwoKeys&) = delete;
  TwoKeys& operator=(const TwoKeys&) = delete;

  const float k[2] = {0, std::log(3.0f)}, v[2] = {8, 4};
  const std::int64_t length = 2;
  const std::int32_t start[2];
  KvView kv;
  Tensor q_NHK, start_J;
};

/// Bit for bit, NaN included.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous_copy(), y = b.contiguous_copy();
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         (x.bytes() == 0 ||
          std::memcmp(x.data<void>(), y.data<void>(), static_cast<std::size_t>(x.bytes())) == 0);
}
inline bool same_bits(const AttentionResult& a, const AttentionResult& b) {
  return same_bits(a.out_NHU, b.out_NHU) && same_bits(a.lse_NH, b.lse_NH);
}

/// Rows [begin, end) of a result.
inline AttentionResult rows(const AttentionResult& a, std::int64_t begin, std::int64_t end) {
  return {a.out_NHU.slice(0, begin, end), a.lse_NH.slice(0, begin, end)};
}

}  // namespace quire::test

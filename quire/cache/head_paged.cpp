#include "quire/cache/head_paged.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/page_store.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

std::int64_t heads_of(const PagedSpec& spec) {
  std::int64_t heads = 0;
  for (const LayerSpec& s : spec.layers) heads += s.G;
  return heads;
}

void check(const PagedSpec& spec) {
  QUIRE_CHECK(!spec.layers.empty(), "pages of heads need a layer");
  QUIRE_CHECK(spec.kv != DType::kI8,
              "pages of heads cannot be i8, whose scales lie apart by head; i4 keeps them with the "
              "numbers");
  QUIRE_CHECK(spec.page_tokens >= 1 && spec.page_tokens <= (1 << 20), "pages of ", spec.page_tokens,
              " tokens; they may hold 1 to ", 1 << 20);
  QUIRE_CHECK(spec.budget_tokens >= 1 && spec.budget_tokens < (std::int64_t{1} << 40),
              "a budget of ", spec.budget_tokens, " tokens; it must hold at least one");
  for (const LayerSpec& s : spec.layers) {
    QUIRE_CHECK(s.H > 0 && s.G > 0 && s.H % s.G == 0 && s.G < (1 << 20),
                "a cache layer has H = ", s.H, ", G = ", s.G);
    QUIRE_CHECK(s.K == spec.layers[0].K && s.U == spec.layers[0].U,
                "pages of heads take layers of one head size, not K = ", s.K, " and ",
                spec.layers[0].K, ", U = ", s.U, " and ", spec.layers[0].U);
    QUIRE_CHECK(s.attention.window_left == kUnlimited && s.attention.slope_H == nullptr &&
                    s.attention.mask_TS == nullptr && s.attention.allow_TS == nullptr,
                "pages of heads take no window, slopes or masks: kept keys have other positions");
  }
}

/// A page is that of a layer with one head.
std::vector<LayerSpec> one_head(const PagedSpec& spec) {
  LayerSpec layer = spec.layers[0];
  layer.H = layer.G = 1;
  return {layer};
}

BlockPoolSpec blocks_of(const PagedSpec& spec) {
  BlockPoolSpec out = spec.blocks;
  const std::int64_t each = (spec.budget_tokens + spec.page_tokens - 1) / spec.page_tokens;
  out.blocks = each * heads_of(spec);
  out.block_tokens = spec.page_tokens;
  return out;
}

/// One side of one token, as it is stored, to another place.
void copy_row(std::byte* from_page, std::int64_t from_slot, std::byte* to_page,
              std::int64_t to_slot, DType dtype, KLayout layout, std::int64_t n) {
  const std::int64_t row = kv_row_bytes(dtype, n);
  if (layout == KLayout::kRows) {
    std::memcpy(to_page + to_slot * row, from_page + from_slot * row,
                static_cast<std::size_t>(row));
    return;
  }
  const std::byte* from = from_page + from_slot / 16 * 16 * row;
  std::byte* to = to_page + to_slot / 16 * 16 * row;
  each_kv_lane_part(dtype, n, [&](std::int64_t at, std::int64_t bytes) {
    std::memcpy(to + at + to_slot % 16 * bytes, from + at + from_slot % 16 * bytes,
                static_cast<std::size_t>(bytes));
  });
}

struct Head {
  std::vector<Block> blocks;            // also those of a step under way
  std::vector<std::int64_t> positions;  // of finished steps
  std::int64_t step = 0;                // tokens of the step under way

  std::int64_t held() const { return static_cast<std::int64_t>(positions.size()); }
};

/// The heads of a layer, and what a view of them points to.
struct Layer {
  std::vector<Head> heads;
  std::vector<std::int32_t> table_GW;
  std::vector<std::int64_t> length_G;
};

}  // namespace

struct HeadPagedPool::Impl {
  PagedSpec spec;
  BlockPool blocks;
  PageStore store;
};

HeadPagedPool::HeadPagedPool(PagedSpec spec) {
  check(spec);
  const BlockPoolSpec blocks = blocks_of(spec);
  PageStore store(one_head(spec), blocks.blocks, spec.page_tokens, spec.kv);
  impl_.reset(new Impl{spec, BlockPool(blocks), std::move(store)});
}

HeadPagedPool::~HeadPagedPool() = default;

const PagedSpec& HeadPagedPool::spec() const { return impl_->spec; }
BlockCounts HeadPagedPool::counts() const { return impl_->blocks.counts(); }
std::int64_t HeadPagedPool::page_bytes() const { return impl_->store.data_bytes(); }

struct HeadPagedCache::Impl {
  std::shared_ptr<HeadPagedPool> pool;
  std::int64_t capacity = 0, length = 0;
  std::vector<Layer> layers;

  Impl(std::shared_ptr<HeadPagedPool> from, std::int64_t most)
      : pool(std::move(from)), capacity(most) {
    for (const LayerSpec& s : pool->spec().layers) {
      const auto G = static_cast<std::size_t>(s.G);
      layers.push_back({std::vector<Head>(G), {}, std::vector<std::int64_t>(G)});
    }
  }
  ~Impl() {
    for (Layer& layer : layers)
      for (Head& head : layer.heads) blocks().release(head.blocks);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  BlockPool& blocks() const { return pool->impl_->blocks; }
  PageStore& store() const { return pool->impl_->store; }
  std::int64_t Z() const { return store().Z(); }
  std::int64_t pages_of(std::int64_t tokens) const { return (tokens + Z() - 1) / Z(); }

  Layer& at(std::int64_t layer) {
    QUIRE_CHECK(layer >= 0 && layer < static_cast<std::int64_t>(layers.size()), "layer is ", layer,
                ", but the cache has ", layers.size());
    return layers[static_cast<std::size_t>(layer)];
  }
  Head& at(std::int64_t layer, std::int64_t g) {
    Layer& of = at(layer);
    QUIRE_CHECK(g >= 0 && g < static_cast<std::int64_t>(of.heads.size()), "kv head ", g,
                " of a layer with ", of.heads.size());
    return of.heads[static_cast<std::size_t>(g)];
  }

  void drop_from(Head& head, std::int64_t first) {
    const auto at = static_cast<std::size_t>(first);
    if (at >= head.blocks.size()) return;
    blocks().release(std::span(head.blocks).subspan(at));
    head.blocks.resize(at);
  }

  /// Pages for N tokens more, each writable by this head alone.
  void make_room(Head& head, std::int64_t N) {
    const std::int64_t held = head.held();
    const auto tail = static_cast<std::size_t>(held / Z());
    if (N > 0 && held % Z() != 0 && !blocks().make_writable(head.blocks[tail])) {
      const Block copy = blocks().allocate();
      store().copy(head.blocks[tail].index, copy.index, held % Z());
      blocks().release({&head.blocks[tail], 1});
      head.blocks[tail] = copy;
    }
    const auto need = static_cast<std::size_t>(pages_of(held + N));
    head.blocks.reserve(need);
    while (head.blocks.size() < need) head.blocks.push_back(blocks().allocate());
  }

  std::int64_t slot(const Head& head, std::int64_t entry) const {
    return std::int64_t{head.blocks[static_cast<std::size_t>(entry / Z())].index} * Z() +
           entry % Z();
  }

  void write(Head& head, const Tensor& k_N1K, const Tensor& v_N1U) {
    const std::int64_t N = k_N1K.size(0);
    Tensor slot_N = Tensor::empty({N}, DType::kI64);
    for (std::int64_t n = 0; n < N; ++n)
      slot_N.mutable_data<std::int64_t>()[n] = slot(head, head.held() + n);
    kv_write(store().pages(0), k_N1K, v_N1U, slot_N);
    head.step = N;
  }

  /// What a view of the layer points to.
  void describe(Layer& layer) const {
    std::size_t W = 1;
    for (const Head& head : layer.heads) W = std::max(W, head.blocks.size());
    layer.table_GW.assign(layer.heads.size() * W, -1);
    for (std::size_t g = 0; g < layer.heads.size(); ++g) {
      const Head& head = layer.heads[g];
      layer.length_G[g] = head.held() + head.step;
      for (std::size_t w = 0; w < head.blocks.size(); ++w)
        layer.table_GW[g * W + w] = head.blocks[w].index;
    }
  }

  void truncate(std::int64_t to) {
    for (Layer& layer : layers) {
      for (Head& head : layer.heads) {
        const auto end = std::lower_bound(head.positions.begin(), head.positions.end(), to);
        head.positions.erase(end, head.positions.end());
        head.step = 0;
        drop_from(head, pages_of(head.held()));
      }
      describe(layer);
    }
    length = to;
  }

  /// Which pages of a head keep() must replace: those behind page `first` that others hold too.
  std::vector<Block> replacements(const Head& head, std::int64_t first, std::int64_t count) const {
    std::vector<Block> out(static_cast<std::size_t>(count));
    std::vector<Block> taken;
    try {
      for (std::int64_t w = first; w < count; ++w) {
        if (blocks().make_writable(head.blocks[static_cast<std::size_t>(w)])) continue;
        taken.push_back(blocks().allocate());
        out[static_cast<std::size_t>(w)] = taken.back();
      }
    } catch (...) {
      blocks().release(taken);
      throw;
    }
    return out;
  }

  /// Entry after entry to its new place, page by page: entries only move forward, so that no entry
  /// is overwritten before it was moved, and a page that is replaced is read by no later page.
  void move(Head& head, std::span<const std::int64_t> entries, std::int64_t first,
            const std::vector<Block>& fresh) {
    const KvPages pages = store().pages(0);
    const auto side = [&](void* base, std::int64_t page) {
      return static_cast<std::byte*>(base) + page * store().data_bytes();
    };
    for (std::int64_t w = first; w < static_cast<std::int64_t>(fresh.size()); ++w) {
      Block& here = head.blocks[static_cast<std::size_t>(w)];
      const Block next = fresh[static_cast<std::size_t>(w)];
      const std::int32_t to = next.index < 0 ? here.index : next.index;
      const std::int64_t end =
          std::min<std::int64_t>((w + 1) * Z(), static_cast<std::int64_t>(entries.size()));
      for (std::int64_t i = w * Z(); i < end; ++i) {
        const std::int64_t entry = entries[static_cast<std::size_t>(i)];
        const std::int32_t from = head.blocks[static_cast<std::size_t>(entry / Z())].index;
        if (from == to && entry == i) continue;
        copy_row(side(pages.k_pages, from), entry % Z(), side(pages.k_pages, to), i % Z(),
                 pages.dtype, pages.k_layout, pages.K);
        copy_row(side(pages.v_pages, from), entry % Z(), side(pages.v_pages, to), i % Z(),
                 pages.dtype, KLayout::kRows, pages.U);
      }
      if (next.index < 0) continue;
      blocks().release({&here, 1});
      here = next;
    }
  }
};

HeadPagedCache::HeadPagedCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HeadPagedCache::HeadPagedCache(std::shared_ptr<HeadPagedPool> pool, std::int64_t capacity) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 40), "a cache for ", capacity,
              " tokens; it must hold at least one");
  impl_ = std::make_unique<Impl>(std::move(pool), capacity);
}

HeadPagedCache::~HeadPagedCache() = default;

std::int64_t HeadPagedCache::length() const { return impl_->length; }
std::int64_t HeadPagedCache::capacity() const { return impl_->capacity; }

void HeadPagedCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Layer& to = impl_->at(layer);
  const LayerSpec& s = impl_->pool->spec().layers[static_cast<std::size_t>(layer)];
  const std::int64_t N = k_NGK.size(0);
  QUIRE_CHECK(k_NGK.shape() == (Shape{N, s.G, s.K}) && v_NGU.shape() == (Shape{N, s.G, s.U}),
              "k_NGK is ", to_string(k_NGK.shape()), " and v_NGU ", to_string(v_NGU.shape()),
              ", but the layer has G = ", s.G, ", K = ", s.K, ", U = ", s.U);
  QUIRE_CHECK(N <= impl_->capacity - impl_->length, "the cache holds ", impl_->length,
              " tokens of at most ", impl_->capacity, "; ", N, " more do not fit");
  try {
    for (Head& head : to.heads) impl_->make_room(head, N);
  } catch (...) {
    impl_->truncate(impl_->length);
    throw;
  }
  for (std::int64_t g = 0; g < s.G; ++g) {
    impl_->write(to.heads[static_cast<std::size_t>(g)], k_NGK.slice(1, g, g + 1),
                 v_NGU.slice(1, g, g + 1));
  }
  impl_->describe(to);
}

KvView HeadPagedCache::view(std::int64_t layer) const {
  const Layer& of = impl_->at(layer);
  KvView view = impl_->store().view(0);
  view.G = static_cast<std::int64_t>(of.heads.size());
  view.k_strides.head = view.v_strides.head = 0;  // whose page it is, the table says
  view.table = of.table_GW.data();
  view.W = view.table_head_stride = static_cast<std::int64_t>(of.table_GW.size()) / view.G;
  view.length_BG = of.length_G.data();
  view.length_stride_G = 1;
  return view;
}

Tensor HeadPagedCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Tensor start_J = Tensor::zeros({2}, DType::kI32);
  start_J.mutable_data<std::int32_t>()[1] = static_cast<std::int32_t>(q_NHK.size(0));
  const KvView kv = view(layer);
  AttentionSpec spec = impl_->pool->spec().layers[static_cast<std::size_t>(layer)].attention;
  spec.alignment = Alignment::kBottomRight;
  return attention(q_NHK, start_J, kv, spec).out_NHU;
}

void HeadPagedCache::advance(std::int64_t tokens) {
  QUIRE_CHECK(tokens >= 0 && tokens <= impl_->capacity - impl_->length, "advance by ", tokens,
              " from ", impl_->length, " of ", impl_->capacity);
  for (const Layer& layer : impl_->layers)
    for (const Head& head : layer.heads)
      QUIRE_CHECK(head.step == tokens, "advance by ", tokens, ", but the step appended ",
                  head.step);
  for (Layer& layer : impl_->layers) {
    for (Head& head : layer.heads) {
      for (std::int64_t n = 0; n < tokens; ++n) head.positions.push_back(impl_->length + n);
      head.step = 0;
    }
  }
  impl_->length += tokens;
}

void HeadPagedCache::truncate(std::int64_t length) {
  QUIRE_CHECK(length >= 0 && length <= impl_->length, "truncate to ", length,
              ", but the cache has ", impl_->length, " tokens");
  impl_->truncate(length);
}

std::unique_ptr<HeadPagedCache> HeadPagedCache::fork_heads() const {
  auto out = std::make_unique<Impl>(impl_->pool, impl_->capacity);
  out->length = impl_->length;
  for (std::size_t l = 0; l < impl_->layers.size(); ++l) {
    for (std::size_t g = 0; g < impl_->layers[l].heads.size(); ++g) {
      const Head& from = impl_->layers[l].heads[g];
      Head& to = out->layers[l].heads[g];
      const auto pages = static_cast<std::ptrdiff_t>(impl_->pages_of(from.held()));
      std::vector<Block> shared(from.blocks.begin(), from.blocks.begin() + pages);
      to.positions = from.positions;
      impl_->blocks().retain(shared);
      to.blocks = std::move(shared);
    }
    out->describe(out->layers[l]);
  }
  return std::unique_ptr<HeadPagedCache>(new HeadPagedCache(std::move(out)));
}
std::unique_ptr<KvCache> HeadPagedCache::fork() const { return fork_heads(); }

CacheReport HeadPagedCache::report() const {
  const std::int64_t row = kv_row_bytes(impl_->pool->spec().kv, impl_->pool->spec().layers[0].K) +
                           kv_row_bytes(impl_->pool->spec().kv, impl_->pool->spec().layers[0].U);
  CacheReport out;
  out.tokens = impl_->length;
  for (const Layer& layer : impl_->layers)
    for (const Head& head : layer.heads) out.bytes_read += head.held() * row;
  out.bytes_stored = bytes();
  return out;
}

std::int64_t HeadPagedCache::bytes() const {
  std::int64_t pages = 0;
  for (const Layer& layer : impl_->layers)
    for (const Head& head : layer.heads) pages += static_cast<std::int64_t>(head.blocks.size());
  return pages * impl_->pool->page_bytes();
}

std::int64_t HeadPagedCache::bytes_per_token() const {
  return impl_->store().bytes_per_token() * heads_of(impl_->pool->spec());
}

std::span<const std::int64_t> HeadPagedCache::held(std::int64_t layer, std::int64_t g) const {
  return impl_->at(layer, g).positions;
}

void HeadPagedCache::keep(std::int64_t layer, std::int64_t g,
                          std::span<const std::int64_t> entries) {
  Head& head = impl_->at(layer, g);
  QUIRE_CHECK(head.step == 0, "a head keeps entries between steps; this one has appended ",
              head.step, " tokens that no advance() took");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    QUIRE_CHECK(
        entries[i] >= 0 && entries[i] < head.held() && (i == 0 || entries[i - 1] < entries[i]),
        "entries[", i, "] is ", entries[i], "; they must ascend and be less than ", head.held());
  }
  std::size_t same = 0;
  while (same < entries.size() && entries[same] == static_cast<std::int64_t>(same)) ++same;
  const auto count = static_cast<std::int64_t>(entries.size());
  if (same < entries.size()) {
    // Whole pages in front stay as they are, shared or not.
    const std::int64_t first = static_cast<std::int64_t>(same) / impl_->Z();
    const std::vector<Block> fresh = impl_->replacements(head, first, impl_->pages_of(count));
    impl_->move(head, entries, first, fresh);
  }
  std::vector<std::int64_t> positions;
  for (const std::int64_t entry : entries)
    positions.push_back(head.positions[static_cast<std::size_t>(entry)]);
  head.positions = std::move(positions);
  impl_->drop_from(head, impl_->pages_of(count));
  impl_->describe(impl_->at(layer));
}

}  // namespace quire::cache

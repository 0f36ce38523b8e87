#include "quire/cache/paged.h"

#include <algorithm>
#include <utility>

#include "quire/base/error.h"
#include "quire/cache/page_store.h"
#include "quire/cache/paged_sequence.h"

namespace quire::cache {

namespace {

std::int64_t pages_for(const PagedSpec& spec) {
  QUIRE_CHECK(spec.page_tokens >= 1 && spec.page_tokens <= (1 << 20), "pages of ", spec.page_tokens,
              " tokens; they may hold 1 to ", 1 << 20);
  QUIRE_CHECK(spec.budget_tokens >= 1 && spec.budget_tokens < (std::int64_t{1} << 40),
              "a budget of ", spec.budget_tokens, " tokens; it must hold at least one");
  return (spec.budget_tokens + spec.page_tokens - 1) / spec.page_tokens;
}

BlockPoolSpec pool_spec(const PagedSpec& spec) {
  BlockPoolSpec out = spec.blocks;
  out.blocks = pages_for(spec);
  out.block_tokens = spec.page_tokens;
  return out;
}

}  // namespace

struct PagedPool::Impl {
  PagedSpec spec;
  PageStore store;
  BlockPool blocks;

  explicit Impl(const PagedSpec& from)
      : spec(from),
        store(spec.layers, pages_for(spec), spec.page_tokens, spec.kv, spec.memory, spec.identity,
              [this](std::int32_t page) { blocks.lose(page); }),
        blocks(pool_spec(spec, store)) {}

  static BlockPoolSpec pool_spec(const PagedSpec& spec, PageStore& store) {
    BlockPoolSpec out = cache::pool_spec(spec);
    if (store.tier() != nullptr) out.freed = [&store](std::int32_t page) { store.forget(page); };
    return out;
  }
};

std::int64_t least_ram_bytes(const PagedSpec& spec) {
  return PageStore::least_ram_bytes(spec.layers, pages_for(spec), spec.page_tokens, spec.kv);
}

void check_memory(const PagedSpec& spec) {
  PageStore::check_limit(spec.layers, pages_for(spec), spec.page_tokens, spec.kv, spec.memory);
}

PagedPool::PagedPool(PagedSpec spec) : impl_(std::make_unique<Impl>(spec)) {}

PagedPool::~PagedPool() = default;

const PagedSpec& PagedPool::spec() const { return impl_->spec; }
BlockCounts PagedPool::counts() const { return impl_->blocks.counts(); }
std::optional<TierCounts> PagedPool::tier_counts() const {
  const Tier* tier = impl_->store.tier();
  return tier == nullptr ? std::nullopt : std::optional(tier->counts());
}
std::int64_t PagedPool::ram_bytes() const {
  if (const auto tier = tier_counts())
    return tier->in_memory * (page_bytes() / static_cast<std::int64_t>(spec().layers.size()));
  const BlockCounts now = counts();
  return (now.blocks - now.free) * page_bytes();
}
std::int64_t PagedPool::disk_bytes() const {
  const auto tier = tier_counts();
  return tier ? tier->on_disk * tier->record_bytes : 0;
}
BlockPool& PagedPool::blocks() const { return impl_->blocks; }
PageStore& PagedPool::store() const { return impl_->store; }
std::int64_t PagedPool::page_bytes() const {
  return impl_->store.data_bytes() + impl_->store.scale_bytes();
}

PagedCache::Impl::Impl(std::shared_ptr<PagedPool> from, Block chain, std::int64_t most)
    : pool(std::move(from)), root(chain), capacity(most), layer_length(pool->spec().layers.size()) {
  pool->blocks().retain_root(root);
}

PagedCache::Impl::~Impl() {
  pool->blocks().release(blocks);
  pool->blocks().close_root(root);
}

void PagedCache::Impl::set_block(std::size_t i, Block block) {
  blocks[i] = block;
  table[i] = block.index;
}

void PagedCache::Impl::drop_from(std::size_t first) {
  if (first >= blocks.size()) return;
  pool->blocks().release(std::span(blocks).subspan(first));
  blocks.resize(first);
  table.resize(first);
}

void PagedCache::Impl::make_room(std::int64_t N) {
  QUIRE_CHECK(N <= capacity - length, "the cache holds ", length, " tokens of at most ", capacity,
              "; ", N, " more do not fit");
  if (N == 0) return;
  BlockPool& pages = pool->blocks();
  const auto tail = static_cast<std::size_t>(length / Z());
  const std::size_t before = blocks.size();
  if (length % Z() != 0 && !pages.make_writable(blocks[tail])) {
    const Block copy = pages.allocate();
    try {
      pool->store().copy(blocks[tail].index, copy.index, length % Z());
    } catch (...) {
      pages.release({&copy, 1});
      throw;
    }
    pages.release({&blocks[tail], 1});
    set_block(tail, copy);
  }
  published = std::min(published, static_cast<std::int64_t>(tail));
  const auto need = static_cast<std::size_t>(pages_of(length + N));
  blocks.reserve(need);
  table.reserve(need);
  try {
    while (blocks.size() < need) {
      const Block block = pages.allocate();
      blocks.push_back(block);
      table.push_back(block.index);
    }
  } catch (...) {
    drop_from(before);
    throw;
  }
}

void PagedCache::Impl::publish_full() {
  const auto size = static_cast<std::size_t>(Z());
  BlockPool& pages = pool->blocks();
  while ((published + 1) * Z() <= length) {
    const auto i = static_cast<std::size_t>(published);
    const auto part = std::span(tokens).subspan(i * size, size);
    if (std::any_of(part.begin(), part.end(), [](std::int32_t id) { return id < 0; })) return;
    // One that is held by others too and is not published (its key collided, or what stood before
    // it was lost) stays so.
    if (pages.references(blocks[i]) == 1 && !pages.published(blocks[i])) {
      try {
        set_block(i, pages.publish(blocks[i], i == 0 ? root : blocks[i - 1], part));
      } catch (const std::bad_alloc&) {
        return;  // nobody needs it: the next step tries again
      }
    }
    ++published;
  }
}

void PagedCache::Impl::advance(std::int64_t N) {
  QUIRE_CHECK(N >= 0 && N <= capacity - length, "advance by ", N, " from ", length, " of ",
              capacity);
  QUIRE_CHECK(pages_of(length + N) <= static_cast<std::int64_t>(blocks.size()), "advance by ", N,
              ", but the step appended fewer tokens");
  if (static_cast<std::int64_t>(step_ids.size()) == N) {
    tokens.insert(tokens.end(), step_ids.begin(), step_ids.end());
  } else {
    tokens.insert(tokens.end(), static_cast<std::size_t>(N), -1);
  }
  step_ids.clear();
  length += N;
  publish_full();
}

void PagedCache::Impl::truncate(std::int64_t to) {
  QUIRE_CHECK(to >= 0 && to <= length, "truncate to ", to, ", but the cache has ", length,
              " tokens");
  length = to;
  drop_from(static_cast<std::size_t>(pages_of(to)));
  tokens.resize(static_cast<std::size_t>(to));
  step_ids.clear();
  published = std::min(published, to / Z());
  std::fill(layer_length.begin(), layer_length.end(), to);
}

void PagedCache::Impl::drop_lost(std::vector<Block>& found) const {
  Tier* tier = pool->store().tier();
  if (tier == nullptr || found.empty()) return;
  std::vector<std::int32_t> pages;
  for (const Block block : found) pages.push_back(block.index);
  const std::vector<bool> is_whole = tier->check(pages);
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!is_whole[i]) pool->blocks().lose(pages[i]);
  const auto whole = static_cast<std::size_t>(std::find(is_whole.begin(), is_whole.end(), false) -
                                              is_whole.begin());
  pool->blocks().release(std::span(found).subspan(whole));
  found.resize(whole);
}

std::unique_ptr<PagedCache::Impl> PagedCache::Impl::fork() const {
  auto out = std::make_unique<Impl>(pool, root, capacity);
  const auto held = std::span(blocks).first(static_cast<std::size_t>(pages_of(length)));
  std::vector<Block> copy(held.begin(), held.end());
  out->reserve(tokens.size(), copy.size());
  pool->blocks().retain(copy);
  out->hold(tokens, std::move(copy));
  return out;
}

void PagedCache::Impl::reserve(std::size_t ids, std::size_t pages) {
  tokens.reserve(ids);
  table.reserve(pages);
}

void PagedCache::Impl::hold(std::span<const std::int32_t> ids, std::vector<Block> held) {
  reserve(ids.size(), held.size());
  length = static_cast<std::int64_t>(ids.size());
  tokens.assign(ids.begin(), ids.end());
  table.clear();
  for (const Block block : held) table.push_back(block.index);
  blocks = std::move(held);
  std::fill(layer_length.begin(), layer_length.end(), length);
  publish_full();
}

PagedCache::PagedCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PagedCache::PagedCache(std::shared_ptr<PagedPool> pool, std::int64_t capacity,
                       const std::string& salt) {
  QUIRE_CHECK(capacity > 0 && capacity < (std::int64_t{1} << 40), "a cache for ", capacity,
              " tokens; it must hold at least one");
  // The length keeps ("a", "bc") apart from ("ab", "c").
  const std::string& identity = pool->spec().identity;
  const Block root = pool->blocks().open_root(
      concat(identity.size(), ":", identity, to_string(pool->spec().kv), ":", salt));
  try {
    impl_ = std::make_unique<Impl>(pool, root, capacity);
  } catch (...) {
    pool->blocks().close_root(root);
    throw;
  }
  pool->blocks().close_root(root);  // the sequence holds it from here on
}

PagedCache::~PagedCache() = default;

std::int64_t PagedCache::length() const { return impl_->length; }
std::int64_t PagedCache::capacity() const { return impl_->capacity; }

void PagedCache::begin_step(std::span<const std::int32_t> ids) {
  impl_->step_ids.assign(ids.begin(), ids.end());
}

void PagedCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  const auto layers = static_cast<std::int64_t>(impl_->layer_length.size());
  QUIRE_CHECK(layer >= 0 && layer < layers, "layer is ", layer, ", but the cache has ", layers);
  const std::int64_t N = k_NGK.size(0);
  impl_->make_room(N);
  Tensor slot_N = Tensor::empty({N}, DType::kI64);
  for (std::int64_t n = 0; n < N; ++n)
    slot_N.mutable_data<std::int64_t>()[n] = impl_->slot(impl_->length + n);
  impl_->pool->store().write(layer, k_NGK, v_NGU, slot_N);
  impl_->layer_length[static_cast<std::size_t>(layer)] = impl_->length + N;
}

KvView PagedCache::view(std::int64_t layer) const {
  KvView view = impl_->pool->store().view(layer);
  view.table = impl_->table.data();
  view.W = static_cast<std::int64_t>(impl_->table.size());
  view.length_BG = &impl_->layer_length[static_cast<std::size_t>(layer)];
  return view;
}

Tensor PagedCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Tensor start_J = Tensor::zeros({2}, DType::kI32);
  start_J.mutable_data<std::int32_t>()[1] = static_cast<std::int32_t>(q_NHK.size(0));
  PageStore::Reading reading = impl_->pool->store().read(layer, impl_->table);
  reading.view.length_BG = &impl_->layer_length[static_cast<std::size_t>(layer)];
  AttentionSpec spec = impl_->pool->spec().layers[static_cast<std::size_t>(layer)].attention;
  spec.alignment = Alignment::kBottomRight;
  return attention(q_NHK, start_J, reading.view, spec).out_NHU;
}

void PagedCache::advance(std::int64_t tokens) { impl_->advance(tokens); }
void PagedCache::truncate(std::int64_t length) { impl_->truncate(length); }

bool PagedCache::recover() {
  const Tier* tier = impl_->pool->store().tier();
  const auto& pages = impl_->table;  // also those of the step under way
  if (tier == nullptr || std::none_of(pages.begin(), pages.end(),
                                      [&](std::int32_t page) { return tier->is_lost(page); }))
    return false;
  impl_->truncate(intact());
  return true;
}

std::int64_t PagedCache::adopt(std::span<const std::int32_t> ids) {
  QUIRE_CHECK(impl_->length == 0, "a cache of ", impl_->length,
              " tokens cannot take over others: it must be empty");
  impl_->truncate(0);  // pages of an unfinished step go back
  const auto most = std::min(ids.size(), static_cast<std::size_t>(impl_->capacity));
  std::vector<Block> found = impl_->pool->blocks().match(impl_->root, ids.first(most));
  std::size_t tokens = 0;
  try {
    impl_->drop_lost(found);
    tokens = found.size() * static_cast<std::size_t>(impl_->Z());
    impl_->reserve(tokens, found.size());
  } catch (...) {
    impl_->pool->blocks().release(found);
    throw;
  }
  impl_->hold(ids.first(tokens), std::move(found));
  return impl_->length;
}

std::unique_ptr<PagedCache> PagedCache::fork_paged() const {
  return std::unique_ptr<PagedCache>(new PagedCache(impl_->fork()));
}
std::unique_ptr<KvCache> PagedCache::fork() const { return fork_paged(); }

std::int64_t PagedCache::bytes() const {
  return static_cast<std::int64_t>(impl_->blocks.size()) * impl_->pool->page_bytes();
}
std::int64_t PagedCache::bytes_per_token() const { return impl_->pool->store().bytes_per_token(); }

std::vector<Block> PagedCache::pin() const {
  std::vector<Block> out;
  for (std::int64_t i = 0; i < impl_->published; ++i) {
    const Block block = impl_->blocks[static_cast<std::size_t>(i)];
    if (impl_->pool->blocks().published(block)) out.push_back(block);
  }
  impl_->pool->blocks().pin(out);
  return out;
}

const std::shared_ptr<PagedPool>& PagedCache::pool() const { return impl_->pool; }
std::span<const std::int32_t> PagedCache::tokens() const { return impl_->tokens; }
std::span<const std::int32_t> PagedCache::table() const {
  return std::span(impl_->table).first(static_cast<std::size_t>(impl_->pages_of(impl_->length)));
}

std::int64_t PagedCache::intact() const {
  const Tier* tier = impl_->pool->store().tier();
  if (tier == nullptr) return impl_->length;
  const auto held = table();
  const auto lost = std::find_if(held.begin(), held.end(),
                                 [&](std::int32_t page) { return tier->is_lost(page); });
  return std::min((lost - held.begin()) * impl_->Z(), impl_->length);
}

void PagedCache::restore(std::span<const std::int32_t> tokens, std::vector<Block> blocks) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  QUIRE_CHECK(impl_->length == 0, "a cache of ", impl_->length,
              " tokens cannot be restored over: it must be empty");
  QUIRE_CHECK(count <= impl_->capacity, "the cache has room for ", impl_->capacity,
              " tokens, not for ", count);
  QUIRE_CHECK(impl_->pages_of(count) == static_cast<std::int64_t>(blocks.size()), count,
              " tokens in ", blocks.size(), " pages of ", impl_->Z());
  impl_->truncate(0);
  impl_->hold(tokens, std::move(blocks));
}

}  // namespace quire::cache

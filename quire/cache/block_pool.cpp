#include "quire/cache/block_pool.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

#include "quire/base/error.h"

namespace quire::cache {
namespace {

struct HashOf {
  std::size_t operator()(const Hash128& hash) const { return static_cast<std::size_t>(hash.low); }
};

// Roots count downwards from here; blocks upwards from 0.
constexpr std::int32_t kFirstRoot = -2;

/// Cached blocks without successor or pin, by use.
using Leaves = std::set<std::pair<std::uint64_t, std::int32_t>>;

struct Entry {
  std::uint64_t generation = 0;
  std::int64_t references = 0, pins = 0;
  std::int64_t children = 0;  // published successors
  bool published = false;
  bool unfindable = false;  // published, but not in the index: it or one before it was lost
  Block parent;
  std::uint64_t used = 0;  // when its last reference went
  Hash128 key;
  std::vector<std::int32_t> tokens;
  Leaves::node_type leaf;  // its place among them while it is none: letting go takes no memory
};

struct Root {
  std::string name;
  std::uint64_t generation = 0;
  std::int64_t references = 0, children = 0;
  Hash128 key;
};

}  // namespace

struct BlockPool::Impl {
  BlockPoolSpec spec;
  KeyedHash keyed;
  mutable std::mutex mutex;
  std::vector<Entry> entries;
  std::vector<std::int32_t> free;  // the last one is next
  Leaves leaves;
  std::unordered_map<Hash128, std::int32_t, HashOf> index;  // published blocks
  std::map<std::int32_t, Root> roots;
  std::map<std::string, std::int32_t, std::less<>> root_of;
  std::vector<std::int32_t> free_roots;
  std::uint64_t root_generation = 0, clock = 0;
  std::int64_t held = 0, shared = 0, pinned = 0;
  std::int64_t hits = 0, misses = 0, evictions = 0, duplicates = 0, collisions = 0, lost = 0;

  Entry& at(Block block) {
    QUIRE_CHECK(block.index >= 0 && block.index < static_cast<std::int32_t>(entries.size()),
                "block ", block.index, " of a pool with ", entries.size());
    Entry& entry = entries[static_cast<std::size_t>(block.index)];
    QUIRE_CHECK(entry.generation == block.generation, "block ", block.index,
                " was freed: this is its generation ", entry.generation, ", not ",
                block.generation);
    return entry;
  }
  Entry& held_at(Block block) {
    Entry& entry = at(block);
    QUIRE_CHECK(entry.references > 0, "block ", block.index, " is not held: it was freed before");
    return entry;
  }
  Root& root_at(Block root) {
    const auto found = roots.find(root.index);
    QUIRE_CHECK(found != roots.end() && found->second.generation == root.generation,
                "there is no root ", root.index, " of generation ", root.generation);
    return found->second;
  }
  Block block_at(std::int32_t i) const {
    return {i, entries[static_cast<std::size_t>(i)].generation};
  }

  Hash128 hash(const Hash128& parent, std::span<const std::int32_t> tokens) const {
    return spec.hash ? spec.hash(parent, tokens) : keyed(parent, tokens);
  }

  bool is_leaf(const Entry& entry) const {
    return entry.references == 0 && entry.published && entry.children == 0 && entry.pins == 0;
  }
  /// After something that is_leaf() looks at may have become true.
  void note_leaf(std::int32_t i) {
    Entry& entry = entries[static_cast<std::size_t>(i)];
    if (!is_leaf(entry) || entry.leaf.empty()) return;
    entry.leaf.value() = {entry.used, i};
    leaves.insert(std::move(entry.leaf));
  }
  /// Before something that is_leaf() looks at becomes false.
  void forget_leaf(std::int32_t i) {
    Entry& entry = entries[static_cast<std::size_t>(i)];
    const auto found = leaves.find({entry.used, i});
    if (found != leaves.end()) entry.leaf = leaves.extract(found);
  }

  /// Takes a published block without successors out of the tree.
  void withdraw(std::int32_t i) {
    Entry& entry = entries[static_cast<std::size_t>(i)];
    if (!entry.unfindable) index.erase(entry.key);
    entry.published = entry.unfindable = false;
    entry.tokens.clear();
    if (entry.parent.index <= kFirstRoot) {
      --roots.at(entry.parent.index).children;
      drop_root_if_unused(entry.parent.index);
    } else {
      --entries[static_cast<std::size_t>(entry.parent.index)].children;
      note_leaf(entry.parent.index);
    }
  }
  void drop_root_if_unused(std::int32_t i) {
    const auto found = roots.find(i);
    if (found->second.references > 0 || found->second.children > 0) return;
    root_of.erase(found->second.name);
    roots.erase(found);
    free_roots.push_back(i);
  }

  void set_free(std::int32_t i) {
    ++entries[static_cast<std::size_t>(i)].generation;
    free.push_back(i);
    if (spec.freed) spec.freed(i);
  }

  void evict_one() {
    const std::int32_t i = leaves.begin()->second;
    forget_leaf(i);
    withdraw(i);
    set_free(i);
    ++evictions;
  }

  void retain(Block block) {
    Entry& entry = entries[static_cast<std::size_t>(block.index)];
    if (entry.references == 0) {
      forget_leaf(block.index);
      ++held;
    }
    if (++entry.references == 2) ++shared;
  }
  void release(Block block) {
    Entry& entry = held_at(block);
    if (--entry.references == 1) --shared;
    if (entry.references > 0) return;
    --held;
    entry.used = ++clock;
    if (entry.published) return note_leaf(block.index);
    set_free(block.index);
  }

  /// The published block with these tokens behind `parent`; nothing when there is none, and
  /// `collides` when another has its key.
  const Entry* find(const Hash128& key, Block parent, std::span<const std::int32_t> tokens,
                    std::int32_t& i, bool& collides) const {
    const auto found = index.find(key);
    collides = false;
    if (found == index.end()) return nullptr;
    i = found->second;
    const Entry& entry = entries[static_cast<std::size_t>(i)];
    if (entry.parent == parent &&
        std::equal(entry.tokens.begin(), entry.tokens.end(), tokens.begin(), tokens.end()))
      return &entry;
    collides = true;
    return nullptr;
  }

  std::string exhausted() const {
    return concat("the cache's budget of ", spec.blocks * spec.block_tokens, " tokens (",
                  spec.blocks, " pages of ", spec.block_tokens, ") is used up: ", held,
                  " pages are held and ", pinned,
                  " pinned; give a larger --budget, or hold less at once");
  }
};

BlockPool::BlockPool(BlockPoolSpec spec) : impl_(std::make_unique<Impl>()) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  QUIRE_CHECK(spec.blocks >= 1 && spec.blocks <= kMost, "a pool of ", spec.blocks,
              " blocks; it may have 1 to ", kMost);
  QUIRE_CHECK(spec.block_tokens >= 1 && spec.block_tokens <= kMost, "blocks of ", spec.block_tokens,
              " tokens; they hold at least one");
  QUIRE_CHECK(spec.most_pinned >= -1, "most_pinned is ", spec.most_pinned);
  if (spec.most_pinned < 0) spec.most_pinned = spec.blocks / 2;
  impl_->entries.resize(static_cast<std::size_t>(spec.blocks));
  for (Entry& entry : impl_->entries) entry.generation = spec.first_count;
  impl_->clock = impl_->root_generation = spec.first_count;
  for (std::int64_t i = spec.blocks; i-- > 0;) impl_->free.push_back(static_cast<std::int32_t>(i));
  impl_->spec = std::move(spec);
}

BlockPool::~BlockPool() = default;

std::int64_t BlockPool::block_tokens() const { return impl_->spec.block_tokens; }

BlockCounts BlockPool::counts() const {
  const std::lock_guard lock(impl_->mutex);
  const Impl& p = *impl_;
  const auto free = static_cast<std::int64_t>(p.free.size());
  return {p.spec.blocks, free,         p.held,       p.spec.blocks - free - p.held,
          p.shared,      p.pinned,     p.hits,       p.misses,
          p.evictions,   p.duplicates, p.collisions, p.lost};
}

Block BlockPool::allocate() {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  if (p.free.empty()) {
    if (p.leaves.empty()) throw OutOfMemory(p.exhausted());
    p.evict_one();
  }
  const Block block = p.block_at(p.free.back());
  p.free.pop_back();
  p.entries[static_cast<std::size_t>(block.index)].references = 1;
  ++p.held;
  return block;
}

void BlockPool::retain(std::span<const Block> blocks) {
  const std::lock_guard lock(impl_->mutex);
  for (const Block block : blocks) static_cast<void>(impl_->held_at(block));
  for (const Block block : blocks) impl_->retain(block);
}

void BlockPool::release(std::span<const Block> blocks) {
  const std::lock_guard lock(impl_->mutex);
  // A list may name a block more than once: each counts.
  std::size_t counted = 0;
  const auto count_again = [&] {
    for (const Block block : blocks.first(counted)) ++impl_->at(block).references;
  };
  try {
    for (; counted < blocks.size(); ++counted) --impl_->held_at(blocks[counted]).references;
  } catch (...) {
    count_again();
    throw;
  }
  count_again();
  for (std::size_t i = blocks.size(); i-- > 0;) impl_->release(blocks[i]);
}

std::int64_t BlockPool::references(Block block) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->at(block).references;
}

bool BlockPool::make_writable(Block block) {
  const std::lock_guard lock(impl_->mutex);
  Entry& entry = impl_->held_at(block);
  if (entry.references > 1) return false;
  if (!entry.published) return true;
  if (entry.children > 0 || entry.pins > 0) return false;
  impl_->withdraw(block.index);
  return true;
}

Block BlockPool::open_root(std::string_view name) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  const auto found = p.root_of.find(name);
  if (found != p.root_of.end()) {
    Root& open = p.roots.at(found->second);
    ++open.references;
    return {found->second, open.generation};
  }
  // Places are taken again, so that names that come and go never use up the 32 bits of an index.
  std::int32_t i = kFirstRoot - static_cast<std::int32_t>(p.roots.size());
  if (!p.free_roots.empty()) i = p.free_roots.back();
  const Block root{i, p.root_generation + 1};
  Root made{std::string(name), root.generation, 1, 0, p.keyed(std::as_bytes(std::span(name)))};
  p.free_roots.reserve(p.free_roots.size() + p.roots.size() + 1);  // for when they are closed
  const auto named = p.root_of.emplace(made.name, i).first;
  try {
    p.roots.insert_or_assign(i, std::move(made));
  } catch (...) {
    p.root_of.erase(named);
    throw;
  }
  if (!p.free_roots.empty()) p.free_roots.pop_back();
  ++p.root_generation;
  return root;
}

void BlockPool::retain_root(Block root) {
  const std::lock_guard lock(impl_->mutex);
  ++impl_->root_at(root).references;
}

void BlockPool::close_root(Block root) {
  const std::lock_guard lock(impl_->mutex);
  Root& open = impl_->root_at(root);
  QUIRE_CHECK(open.references > 0, "root ", root.index, " is closed more often than opened");
  --open.references;
  impl_->drop_root_if_unused(root.index);
}

Block BlockPool::publish(Block block, Block parent, std::span<const std::int32_t> tokens) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  Entry& entry = p.held_at(block);
  QUIRE_CHECK(static_cast<std::int64_t>(tokens.size()) == p.spec.block_tokens, "a block of ",
              p.spec.block_tokens, " tokens cannot be published with ", tokens.size());
  QUIRE_CHECK(!entry.published && entry.references == 1, "block ", block.index,
              " is published or shared already");
  const bool first = parent.index <= kFirstRoot;
  if (!first && (!p.at(parent).published || p.at(parent).unfindable)) return block;
  const Hash128 key = p.hash(first ? p.root_at(parent).key : p.at(parent).key, tokens);
  std::int32_t same = -1;
  bool collides = false;
  if (p.find(key, parent, tokens, same, collides) != nullptr) {
    const Block other = p.block_at(same);
    p.retain(other);
    p.release(block);
    ++p.duplicates;
    return other;
  }
  if (collides) {
    ++p.collisions;
    return block;
  }
  if (entry.leaf.empty()) {
    Leaves place;
    entry.leaf = place.extract(place.emplace(std::uint64_t{0}, block.index).first);
  }
  entry.tokens.assign(tokens.begin(), tokens.end());
  entry.key = key;
  entry.parent = parent;
  p.index.emplace(key, block.index);
  entry.published = true;
  if (first) {
    ++p.root_at(parent).children;
  } else {
    p.forget_leaf(parent.index);
    ++p.at(parent).children;
  }
  return block;
}

bool BlockPool::published(Block block) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->at(block).published;
}

void BlockPool::lose(std::int32_t index) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  QUIRE_CHECK(index >= 0 && index < static_cast<std::int32_t>(p.entries.size()), "block ", index,
              " of a pool with ", p.entries.size());
  ++p.lost;
  const auto hide = [&](Entry& entry) {
    if (!entry.published || entry.unfindable) return false;
    entry.unfindable = true;
    p.index.erase(entry.key);
    return true;
  };
  bool is_more = hide(p.entries[static_cast<std::size_t>(index)]);
  while (is_more) {
    is_more = false;
    for (Entry& entry : p.entries) {
      const bool follows = entry.published && entry.parent.index >= 0 &&
                           p.entries[static_cast<std::size_t>(entry.parent.index)].unfindable;
      if (follows && hide(entry)) is_more = true;
    }
  }
}

std::vector<Block> BlockPool::match(Block root, std::span<const std::int32_t> tokens) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  const auto size = static_cast<std::size_t>(p.spec.block_tokens);
  std::vector<Block> out;
  out.reserve(tokens.size() / size);
  Block parent = root;
  Hash128 key = p.root_at(root).key;
  try {
    for (; tokens.size() >= size; tokens = tokens.subspan(size)) {
      key = p.hash(key, tokens.first(size));
      std::int32_t i = -1;
      bool collides = false;
      if (p.find(key, parent, tokens.first(size), i, collides) == nullptr) {
        ++p.misses;
        p.collisions += collides ? 1 : 0;
        break;
      }
      parent = p.block_at(i);
      p.retain(parent);
      out.push_back(parent);
      ++p.hits;
    }
  } catch (...) {
    for (std::size_t n = out.size(); n-- > 0;) p.release(out[n]);
    throw;
  }
  return out;
}

void BlockPool::pin(std::span<const Block> blocks) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  std::set<std::int32_t> fresh;
  for (const Block block : blocks) {
    QUIRE_CHECK(p.at(block).published, "block ", block.index,
                " is not published: only those can be pinned");
    if (p.at(block).pins == 0) fresh.insert(block.index);
  }
  const auto more = static_cast<std::int64_t>(fresh.size());
  QUIRE_CHECK(p.pinned + more <= p.spec.most_pinned, p.pinned, " blocks are pinned and ", more,
              " more asked for, but at most ", p.spec.most_pinned, " may be");
  for (const Block block : blocks) {
    p.forget_leaf(block.index);
    if (p.at(block).pins++ == 0) ++p.pinned;
  }
}

void BlockPool::unpin(std::span<const Block> blocks) {
  const std::lock_guard lock(impl_->mutex);
  Impl& p = *impl_;
  std::map<std::int32_t, std::int64_t> wanted;
  for (const Block block : blocks) {
    QUIRE_CHECK(++wanted[block.index] <= p.at(block).pins, "block ", block.index, " is not pinned");
  }
  for (const Block block : blocks) {
    if (--p.at(block).pins > 0) continue;
    --p.pinned;
    p.note_leaf(block.index);
  }
}

}  // namespace quire::cache

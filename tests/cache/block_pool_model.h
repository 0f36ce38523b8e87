#pragma once

// A pool of blocks under random operations, beside a shadow that scans plain lists: what it holds,
// whose it is, which block is evicted, which is found. The content of each block is written down
// too: a block in the hands of two who do not share it would be seen.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/block_pool.h"
#include "quire/tensor/rng.h"

namespace quire::cache::test {

class BlockPoolModel {
 public:
  /// With a weak hash most keys collide.
  enum class Hash { kStrong, kWeak };

  BlockPoolModel(std::int64_t blocks, Hash hash, std::uint64_t seed, std::uint64_t first_count = 0)
      : weak_(hash == Hash::kWeak),
        most_pinned_(blocks / 3),
        pool_(spec(blocks, hash, first_count)),
        rng_(seed),
        state_(static_cast<std::size_t>(blocks)),
        content_(static_cast<std::size_t>(blocks), 0) {
    for (State& s : state_) s.generation = first_count;
    for (const char* name : {"a", "b", "ab"}) roots_.push_back(pool_.open_root(name));
  }

  void run(std::int64_t operations) {
    for (std::int64_t i = 0; i < operations && !testing::Test::HasFailure(); ++i) {
      one();
      check_counts();
      if (i % 64 == 0) check_everything();
    }
    while (!chains_.empty()) drop(chains_.size() - 1, chains_.back().blocks.size());
    check_everything();
    EXPECT_EQ(pool_.counts().held, 0);
  }

  const BlockCounts counts() const { return pool_.counts(); }

 private:
  static constexpr std::int64_t kTokens = 2;
  using Tokens = std::vector<std::int32_t>;

  /// A sequence of blocks as some cache would hold it.
  struct Chain {
    std::size_t root;
    std::vector<Block> blocks;
    std::vector<std::int64_t> content;
  };
  struct State {
    std::uint64_t generation = 0, used = 0;
    std::int64_t references = 0, pins = 0;
    bool published = false;
    Block parent;
    Tokens tokens;
  };

  static Hash128 weak_hash(const Hash128& /*parent*/, std::span<const std::int32_t> tokens) {
    return {static_cast<std::uint64_t>(tokens[0] + tokens[1]), 0};
  }
  BlockPoolSpec spec(std::int64_t blocks, Hash hash, std::uint64_t first_count) const {
    BlockPoolSpec out;
    out.first_count = first_count;
    out.blocks = blocks;
    out.block_tokens = kTokens;
    out.most_pinned = blocks / 3;
    if (hash == Hash::kWeak) out.hash = weak_hash;
    return out;
  }

  std::size_t pick(std::size_t count) { return static_cast<std::size_t>(rng_.below(count)); }
  State& at(Block block) { return state_[static_cast<std::size_t>(block.index)]; }
  Tokens some_tokens() {
    return {static_cast<std::int32_t>(pick(3)), static_cast<std::int32_t>(pick(2))};
  }

  std::int64_t children(std::size_t i) const {
    const Block self{static_cast<std::int32_t>(i), state_[i].generation};
    return std::count_if(state_.begin(), state_.end(),
                         [&](const State& s) { return s.published && s.parent == self; });
  }
  /// The place of the block that must be evicted next, or the number of blocks.
  std::size_t victim() const {
    std::size_t best = state_.size();
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const State& s = state_[i];
      if (!s.published || s.references > 0 || s.pins > 0 || children(i) > 0) continue;
      if (best == state_.size() || s.used < state_[best].used) best = i;
    }
    return best;
  }
  bool is_free(const State& s) const { return s.references == 0 && !s.published; }
  /// The published block that a search finds in the key's place.
  std::size_t in_index(Block parent, const Tokens& tokens) const {
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const State& s = state_[i];
      if (!s.published) continue;
      if (weak_ ? weak_hash({}, s.tokens) == weak_hash({}, tokens)
                : s.parent == parent && s.tokens == tokens)
        return i;
    }
    return state_.size();
  }
  bool is_same(std::size_t i, Block parent, const Tokens& tokens) const {
    return i < state_.size() && state_[i].parent == parent && state_[i].tokens == tokens;
  }

  void release_one(Block block) {
    State& s = at(block);
    if (--s.references > 0) return;
    s.used = ++clock_;
    if (!s.published) ++s.generation;
  }

  void one() {
    const std::uint64_t what = rng_.below(100);
    if (chains_.empty() || what < 8) return begin();
    const std::size_t i = pick(chains_.size());
    if (what < 50) return grow(i);
    if (what < 60) return fork(i);
    if (what < 75) return drop(i, 1 + pick(3));
    if (what < 80) return drop(i, chains_[i].blocks.size());
    if (what < 86) return rewrite(i);
    if (what < 91) return pin(i);
    if (what < 96) return unpin();
    misuse();
  }

  /// A new chain, which takes over what is known of a random text.
  void begin() {
    if (chains_.size() > 12) return;
    Chain chain{pick(roots_.size()), {}, {}};
    Tokens text;
    for (std::size_t n = pick(6) * kTokens + pick(2); n > 0; --n)
      text.push_back(some_tokens()[n % 2]);
    const std::vector<Block> got = pool_.match(roots_[chain.root], text);
    Block parent = roots_[chain.root];
    std::size_t found = 0;
    for (std::size_t n = 0; n + kTokens <= text.size(); n += kTokens) {
      const Tokens part(text.begin() + static_cast<std::ptrdiff_t>(n),
                        text.begin() + static_cast<std::ptrdiff_t>(n + kTokens));
      const std::size_t hit = in_index(parent, part);
      if (!is_same(hit, parent, part)) break;
      parent = {static_cast<std::int32_t>(hit), state_[hit].generation};
      ASSERT_LT(found, got.size());
      ASSERT_EQ(got[found], parent);
      ++state_[hit].references;
      chain.blocks.push_back(parent);
      chain.content.push_back(content_of(chain.root, text, n + kTokens));
      ++found;
    }
    ASSERT_EQ(got.size(), found);
    chains_.push_back(chain);
  }

  std::int64_t content_of(std::size_t root, const Tokens& text, std::size_t length) {
    Tokens key(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(length));
    key.push_back(static_cast<std::int32_t>(root));
    return texts_.emplace(key, static_cast<std::int64_t>(texts_.size()) + 1).first->second;
  }
  /// The tokens of a chain whose blocks are all published.
  bool text_of(const Chain& chain, Tokens& out) {
    for (const Block block : chain.blocks) {
      if (!at(block).published) return false;
      out.insert(out.end(), at(block).tokens.begin(), at(block).tokens.end());
    }
    return true;
  }

  void grow(std::size_t i) {
    Chain& chain = chains_[i];
    const bool any_free =
        std::any_of(state_.begin(), state_.end(), [&](const State& s) { return is_free(s); });
    const std::size_t evicted = any_free ? state_.size() : victim();
    if (!any_free && evicted == state_.size()) {
      EXPECT_THROW(static_cast<void>(pool_.allocate()), OutOfMemory);
      return;
    }
    const Block block = pool_.allocate();
    if (!any_free) {
      ASSERT_EQ(block.index, static_cast<std::int32_t>(evicted)) << "not the one used longest ago";
      state_[evicted].published = false;
      ++state_[evicted].generation;
    }
    ASSERT_TRUE(is_free(at(block))) << "a block that somebody has";
    ASSERT_EQ(block.generation, at(block).generation);
    at(block).references = 1;
    chain.blocks.push_back(block);
    chain.content.push_back(--unique_);
    write(block, chain.content.back());
    if (rng_.below(4) > 0) publish(chain);
  }

  void write(Block block, std::int64_t content) {
    content_[static_cast<std::size_t>(block.index)] = content;
  }

  void publish(Chain& chain) {
    const Block block = chain.blocks.back();
    Tokens text, tokens = some_tokens();
    Chain before = chain;
    before.blocks.pop_back();
    const bool known = text_of(before, text);
    text.insert(text.end(), tokens.begin(), tokens.end());
    const Block parent = before.blocks.empty() ? roots_[chain.root] : before.blocks.back();
    // Its content is what a model would compute from the text.
    if (known) {
      chain.content.back() = content_of(chain.root, text, text.size());
      write(block, chain.content.back());
    }
    const Block got = pool_.publish(block, parent, tokens);
    if (!before.blocks.empty() && !at(parent).published) {
      ASSERT_EQ(got, block);
      return;
    }
    const std::size_t there = in_index(parent, tokens);
    if (is_same(there, parent, tokens)) {
      ASSERT_EQ(got.index, static_cast<std::int32_t>(there));
      ++state_[there].references;
      release_one(block);
      chain.blocks.back() = got;
      return;
    }
    ASSERT_EQ(got, block);
    if (there < state_.size()) return;  // a collision: it stays unpublished
    at(block).published = true;
    at(block).parent = parent;
    at(block).tokens = tokens;
  }

  void fork(std::size_t i) {
    if (chains_.size() > 12) return;
    pool_.retain(chains_[i].blocks);
    for (const Block block : chains_[i].blocks) ++at(block).references;
    const Chain copy = chains_[i];
    chains_.push_back(copy);
  }

  /// The last `count` blocks of a chain; of none left, the chain itself.
  void drop(std::size_t i, std::size_t count) {
    Chain& chain = chains_[i];
    count = std::min(count, chain.blocks.size());
    pool_.release(std::span(chain.blocks).last(count));
    for (; count > 0; --count) {
      release_one(chain.blocks.back());
      chain.blocks.pop_back();
      chain.content.pop_back();
    }
    if (chain.blocks.empty()) chains_.erase(chains_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  /// Writes to the last block if the pool allows it.
  void rewrite(std::size_t i) {
    Chain& chain = chains_[i];
    if (chain.blocks.empty()) return;
    const Block block = chain.blocks.back();
    State& s = at(block);
    const bool may =
        s.references == 1 &&
        (!s.published || (s.pins == 0 && children(static_cast<std::size_t>(block.index)) == 0));
    ASSERT_EQ(pool_.make_writable(block), may);
    if (!may) return;
    s.published = false;
    chain.content.back() = --unique_;
    write(block, chain.content.back());
  }

  std::int64_t pinned() const {
    return std::count_if(state_.begin(), state_.end(), [](const State& s) { return s.pins > 0; });
  }

  void pin(std::size_t i) {
    const Chain& chain = chains_[i];
    const bool all_published = std::all_of(chain.blocks.begin(), chain.blocks.end(),
                                           [&](Block b) { return at(b).published; });
    std::set<std::int32_t> fresh;
    for (const Block block : chain.blocks)
      if (at(block).pins == 0) fresh.insert(block.index);
    if (!all_published || pinned() + static_cast<std::int64_t>(fresh.size()) > most_pinned_) {
      EXPECT_THROW(pool_.pin(chain.blocks), ArgumentError);
      return;
    }
    pool_.pin(chain.blocks);
    for (const Block block : chain.blocks) ++at(block).pins;
    pins_.push_back(chain.blocks);
  }

  void unpin() {
    if (pins_.empty()) return;
    pool_.unpin(pins_.back());
    for (const Block block : pins_.back()) --at(block).pins;
    pins_.pop_back();
  }

  /// Blocks that were freed, or never were: refused, and nothing changes.
  void misuse() {
    const std::size_t i = pick(state_.size());
    Block block{static_cast<std::int32_t>(i), state_[i].generation};
    if (state_[i].references > 0) block.generation -= 1;
    if (rng_.below(4) == 0) block.index = static_cast<std::int32_t>(state_.size());
    EXPECT_THROW(pool_.release({&block, 1}), ArgumentError);
    EXPECT_THROW(pool_.retain({&block, 1}), ArgumentError);
    EXPECT_THROW(static_cast<void>(pool_.make_writable(block)), ArgumentError);
    EXPECT_THROW(static_cast<void>(pool_.publish(block, roots_[0], Tokens(kTokens))),
                 ArgumentError);
  }

  void check_counts() {
    const BlockCounts got = pool_.counts();
    std::int64_t free = 0, held = 0, cached = 0, shared = 0;
    for (const State& s : state_) {
      free += is_free(s) ? 1 : 0;
      held += s.references > 0 ? 1 : 0;
      cached += s.references == 0 && s.published ? 1 : 0;
      shared += s.references > 1 ? 1 : 0;
    }
    ASSERT_EQ(got.free, free);
    ASSERT_EQ(got.held, held);
    ASSERT_EQ(got.cached, cached);
    ASSERT_EQ(got.shared, shared);
    ASSERT_EQ(got.pinned, pinned());
    ASSERT_EQ(got.free + got.held + got.cached, got.blocks);
  }

  void check_everything() {
    for (std::size_t i = 0; i < state_.size(); ++i) {
      const Block block{static_cast<std::int32_t>(i), state_[i].generation};
      ASSERT_EQ(pool_.references(block), state_[i].references);
      ASSERT_EQ(pool_.published(block), state_[i].published);
    }
    for (const Chain& chain : chains_)
      for (std::size_t n = 0; n < chain.blocks.size(); ++n)
        ASSERT_EQ(content_[static_cast<std::size_t>(chain.blocks[n].index)], chain.content[n])
            << "another wrote over it";
  }

  bool weak_;
  std::int64_t most_pinned_;
  BlockPool pool_;
  Rng rng_;
  std::vector<State> state_;
  std::vector<std::int64_t> content_;  // of the memory of each block
  std::vector<Block> roots_;
  std::vector<Chain> chains_;
  std::vector<std::vector<Block>> pins_;
  std::map<Tokens, std::int64_t> texts_;
  std::int64_t unique_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace quire::cache::test

#pragma once

// A pool of blocks with a tier behind it under random operations, beside a shadow that remembers
// what was written where. Whatever is read is what was written, or an error.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/cache/block_pool.h"
#include "quire/cache/tier.h"
#include "quire/tensor/rng.h"
#include "tests/support/memory_scratch.h"

namespace quire::cache::test {

using quire::test::MemoryScratch;
using quire::test::ScratchFileOps;

class TierModel {
 public:
  enum class Disk { kSound, kFlaky };

  TierModel(Disk disk, std::uint64_t seed) : is_flaky_(disk == Disk::kFlaky), rng_(seed) {
    memory_.resize(kFrames * kWords);
    const ScratchFileOps ops([&](const std::string&) {
      auto made = std::make_unique<Flaky>(seed);
      disk_ = made.get();
      return made;
    });
    TierSpec spec;
    spec.layers = kLayers;
    spec.pages = kPages;
    spec.frames = kFrames;
    spec.folder = "/tmp";
    spec.payload_bytes = kWords * 8;
    spec.parts = [this](std::int32_t frame, std::int64_t) {
      const auto all = std::as_writable_bytes(
          std::span(memory_).subspan(static_cast<std::size_t>(frame) * kWords, kWords));
      return std::array<std::span<std::byte>, 3>{all.first(8), all.subspan(8), {}};
    };
    spec.lost = [this](std::int32_t page) { pool_->lose(page); };
    tier_ = std::make_unique<Tier>(spec);
    BlockPoolSpec blocks;
    blocks.blocks = kPages;
    blocks.block_tokens = 1;
    blocks.freed = [this](std::int32_t page) { tier_->forget(page); };
    pool_ = std::make_unique<BlockPool>(blocks);
    root_ = pool_->open_root("model");
  }

  void run(std::int64_t operations) {
    for (std::int64_t i = 0; i < operations && !testing::Test::HasFailure(); ++i) {
      if (is_flaky_) disk_->odds(i / 1000 % 3);
      one();
      if (i % 64 == 0) check();
    }
    while (!held_.empty()) let_go(0);
    check();
    EXPECT_EQ(pool_->counts().held, 0);
  }

  std::int64_t errors() const { return errors_; }
  std::int64_t read_back() const {
    const TierCounts counts = tier_->counts();
    return counts.bytes_read / counts.record_bytes;
  }

 private:
  static constexpr std::int64_t kLayers = 5, kPages = 12, kFrames = 28;
  static constexpr std::size_t kWords = 16;
  using Values = std::array<std::uint64_t, kLayers>;  // 0: never written

  /// What several holders may share.
  struct Page {
    Block block;
    Values values{};
    std::int32_t text = -1;  // under which it was published
  };
  struct Held {
    std::shared_ptr<Page> page;
  };

  /// Fails, and spoils what it holds, as often as it is told.
  class Flaky final : public MemoryScratch {
   public:
    explicit Flaky(std::uint64_t seed) : rng_(seed + 77) {}
    /// 0: never; 1: sometimes; 2: writes nearly always.
    void odds(std::int64_t kind) {
      const std::lock_guard lock(mutex_);
      kind_ = kind;
    }
    void read(std::span<Transfer> transfers) override {
      const std::lock_guard lock(mutex_);
      MemoryScratch::read(transfers);
      for (Transfer& t : transfers) {
        if (kind_ == 0) continue;
        const auto what = rng_.below(100);
        if (what < 2) t.error = EIO;
        if (what == 2) t.parts[0][107] ^= std::byte{1};   // a bit of the data
        if (what == 3) t.parts[0][20] ^= std::byte{128};  // of the header
        if (what == 4) flip(t.offset + 120);              // for good
      }
    }
    void write(std::span<Transfer> transfers) override {
      const std::lock_guard lock(mutex_);
      for (Transfer& t : transfers) {
        const auto what = rng_.below(100);
        if (kind_ == 2 ? what < 95 : kind_ == 1 && what < 3) {
          t.error = ENOSPC;
          if (what % 2 == 0) continue;
          Transfer torn = t;  // some of it came through
          torn.parts[0] = torn.parts[0].first(104 + (torn.parts[0].size() - 104) / 2);
          MemoryScratch::write({&torn, 1});
          continue;
        }
        MemoryScratch::write({&t, 1});
        if (kind_ == 1 && what == 50) flip(t.offset + 50);
      }
    }

   private:
    std::mutex mutex_;
    Rng rng_;
    std::int64_t kind_ = 0;
  };

  std::size_t pick(std::size_t count) { return static_cast<std::size_t>(rng_.below(count)); }

  void one() {
    const std::uint64_t what = rng_.below(100);
    if (held_.empty() || what < 12) return grow();
    if (what < 35) return write();
    if (what < 75) return read();
    if (what < 81) return publish();
    if (what < 88) return find();
    if (what < 92) return share();
    let_go(pick(held_.size()));
  }

  void grow() {
    Block block;
    try {
      block = pool_->allocate();
    } catch (const OutOfMemory&) {
      return;
    }
    held_.push_back({std::make_shared<Page>(Page{block, {}, -1})});
    ASSERT_FALSE(tier_->is_lost(block.index)) << "a fresh page";
  }

  /// Some pages that are held, each once.
  std::vector<Page*> some(std::size_t most) {
    std::vector<Page*> out;
    for (std::size_t n = 1 + pick(most); n > 0; --n) {
      Page* page = held_[pick(held_.size())].page.get();
      if (std::find(out.begin(), out.end(), page) == out.end()) out.push_back(page);
    }
    return out;
  }

  /// What a lease throws is right only where the disk fails; what is lost was asked for.
  void check_error(const std::vector<Page*>& pages) {
    ++errors_;
    ASSERT_TRUE(is_flaky_);
    for (const Page* page : pages)
      if (tier_->is_lost(page->block.index)) return;
    ASSERT_GT(tier_->counts().failed_writes, 0);
  }

  std::vector<std::int32_t> numbers(const std::vector<Page*>& pages) const {
    std::vector<std::int32_t> out;
    for (const Page* page : pages) out.push_back(page->block.index);
    return out;
  }

  void write() {
    std::vector<Page*> pages = some(3);
    std::erase_if(pages,
                  [&](const Page* p) { return p->text >= 0 || pool_->references(p->block) > 1; });
    const std::int64_t layer = static_cast<std::int64_t>(pick(kLayers));
    try {
      Tier::Lease lease = tier_->lease(layer, numbers(pages));
      for (Page* page : pages) {
        const std::uint64_t value = ++unique_;
        lease.mark_written(page->block.index);
        page->values[static_cast<std::size_t>(layer)] = value;
        const auto frame = static_cast<std::size_t>(lease.frame(page->block.index));
        for (std::size_t w = 0; w < kWords; ++w) memory_[frame * kWords + w] = value * 31 + w;
      }
    } catch (const IoError&) {
      check_error(pages);
    }
  }

  void read() {
    const std::vector<Page*> pages = some(kPages);
    const std::int64_t first = static_cast<std::int64_t>(pick(kLayers));
    for (std::int64_t layer = first; layer < std::min(kLayers, first + 3); ++layer) {
      try {
        Tier::Lease lease = tier_->lease(layer, numbers(pages));
        if (rng_.below(2) == 0) lease.read_ahead((layer + 1) % kLayers);
        for (const Page* page : pages) {
          const std::uint64_t value = page->values[static_cast<std::size_t>(layer)];
          const auto frame = static_cast<std::size_t>(lease.frame(page->block.index));
          for (std::size_t w = 0; value != 0 && w < kWords; ++w)
            ASSERT_EQ(memory_[frame * kWords + w], value * 31 + w) << "a wrong block";
        }
      } catch (const IoError&) {
        check_error(pages);
      }
    }
  }

  void publish() {
    Page& page = *held_[pick(held_.size())].page;
    if (page.text >= 0 || pool_->references(page.block) > 1) return;
    const std::int32_t text = ++texts_;
    page.block = pool_->publish(page.block, root_, {&text, 1});
    page.text = text;
    known_[text] = page.values;
  }

  /// Finds a text that was published, and keeps it.
  void find() {
    if (texts_ == 0) return;
    const auto text = static_cast<std::int32_t>(
        texts_ - static_cast<std::int32_t>(pick(static_cast<std::size_t>(std::min(texts_, 20)))));
    for (const Held& held : held_)
      if (held.page->text == text) return;
    const std::vector<Block> found = pool_->match(root_, {&text, 1});
    if (found.empty()) return;
    const std::int32_t number = found[0].index;
    if (!tier_->check({&number, 1})[0]) {
      ++errors_;
      ASSERT_TRUE(is_flaky_);
      pool_->lose(number);
      pool_->release(found);
      ASSERT_TRUE(pool_->match(root_, {&text, 1}).empty()) << "lost, and found";
      return;
    }
    held_.push_back({std::make_shared<Page>(Page{found[0], known_.at(text), text})});
  }

  void share() {
    const Held held = held_[pick(held_.size())];
    pool_->retain({&held.page->block, 1});
    held_.push_back(held);
  }

  void let_go(std::size_t i) {
    pool_->release({&held_[i].page->block, 1});
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  void check() {
    const TierCounts tier = tier_->counts();
    const BlockCounts blocks = pool_->counts();
    ASSERT_EQ(blocks.free + blocks.held + blocks.cached, kPages);
    ASSERT_LE(tier.in_memory, kFrames);
    ASSERT_GE(tier.in_memory, 0);
    ASSERT_LE(tier.on_disk, (blocks.held + blocks.cached) * kLayers);
    ASSERT_GE(tier.on_disk, 0);
  }

  bool is_flaky_;
  Rng rng_;
  Flaky* disk_ = nullptr;
  std::vector<std::uint64_t> memory_;
  std::unique_ptr<BlockPool> pool_;
  std::unique_ptr<Tier> tier_;
  Block root_;
  std::vector<Held> held_;
  std::map<std::int32_t, Values> known_;
  std::int32_t texts_ = 0;
  std::uint64_t unique_ = 0;
  std::int64_t errors_ = 0;
};

}  // namespace quire::cache::test

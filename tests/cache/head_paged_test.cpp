#include "quire/cache/head_paged.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_in;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16,
                             DType::kI4,  DType::kI4H, DType::kI8H};
using Indices = std::vector<std::int64_t>;

std::vector<LayerSpec> some_layers() { return {layer_of(4, 2, 20, 12), layer_of(3, 3, 20, 12)}; }

std::shared_ptr<HeadPagedPool> pool_of(const std::vector<LayerSpec>& layers, std::int64_t budget,
                                       std::int64_t page = 16, DType kv = DType::kF32) {
  PagedSpec spec;
  spec.layers = layers;
  spec.kv = kv;
  spec.budget_tokens = budget;
  spec.page_tokens = page;
  return std::make_shared<HeadPagedPool>(spec);
}

TEST(HeadPagedCache, I7_gives_the_bits_of_the_contiguous_cache_while_nothing_is_left_out) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kStored) {
    Rng rng(1);
    const Step all = random_step(rng, layers, 300);
    for (const std::int64_t chunk : {300, 7, 1}) {
      ContiguousCache plain(layers, 300, kv);
      const std::vector<float> expected = feed_in(plain, all, chunk);
      for (const std::int64_t page : {1, 5, 16, 48, 64, 512}) {
        if (chunk != 300 && page != 5 && page != 64) continue;
        set_threads(page == 64 ? 2 : 1);
        HeadPagedCache cache(pool_of(layers, 300, page, kv), 300);
        EXPECT_TRUE(same_bits(feed_in(cache, all, chunk), expected))
            << to_string(kv) << ", chunks of " << chunk << ", pages of " << page;
      }
    }
  }
}

/// Row `n` of a [N, heads, X] tensor with the heads of kv head g alone.
Tensor head_row(const Tensor& x, std::int64_t n, std::int64_t g, std::int64_t group) {
  return x.slice(0, n, n + 1).slice(1, g * group, (g + 1) * group).contiguous_copy();
}

/// What each kv head answers to the last row of `next` when it holds `kept[layer][g]` of `all`.
std::vector<float> expected_after(const std::vector<LayerSpec>& layers, DType kv, const Step& all,
                                  const std::vector<std::vector<Indices>>& kept, const Step& next) {
  std::vector<float> out;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const LayerSpec& s = layers[l];
    for (std::int64_t g = 0; g < s.G; ++g) {
      const std::vector<LayerSpec> one = {layer_of(s.H / s.G, 1, s.K, s.U)};
      ContiguousCache alone(one, 1'000, kv);
      const auto token = [&](const Step& from, std::int64_t n) {
        return Step{{head_row(from.q[l], n, g, s.H / s.G)},
                    {head_row(from.k[l], n, g, 1)},
                    {head_row(from.v[l], n, g, 1)}};
      };
      std::vector<Step> tokens;
      for (const std::int64_t n : kept[l][static_cast<std::size_t>(g)])
        tokens.push_back(token(all, n));
      if (!tokens.empty()) test::hold(alone, test::joined(tokens));
      for (const float x : feed(alone, token(next, next.N() - 1))) out.push_back(x);
    }
  }
  return out;
}

TEST(HeadPagedCache, PAG_03_each_head_answers_from_what_it_kept) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kStored) {
    for (const std::int64_t page : {5, 16, 64}) {
      Rng rng(2);
      const Step all = random_step(rng, layers, 200), next = random_step(rng, layers, 1);
      HeadPagedCache cache(pool_of(layers, 250, page, kv), 300);
      test::hold(cache, all);
      std::vector<std::vector<Indices>> kept;
      for (std::size_t l = 0; l < layers.size(); ++l) {
        kept.emplace_back();
        for (std::int64_t g = 0; g < layers[l].G; ++g) {
          Indices entries;
          for (std::int64_t n = 0; n < 200; ++n)
            if (n < 4 + 20 * g || rng.below(3) == 0) entries.push_back(n);
          cache.keep(static_cast<std::int64_t>(l), g, entries);
          kept.back().push_back(entries);
          const auto held = cache.held(static_cast<std::int64_t>(l), g);
          EXPECT_EQ(Indices(held.begin(), held.end()), entries);
        }
      }
      EXPECT_EQ(cache.length(), 200);
      EXPECT_TRUE(same_bits(feed(cache, next), expected_after(layers, kv, all, kept, next)))
          << to_string(kv) << ", pages of " << page;
    }
  }
}

TEST(HeadPagedCache, frees_the_pages_that_no_head_needs_and_counts_bytes) {
  const std::vector<LayerSpec> layers = {layer_of(4, 2, 32, 32)};
  const auto pool = pool_of(layers, 64, 16, DType::kI4);
  EXPECT_EQ(pool->page_bytes(), 16 * (20 + 20));
  EXPECT_EQ(pool->counts().blocks, 8);
  HeadPagedCache cache(pool, 100);
  Rng rng(3);
  feed(cache, random_step(rng, layers, 64));
  EXPECT_EQ(cache.bytes(), 8 * pool->page_bytes());
  EXPECT_EQ(cache.bytes_per_token(), 2 * 40);
  EXPECT_EQ(cache.report().bytes_read, 64 * 80);
  cache.keep(0, 0, Indices{0, 1, 63});  // in a pool that is full
  EXPECT_EQ(pool->counts().free, 3);
  cache.keep(0, 1, Indices{});
  EXPECT_EQ(pool->counts().free, 7);
  EXPECT_EQ(cache.bytes(), pool->page_bytes());
  EXPECT_EQ(cache.report().bytes_read, 3 * 40);
  EXPECT_EQ(cache.report().tokens, 64);
  feed(cache, random_step(rng, layers, 13));
  EXPECT_THAT(cache.held(0, 0).subspan(0, 4), ElementsAre(0, 1, 63, 64));
  cache.truncate(70);
  EXPECT_EQ(cache.held(0, 0).size(), 3u + 6u);
  EXPECT_EQ(cache.held(0, 1).size(), 6u);
  cache.truncate(60);
  EXPECT_THAT(cache.held(0, 0), ElementsAre(0, 1));
  EXPECT_EQ(pool->counts().free, 7);
}

TEST(HeadPagedCache, INF_04_references_are_counted_for_each_head) {
  const std::vector<LayerSpec> layers = {layer_of(2, 2, 16, 16)};
  const auto pool = pool_of(layers, 160, 16);
  HeadPagedCache left(pool, 200);
  Rng rng(4);
  feed(left, random_step(rng, layers, 40));
  const auto right = left.fork_heads();
  EXPECT_EQ(pool->counts().held, 6);
  EXPECT_EQ(pool->counts().shared, 6);
  Indices most(40);
  std::iota(most.begin(), most.end(), 0);
  most.erase(most.begin() + 17);
  right->keep(0, 1, most);  // its first page stays shared, two are replaced
  EXPECT_EQ(pool->counts().shared, 4);
  EXPECT_EQ(pool->counts().held, 8);
  EXPECT_EQ(left.held(0, 1).size(), 40u);
  feed(left, random_step(rng, layers, 1));  // the other head's tail page is copied
  EXPECT_EQ(pool->counts().shared, 3);
}

/// Random operations on some caches of one pool, beside lists of the rows that each head holds.
class Oracle {
 public:
  Oracle(DType kv, std::int64_t page, std::uint64_t seed)
      : kv_(kv), pool_(pool_of(layers_, 96, page, kv)), rng_(seed) {
    add();
  }
  void run(int operations) {
    for (int i = 0; i < operations && !testing::Test::HasFailure(); ++i) one();
    EXPECT_GT(appended_, 0);
    EXPECT_GT(exhausted_, 0);
    EXPECT_GT(forked_, 0);
    sequences_.clear();
    EXPECT_EQ(pool_->counts().held, 0);
    EXPECT_EQ(pool_->counts().free, pool_->counts().blocks);
  }

 private:
  struct Sequence {
    std::unique_ptr<HeadPagedCache> cache;
    std::vector<std::vector<Indices>> rows;  // of all_, by layer and head
    Indices token_rows;                      // the row of each position
  };

  void add() {
    Sequence s;
    s.cache = std::make_unique<HeadPagedCache>(pool_, 300);
    for (const LayerSpec& layer : layers_) s.rows.emplace_back(static_cast<std::size_t>(layer.G));
    sequences_.push_back(std::move(s));
  }
  Sequence& some() { return sequences_[static_cast<std::size_t>(rng_.below(sequences_.size()))]; }

  void one() {
    const auto kind = rng_.below(10);
    if (kind < 4) return append(some());
    if (kind < 6) return keep(some());
    if (kind == 6) return truncate(some());
    if (kind == 7 && sequences_.size() < 4) return fork(some());
    if (kind == 8 && sequences_.size() > 1) {
      sequences_.erase(sequences_.begin() +
                       static_cast<std::ptrdiff_t>(rng_.below(sequences_.size())));
      return;
    }
    check(some());
  }

  void append(Sequence& s) {
    const auto N = static_cast<std::int64_t>(1 + rng_.below(25));
    if (s.cache->length() + N > 300) return truncate(s);
    const Step step = random_step(rng_, layers_, N);
    const std::int64_t before = s.cache->bytes();
    try {
      feed(*s.cache, step);
    } catch (const OutOfMemory& e) {
      EXPECT_THAT(e.what(), HasSubstr("budget"));
      EXPECT_LE(s.cache->bytes(), before);
      ++exhausted_;
      return check(s);
    }
    ++appended_;
    const auto first = static_cast<std::int64_t>(all_.q.empty() ? 0 : all_.N());
    all_ = all_.q.empty() ? step : test::joined(std::vector<Step>{all_, step});
    for (std::int64_t n = 0; n < N; ++n) {
      s.token_rows.push_back(first + n);
      for (auto& layer : s.rows)
        for (Indices& head : layer) head.push_back(first + n);
    }
  }

  void keep(Sequence& s) {
    const auto l = static_cast<std::size_t>(rng_.below(layers_.size())),
               g = static_cast<std::size_t>(rng_.below(static_cast<std::uint64_t>(layers_[l].G)));
    Indices& rows = s.rows[l][g];
    Indices entries, kept;
    const std::uint64_t front = rng_.below(rows.size() + 1), one_of = 1 + rng_.below(4);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i >= front && rng_.below(one_of + 1) == 0) continue;
      entries.push_back(static_cast<std::int64_t>(i));
      kept.push_back(rows[i]);
    }
    try {
      s.cache->keep(static_cast<std::int64_t>(l), static_cast<std::int64_t>(g), entries);
      rows = kept;
    } catch (const OutOfMemory&) {
      ++exhausted_;
      check(s);
    }
  }

  void truncate(Sequence& s) {
    const auto to =
        static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(s.cache->length() + 1)));
    s.cache->truncate(to);
    s.token_rows.resize(static_cast<std::size_t>(to));
    for (std::size_t l = 0; l < s.rows.size(); ++l) {
      for (Indices& head : s.rows[l]) {
        // Rows of later positions are those that token_rows no longer has.
        std::erase_if(head, [&](std::int64_t row) {
          return std::find(s.token_rows.begin(), s.token_rows.end(), row) == s.token_rows.end();
        });
      }
    }
  }

  void fork(const Sequence& s) {
    Sequence copy{s.cache->fork_heads(), s.rows, s.token_rows};
    sequences_.push_back(std::move(copy));
    ++forked_;
  }

  void check(Sequence& s) {
    const BlockCounts counts = pool_->counts();
    EXPECT_EQ(counts.free + counts.held + counts.cached, counts.blocks);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      for (std::size_t g = 0; g < s.rows[l].size(); ++g) {
        const auto held = s.cache->held(static_cast<std::int64_t>(l), static_cast<std::int64_t>(g));
        ASSERT_EQ(held.size(), s.rows[l][g].size());
        for (std::size_t i = 0; i < held.size(); ++i)
          ASSERT_EQ(s.token_rows[static_cast<std::size_t>(held[i])], s.rows[l][g][i]);
      }
    }
    if (all_.q.empty() || s.cache->length() == 300) return;
    const Step next = random_step(rng_, layers_, 1);
    try {
      const std::vector<float> got = feed(*s.cache, next);
      EXPECT_TRUE(same_bits(got, expected_after(layers_, kv_, all_, s.rows, next)));
      s.cache->truncate(s.cache->length() - 1);
    } catch (const OutOfMemory&) {
      ++exhausted_;
    }
  }

  const std::vector<LayerSpec> layers_ = {layer_of(2, 2, 20, 16), layer_of(1, 1, 20, 16)};
  DType kv_;
  std::shared_ptr<HeadPagedPool> pool_;
  Rng rng_;
  Step all_;
  std::vector<Sequence> sequences_;
  int appended_ = 0, exhausted_ = 0, forked_ = 0;
};

TEST(HeadPagedCache, I4_random_operations_beside_an_oracle) {
  set_threads(1);
  std::uint64_t seed = 1;
  for (const DType kv : {DType::kF32, DType::kF16, DType::kI4, DType::kI4H})
    for (const std::int64_t page : {1, 5, 16, 32}) Oracle(kv, page, seed++).run(150);
}

TEST(HeadPagedCache, refuses_what_it_cannot_hold) {
  std::vector<LayerSpec> layers = {layer_of(2, 2, 16, 16)};
  EXPECT_THAT(message_of([&] { pool_of(layers, 10, 16, DType::kI8); }),
              HasSubstr("pages of heads cannot be i8"));
  EXPECT_THAT(message_of([&] { pool_of(layers, 0); }), HasSubstr("a budget of 0 tokens"));
  EXPECT_THAT(message_of([&] { pool_of(layers, 10, 0); }), HasSubstr("pages of 0 tokens"));
  EXPECT_THAT(message_of([&] { pool_of({}, 10); }), HasSubstr("need a layer"));
  EXPECT_THAT(message_of([&] {
                pool_of({layer_of(2, 2, 16, 16), layer_of(2, 2, 32, 16)}, 10);
              }),
              HasSubstr("one head size, not K = 32 and 16"));
  HeadPagedCache cache(pool_of(layers, 40), 100);
  Rng rng(5);
  feed(cache, random_step(rng, layers, 20));
  EXPECT_THAT(message_of([&] {
                cache.keep(0, 0, Indices{3, 3});
              }),
              HasSubstr("entries[1] is 3; they must ascend and be less than 20"));
  EXPECT_THAT(message_of([&] { cache.keep(0, 0, Indices{20}); }), HasSubstr("entries[0] is 20"));
  EXPECT_THAT(message_of([&] { cache.keep(0, 2, Indices{}); }),
              HasSubstr("kv head 2 of a layer with 2"));
  EXPECT_THAT(message_of([&] { cache.keep(1, 0, Indices{}); }),
              HasSubstr("layer is 1, but the cache has 1"));
  EXPECT_THAT(message_of<OutOfMemory>([&] { feed(cache, random_step(rng, layers, 40)); }),
              HasSubstr("budget"));
  EXPECT_EQ(cache.length(), 20);
  const Step step = random_step(rng, layers, 2);
  cache.append(0, step.k[0], step.v[0]);
  EXPECT_THAT(message_of([&] { cache.keep(0, 0, Indices{0}); }),
              HasSubstr("has appended 2 tokens that no advance() took"));
  EXPECT_THAT(message_of([&] { cache.advance(1); }), HasSubstr("the step appended 2"));
  layers[0].attention.window_left = 8;
  EXPECT_THAT(message_of([&] { pool_of(layers, 10); }), HasSubstr("no window"));
}

}  // namespace
}  // namespace quire::cache

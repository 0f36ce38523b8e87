#include "quire/cache/paged.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <thread>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/page_store.h"
#include "quire/ops/attention/kv_format.h"
#include "tests/cache/steps.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_in;
using test::hold;
using test::Ids;
using test::ids_of;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// Over bf16 the first rounds its queries, as a model's layers do.
std::vector<LayerSpec> some_layers() {
  std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 32), layer_of(3, 1, 20, 12)};
  layers[0].attention.query_rounding = QueryRounding::kLikePages;
  return layers;
}

std::shared_ptr<PagedPool> pool_of(const std::vector<LayerSpec>& layers, std::int64_t budget,
                                   std::int64_t page = 16, DType kv = DType::kF32) {
  PagedSpec spec;
  spec.layers = layers;
  spec.kv = kv;
  spec.budget_tokens = budget;
  spec.page_tokens = page;
  spec.identity = "a model";
  return std::make_shared<PagedPool>(spec);
}

Ids cut(const Ids& ids, std::int64_t begin, std::int64_t end) {
  return {ids.begin() + begin, ids.begin() + end};
}

TEST(PagedCache, I7_INF_06_gives_the_bits_of_the_contiguous_cache_for_pages_chunks_and_threads) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    Rng rng(1);
    const Step all = random_step(rng, layers, 300);
    for (const std::int64_t chunk : {300, 64, 7, 1}) {
      ContiguousCache plain(layers, 300, kv);
      const std::vector<float> expected = feed_in(plain, all, chunk);
      for (const std::int64_t page : {1, 5, 16, 48, 64, 256, 512}) {
        if (chunk != 300 && page != 1 && page != 64) continue;
        for (const int threads : {1, 2}) {
          if (threads == 1 && (page != 64 || chunk == 64)) continue;
          set_threads(threads);
          PagedCache cache(pool_of(layers, 300, page, kv), 300);
          EXPECT_TRUE(same_bits(feed_in(cache, all, chunk), expected))
              << to_string(kv) << ", chunks of " << chunk << ", pages of " << page;
        }
      }
    }
  }
}

TEST(PagedCache, PAG_03_pages_that_others_wrote_before_leave_no_trace) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    Rng rng(2);
    const auto pool = pool_of(layers, 320, 16, kv);
    {  // Every page is full of NaN.
      PagedCache before(pool, 320);
      Step poison = random_step(rng, layers, 320);
      for (auto* side : {&poison.k, &poison.v})
        for (Tensor& x : *side)
          std::fill_n(x.mutable_data<float>(), x.elements(),
                      std::numeric_limits<float>::quiet_NaN());
      hold(before, poison);
    }
    const Step all = random_step(rng, layers, 301);
    ContiguousCache plain(layers, 320, kv);
    PagedCache cache(pool, 320);
    EXPECT_TRUE(same_bits(feed_in(cache, all, 43), feed_in(plain, all, 43))) << to_string(kv);
  }
}

TEST(PagedCache, INF_04_K3_B14_after_a_fork_neither_side_sees_what_the_other_writes) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    for (const std::int64_t length : {1, 16, 17, 100}) {
      Rng rng(3);
      const Step first = random_step(rng, layers, length), a = random_step(rng, layers, 20),
                 b = random_step(rng, layers, 20);
      const auto pool = pool_of(layers, 400, 16, kv);
      PagedCache left(pool, 200);
      hold(left, first);
      const auto right = left.fork();
      EXPECT_EQ(right->length(), length);
      std::vector<float> of_left, of_right;
      for (std::int64_t n = 0; n < 20; ++n) {  // in turns
        for (const float x : feed(left, part(a, n, n + 1))) of_left.push_back(x);
        for (const float x : feed(*right, part(b, n, n + 1))) of_right.push_back(x);
      }
      for (const auto& [own, got] : {std::pair(&a, &of_left), std::pair(&b, &of_right)}) {
        ContiguousCache alone(layers, 200, kv);
        hold(alone, first);
        EXPECT_TRUE(same_bits(*got, feed_in(alone, *own, 1))) << to_string(kv) << " " << length;
      }
      EXPECT_EQ(pool->counts().shared, length / 16);
    }
  }
}

TEST(PagedCache, a_fork_takes_no_page_until_it_writes) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  const auto pool = pool_of(layers, 160);
  Rng rng(4);
  PagedCache cache(pool, 160);
  feed(cache, random_step(rng, layers, 40));
  EXPECT_EQ(pool->counts().held, 3);
  std::vector<std::unique_ptr<PagedCache>> forks;
  for (int i = 0; i < 50; ++i) forks.push_back(cache.fork_paged());
  EXPECT_EQ(pool->counts().held, 3);
  EXPECT_EQ(pool->counts().shared, 3);
  feed(*forks[7], random_step(rng, layers, 1));  // its own copy of the tail
  EXPECT_EQ(pool->counts().held, 4);
  EXPECT_EQ(forks[7]->table()[0], cache.table()[0]);
  EXPECT_NE(forks[7]->table()[2], cache.table()[2]);
  forks.clear();
  EXPECT_EQ(pool->counts().held, 3);
  EXPECT_EQ(pool->counts().shared, 0);
}

TEST(PagedCache, INF_03_a_prefix_is_found_whole_in_part_or_not_at_all) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    Rng rng(5);
    const auto pool = pool_of(layers, 640, 16, kv);
    const Step all = random_step(rng, layers, 100);
    const Ids ids = ids_of(100);
    std::vector<float> expected;
    {
      PagedCache first(pool, 200);
      expected = feed_in(first, all, 33, ids);
    }
    EXPECT_EQ(pool->counts().cached, 6);
    EXPECT_EQ(pool->counts().held, 0);
    PagedCache again(pool, 200);
    EXPECT_EQ(again.adopt(ids), 96);
    EXPECT_THAT(std::vector(again.tokens().begin(), again.tokens().end()),
                testing::ElementsAreArray(cut(ids, 0, 96)));
    ContiguousCache plain(layers, 200, kv);
    feed(plain, part(all, 0, 96));
    EXPECT_TRUE(same_bits(feed(again, part(all, 96, 100), cut(ids, 96, 100)),
                          feed(plain, part(all, 96, 100))))
        << to_string(kv);
    Ids other = ids;
    other[50] = 7;  // in the fourth page
    PagedCache half(pool, 200);
    EXPECT_EQ(half.adopt(other), 48);
    other[0] = 7;
    PagedCache none(pool, 200);
    EXPECT_EQ(none.adopt(other), 0);
    PagedCache brief(pool, 40);  // whose capacity ends before
    EXPECT_EQ(brief.adopt(ids), 32);
    EXPECT_EQ(pool->counts().hits, 6 + 3 + 2);
    EXPECT_EQ(pool->counts().misses, 2);
  }
}

TEST(PagedCache, K5_another_salt_model_or_type_is_a_miss) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(6);
  const Ids ids = ids_of(64);
  const auto pool = pool_of(layers, 640);
  PagedCache first(pool, 64, "tenant");
  feed(first, random_step(rng, layers, 64), ids);
  EXPECT_EQ(PagedCache(pool, 64, "tenant").adopt(ids), 64);
  EXPECT_EQ(PagedCache(pool, 64, "tenan").adopt(ids), 0);
  EXPECT_EQ(PagedCache(pool, 64).adopt(ids), 0);
}

TEST(PagedCache, K4_a_sequence_whose_keys_collide_is_forked_and_goes_on) {
  // Pages whose keys are taken stay unpublished; whoever shares one must not try again.
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  PagedSpec spec;
  spec.layers = layers;
  spec.budget_tokens = 640;
  spec.page_tokens = 16;
  spec.blocks.hash = [](const Hash128&, std::span<const std::int32_t>) { return Hash128{1, 1}; };
  const auto pool = std::make_shared<PagedPool>(spec);
  Rng rng(22);
  const Step first = random_step(rng, layers, 70), next = random_step(rng, layers, 30);
  PagedCache cache(pool, 100);
  feed(cache, first, ids_of(70));
  EXPECT_EQ(pool->counts().collisions, 1);  // what follows it is not published either
  EXPECT_EQ(PagedCache(pool, 100).adopt(ids_of(70)), 16);
  const auto child = cache.fork_paged(), grandchild = child->fork_paged();
  ContiguousCache plain(layers, 100, DType::kF32);
  feed(plain, first);
  const std::vector<float> expected = feed(plain, next);
  for (PagedCache* one : {child.get(), &cache, grandchild.get()})
    EXPECT_TRUE(same_bits(feed(*one, next, ids_of(30, 70)), expected));
  EXPECT_EQ(cache.pin().size(), 1u);
}

TEST(PagedCache, equal_pages_are_kept_once) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(7);
  const auto pool = pool_of(layers, 640);
  const Step all = random_step(rng, layers, 64);
  PagedCache a(pool, 100), b(pool, 100);
  feed(a, part(all, 0, 64), ids_of(64));
  feed(b, part(all, 0, 40), ids_of(40));
  EXPECT_EQ(pool->counts().held, 4 + 1);
  feed(b, part(all, 40, 64), cut(ids_of(64), 40, 64));
  EXPECT_EQ(pool->counts().held, 4);
  EXPECT_EQ(pool->counts().duplicates, 4);
  ContiguousCache plain(layers, 100, DType::kF32);
  feed(plain, all);
  const Step more = random_step(rng, layers, 5);
  const std::vector<float> expected = feed(plain, more);
  EXPECT_TRUE(same_bits(feed(a, more), expected));
  EXPECT_TRUE(same_bits(feed(b, more), expected));
}

TEST(PagedCache, tokens_that_were_not_told_are_never_found) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(8);
  const auto pool = pool_of(layers, 640);
  PagedCache cache(pool, 100);
  feed(cache, random_step(rng, layers, 16), ids_of(16));
  feed(cache, random_step(rng, layers, 16));  // in silence
  feed(cache, random_step(rng, layers, 16), ids_of(16, 32));
  EXPECT_EQ(cache.tokens()[20], -1);
  EXPECT_EQ(PagedCache(pool, 100).adopt(ids_of(48)), 16);
}

TEST(PagedCache, truncate_and_go_on_is_as_if_never_read) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    Rng rng(9);
    const Step kept = random_step(rng, layers, 70), other = random_step(rng, layers, 50),
               next = random_step(rng, layers, 20);
    const auto pool = pool_of(layers, 640, 16, kv);
    for (const std::int64_t length : {64, 17, 16, 0}) {
      PagedCache cache(pool, 140);
      ContiguousCache fresh(layers, 140, kv);
      hold(cache, kept, ids_of(70));
      const auto witness = cache.fork();  // its pages must not change
      hold(cache, other, ids_of(50, 1000));
      cache.truncate(length);
      EXPECT_EQ(cache.length(), length);
      if (length > 0) hold(fresh, part(kept, 0, length));
      EXPECT_TRUE(same_bits(feed(cache, next, ids_of(20, 500)), feed(fresh, next)))
          << to_string(kv) << " at " << length;
      ContiguousCache plain(layers, 140, kv);
      hold(plain, kept);
      EXPECT_TRUE(same_bits(feed(*witness, next), feed(plain, next))) << length;
    }
    EXPECT_EQ(pool->counts().held, 0);
  }
}

TEST(PagedCache, a_published_page_is_never_written_again) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(10);
  const auto pool = pool_of(layers, 640);
  const Step all = random_step(rng, layers, 48), other = random_step(rng, layers, 48);
  PagedCache cache(pool, 100);
  feed(cache, all, ids_of(48));
  cache.truncate(8);  // into the first page, which has successors
  feed(cache, part(other, 0, 40), ids_of(40, 900));
  PagedCache found(pool, 100);
  ASSERT_EQ(found.adopt(ids_of(48)), 48);
  ContiguousCache plain(layers, 100, DType::kF32);
  feed(plain, all);
  const Step next = random_step(rng, layers, 3);
  EXPECT_TRUE(same_bits(feed(found, next), feed(plain, next)));
}

TEST(PagedCache, an_unfinished_step_is_replaced) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kKvForms) {
    Rng rng(11);
    const Step first = random_step(rng, layers, 30), next = random_step(rng, layers, 9);
    PagedCache cache(pool_of(layers, 100, 16, kv), 100);
    ContiguousCache fresh(layers, 100, kv);
    EXPECT_TRUE(same_bits(feed(cache, first), feed(fresh, first)));
    Tensor k = Tensor::empty({40, 2, 16}, DType::kF32), v = Tensor::empty({40, 2, 32}, DType::kF32);
    for (Tensor* x : {&k, &v})
      std::fill_n(x->mutable_data<float>(), x->elements(), std::numeric_limits<float>::quiet_NaN());
    cache.begin_step(ids_of(40));
    cache.append(0, k, v);
    EXPECT_EQ(cache.length(), 30);
    EXPECT_TRUE(same_bits(feed(cache, next, ids_of(9)), feed(fresh, next))) << to_string(kv);
    EXPECT_EQ(cache.length(), 39);
    const auto fork = cache.fork();
    cache.append(0, k, v);  // a fork in between has the finished steps alone
    EXPECT_EQ(fork->length(), 39);
  }
}

TEST(PagedCache, K1_K7_refuses_more_than_its_capacity_or_its_pool_and_stays_as_it_was) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(12);
  const auto pool = pool_of(layers, 48);
  PagedCache small(pool, 37);
  feed(small, random_step(rng, layers, 30));
  const Step large = random_step(rng, layers, 60);
  EXPECT_THAT(message_of<ArgumentError>([&] { small.append(0, large.k[0], large.v[0]); }),
              AllOf(HasSubstr("30"), HasSubstr("37"), HasSubstr("60")));
  PagedCache wide(pool, 1000);  // whose pool is smaller
  EXPECT_THAT(
      message_of<OutOfMemory>([&] { wide.append(0, large.k[0], large.v[0]); }),
      AllOf(HasSubstr("budget of 48 tokens"), HasSubstr("3 pages of 16"), HasSubstr("--budget")));
  EXPECT_EQ(pool->counts().held, 2);  // what it had taken went back
  EXPECT_EQ(wide.length(), 0);
  const Step fits = random_step(rng, layers, 16);
  ContiguousCache plain(layers, 16, DType::kF32);
  EXPECT_TRUE(same_bits(feed(wide, fits), feed(plain, fits)));
}

TEST(PagedCache, K6_a_full_pool_gives_up_cached_pages_and_goes_on) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(13);
  const auto pool = pool_of(layers, 160);
  for (std::int32_t round = 0; round < 20; ++round) {
    const Step all = random_step(rng, layers, 100);
    PagedCache cache(pool, 160);
    ContiguousCache plain(layers, 160, DType::kF32);
    EXPECT_TRUE(
        same_bits(feed_in(cache, all, 30, ids_of(100, round * 1000)), feed_in(plain, all, 30)));
    const BlockCounts counts = pool->counts();
    EXPECT_EQ(counts.held, 7);
    EXPECT_EQ(counts.free + counts.held + counts.cached, 10);
  }
  EXPECT_EQ(pool->counts().evictions, 19 * 6 - (10 - 7));
}

TEST(PagedCache, K8_a_pinned_document_outlives_its_reader) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(14);
  const auto pool = pool_of(layers, 160);
  std::vector<Block> pins;
  {
    PagedCache document(pool, 160);
    feed(document, random_step(rng, layers, 70), ids_of(70));
    pins = document.pin();
  }
  EXPECT_EQ(pins.size(), 4u);
  EXPECT_EQ(pool->counts().pinned, 4);
  for (int round = 0; round < 5; ++round) {
    PagedCache other(pool, 160);
    feed(other, random_step(rng, layers, 96), ids_of(96, 1000 + 1000 * round));
  }
  EXPECT_EQ(PagedCache(pool, 160).adopt(ids_of(70)), 64);
  PagedCache large(pool, 200);
  const Step more = random_step(rng, layers, 112);
  EXPECT_THROW(large.append(0, more.k[0], more.v[0]), OutOfMemory);
  pool->blocks().unpin(pins);
  large.append(0, more.k[0], more.v[0]);
  EXPECT_EQ(pool->counts().pinned, 0);
}

TEST(PagedCache, K8_a_document_beyond_the_bound_of_pins_is_not_pinned_in_part) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(23);
  const auto pool = pool_of(layers, 160);  // of whose ten pages five may be pinned
  PagedCache document(pool, 160);
  feed(document, random_step(rng, layers, 96), ids_of(96));
  EXPECT_THAT(message_of<ArgumentError>([&] { static_cast<void>(document.pin()); }),
              AllOf(HasSubstr("6 more"), HasSubstr("at most 5")));
  EXPECT_EQ(pool->counts().pinned, 0);
  document.truncate(80);
  const std::vector<Block> pins = document.pin();
  EXPECT_EQ(pins.size(), 5u);
  // A fork of what is pinned writes to a copy of its own.
  const auto fork = document.fork_paged();
  fork->truncate(70);
  document.truncate(70);
  const Step next = random_step(rng, layers, 8);
  EXPECT_TRUE(same_bits(feed(*fork, next, ids_of(8, 500)), feed(document, next, ids_of(8, 500))));
  EXPECT_EQ(PagedCache(pool, 160).adopt(ids_of(96)), 96);
  pool->blocks().unpin(pins);
}

/// Sequences with a common beginning and own tails, some of them empty.
struct Family {
  std::vector<std::unique_ptr<PagedCache>> forks;
  std::vector<std::unique_ptr<ContiguousCache>> alone;
};

Family family(const std::shared_ptr<PagedPool>& pool, const std::vector<LayerSpec>& layers,
              std::int64_t common, const std::vector<std::int64_t>& tails, DType kv, Rng& rng) {
  const Step document = random_step(rng, layers, common);
  PagedCache base(pool, 2000);
  if (common > 0) hold(base, document);
  Family out;
  for (const std::int64_t tail : tails) {
    out.forks.push_back(base.fork_paged());
    out.alone.push_back(std::make_unique<ContiguousCache>(layers, 2000, kv));
    if (common > 0) hold(*out.alone.back(), document);
    if (tail == 0) continue;
    const Step own = random_step(rng, layers, tail);
    hold(*out.forks.back(), own);
    hold(*out.alone.back(), own);
  }
  return out;
}

void expect_alone(Family& family, const std::vector<LayerSpec>& layers,
                  const std::vector<std::int64_t>& counts, std::int64_t shared, Rng& rng) {
  std::vector<PagedCache*> caches;
  for (const auto& fork : family.forks) caches.push_back(fork.get());
  const std::int64_t rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  for (int step = 0; step < 2; ++step) {
    PagedBatch batch(caches, counts);
    EXPECT_EQ(batch.shared(), shared);
    std::vector<Step> steps;
    for (const std::int64_t count : counts) steps.push_back(random_step(rng, layers, count));
    const std::vector<Tensor> got = test::feed_layers(batch, test::joined(steps), ids_of(rows));
    std::int64_t row = 0;
    for (std::size_t b = 0; b < counts.size(); ++b) {
      const std::vector<Tensor> expected = test::feed_layers(*family.alone[b], steps[b]);
      for (std::size_t i = 0; i < layers.size(); ++i) {
        const Tensor own = got[i].slice(0, row, row + counts[b]).contiguous_copy();
        ASSERT_EQ(own.shape(), expected[i].shape());
        EXPECT_TRUE(own.elements() == 0 || std::memcmp(own.data<float>(), expected[i].data<float>(),
                                                       static_cast<std::size_t>(own.bytes())) == 0)
            << "sequence " << b << ", layer " << i;
      }
      row += counts[b];
    }
  }
}

TEST(PagedBatch, PAG_21_I11_each_sequence_has_the_bits_it_has_alone) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const int threads : {1, 2}) {
    set_threads(threads);
    for (const DType kv : kKvForms) {
      for (const std::int64_t page : {16, 64}) {
        if ((page == 16) != (kv == DType::kF32 || kv == DType::kI8)) continue;
        if ((threads == 1) != (kv == DType::kF32 || kv == DType::kF16)) continue;
        Rng rng(15);
        const auto pool = pool_of(layers, 12'000, page, kv);
        const auto check = [&](std::int64_t common, const std::vector<std::int64_t>& tails,
                               const std::vector<std::int64_t>& counts, std::int64_t shared) {
          Family all = family(pool, layers, common, tails, kv, rng);
          expect_alone(all, layers, counts, shared, rng);
        };
        check(600, {0, 1, 30, 300}, {1, 1, 1, 1}, 512);
        check(600, {5, 9}, {70, 3}, 512);       // more rows than one block of queries
        check(256, {0, 0, 0}, {1, 0, 2}, 256);  // the shared part is all there is
        check(255, {0, 7}, {1, 1}, 0);          // shorter than a partial result
        check(0, {3, 0}, {2, 1}, 0);            // nothing in common
        check(520, {11}, {1}, 0);               // alone in its batch
      }
    }
  }
}

TEST(PagedBatch, what_cannot_share_a_read_is_attended_one_by_one) {
  std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16), layer_of(2, 1, 16, 16)};
  layers[0].attention.window_left = 100;
  const float slopes[] = {0.5f, 0.25f};
  layers[1].attention.slope_H = slopes;
  Rng rng(16);
  const auto pool = pool_of(layers, 4'000);
  Family all = family(pool, layers, 300, {0, 20}, DType::kF32, rng);
  expect_alone(all, layers, {1, 1}, 0, rng);
}

TEST(PagedBatch, tells_positions_and_tokens_to_each) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(17);
  const auto pool = pool_of(layers, 400);
  PagedCache a(pool, 100), b(pool, 50);
  feed(a, random_step(rng, layers, 10), ids_of(10));
  PagedBatch batch({&a, &b}, {2, 3});
  EXPECT_EQ(batch.length(), 10);
  EXPECT_EQ(batch.capacity(), 50);
  EXPECT_THAT(batch.positions(5), ElementsAre(10, 11, 0, 1, 2));
  feed(batch, random_step(rng, layers, 5), {7, 8, 1, 2, 3});
  EXPECT_EQ(a.length(), 12);
  EXPECT_EQ(a.tokens()[11], 8);
  EXPECT_THAT(std::vector(b.tokens().begin(), b.tokens().end()), ElementsAre(1, 2, 3));
}

TEST(PagedBatch, a_step_that_finds_no_page_leaves_everyone_as_they_were) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  Rng rng(18);
  const auto pool = pool_of(layers, 48);
  PagedCache a(pool, 100), b(pool, 100);
  feed(a, random_step(rng, layers, 16));
  feed(b, random_step(rng, layers, 16));
  PagedBatch batch({&a, &b}, {1, 1});
  const Step step = random_step(rng, layers, 2);
  EXPECT_THROW(feed(batch, step, {1, 2}), OutOfMemory);
  EXPECT_EQ(pool->counts().held, 2);
  EXPECT_EQ(a.length(), 16);
  PagedBatch one({&a}, {1});
  feed(one, part(step, 0, 1), {1});
  EXPECT_EQ(a.length(), 17);
}

TEST(PagedBatch, refuses_wrong_arguments) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  PagedCache a(pool_of(layers, 48), 100), b(pool_of(layers, 48), 100);
  EXPECT_THROW(PagedBatch({}, {}), ArgumentError);
  EXPECT_THROW(PagedBatch({&a}, {1, 1}), ArgumentError);
  EXPECT_THROW(PagedBatch({&a, &b}, {1, 1}), ArgumentError);
  EXPECT_THROW(PagedBatch({&a, &a}, {1, 1}), ArgumentError);
  EXPECT_THROW(PagedBatch({&a}, {-1}), ArgumentError);
  PagedBatch batch({&a}, {2});
  EXPECT_THROW(batch.begin_step(ids_of(3)), ArgumentError);
  EXPECT_THROW((void)batch.positions(1), ArgumentError);
  EXPECT_THROW(batch.truncate(0), ArgumentError);
  EXPECT_THROW(batch.advance(1), ArgumentError);
  EXPECT_THROW((void)batch.fork(), ArgumentError);
}

TEST(PagedCache, K13_sequences_on_many_threads_stay_apart) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  const auto pool = pool_of(layers, 16 * 200);
  Rng rng(19);
  PagedCache base(pool, 200);
  const Step document = random_step(rng, layers, 40);
  feed(base, document, ids_of(40));
  std::vector<std::thread> threads;
  std::vector<std::int64_t> wrong(16, 0);
  for (std::size_t t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      Rng own(100 + t);
      for (std::int32_t round = 0; round < 20; ++round) {
        auto fork = base.fork_paged();
        const Step step = random_step(own, layers, 30);
        fork->begin_step(ids_of(30, static_cast<std::int32_t>(1000 * t) + round));
        fork->append(0, step.k[0], step.v[0]);
        fork->advance(30);
        // The last key, as it was written: blocks of 16 keys.
        const KvView view = fork->view(0);
        const std::int64_t page = view.table[69 / 16], slot = 69 % 16;
        const float* key = static_cast<const float*>(view.k_pages) + page * view.k_strides.page;
        if (key[slot] != step.k[0].data<float>()[29 * 16]) ++wrong[t];
        fork->truncate(35);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::accumulate(wrong.begin(), wrong.end(), std::int64_t{0}), 0);
  const BlockCounts counts = pool->counts();
  EXPECT_EQ(counts.held, 3);
  EXPECT_EQ(counts.free + counts.held + counts.cached, counts.blocks);
  ContiguousCache plain(layers, 200, DType::kF32);
  feed(plain, document);
  const Step next = random_step(rng, layers, 3);
  EXPECT_TRUE(same_bits(feed(base, next), feed(plain, next)));
}

TEST(PagedCache, counts_bytes_by_page) {
  const std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 16)};
  Rng rng(20);
  for (const DType kv : kKvForms) {
    const auto pool = pool_of(layers, 640, 16, kv);
    PagedCache cache(pool, 100);
    EXPECT_EQ(cache.bytes(), 0);
    feed(cache, random_step(rng, layers, 17));
    EXPECT_EQ(cache.bytes(), 32 * cache.bytes_per_token());
    const std::int64_t row = kv == DType::kI4 || kv == DType::kI4H ? 8 + 4
                             : kv == DType::kI8H                   ? 16 + 2
                             : kv == DType::kI8                    ? 16 + 4
                                                : 16 * static_cast<std::int64_t>(size_of(kv));
    EXPECT_EQ(cache.bytes_per_token(), 2 * (row + row)) << to_string(kv);
  }
}

TEST(PagedPool, refuses_impossible_sizes) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  for (const std::int64_t budget : {std::int64_t{0}, std::int64_t{-1}, INT64_MAX})
    EXPECT_THAT(message_of<ArgumentError>([&] { pool_of(layers, budget); }),
                HasSubstr(std::to_string(budget)));
  for (const std::int64_t page : {std::int64_t{0}, std::int64_t{-1}, INT64_MAX})
    EXPECT_THAT(message_of<ArgumentError>([&] { pool_of(layers, 10, page); }),
                HasSubstr(std::to_string(page)));
  EXPECT_THROW(pool_of(layers, 10, 16, DType::kF64), ArgumentError);
  EXPECT_THROW(pool_of({layer_of(3, 2, 16, 16)}, 10), ArgumentError);
  EXPECT_THROW(pool_of({layer_of(1 << 20, 1 << 20, 1 << 20, 1)}, 1'000'000), ArgumentError);
  EXPECT_THROW(PagedCache(pool_of(layers, 10), 0), ArgumentError);
}

TEST(PagedCache, refuses_wrong_arguments) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(21);
  PagedCache cache(pool_of(layers, 64), 64);
  const Step step = random_step(rng, layers, 5);
  for (const std::int64_t layer : {std::int64_t{-1}, std::int64_t{3}, INT64_MAX}) {
    EXPECT_THROW(cache.append(layer, step.k[0], step.v[0]), ArgumentError);
    EXPECT_THROW((void)cache.attend(layer, step.q[0]), ArgumentError);
  }
  EXPECT_THROW(cache.append(0, step.k[1], step.v[0]), ArgumentError);
  cache.append(0, step.k[0], step.v[0]);
  EXPECT_THROW(cache.advance(-1), ArgumentError);
  EXPECT_THROW(cache.advance(60), ArgumentError);  // more than was appended
  cache.advance(5);
  EXPECT_THROW(cache.truncate(6), ArgumentError);
  EXPECT_THROW(cache.truncate(-1), ArgumentError);
  EXPECT_THROW((void)cache.adopt(ids_of(3)), ArgumentError);
  EXPECT_THROW(cache.restore(ids_of(3), {}), ArgumentError);
  EXPECT_EQ(cache.length(), 5);
}

}  // namespace
}  // namespace quire::cache

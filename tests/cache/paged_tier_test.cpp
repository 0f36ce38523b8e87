// Paged caches under a memory limit: not a bit depends on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/page_store.h"
#include "quire/cache/saved.h"
#include "quire/ops/attention/attention_backward.h"
#include "tests/cache/tiered.h"
#include "tests/support/fault_file_ops.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_in;
using test::Folder;
using test::hold;
using test::Ids;
using test::ids_of;
using test::layer_of;
using test::limited;
using test::limited_pool;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::spec_of;
using test::Step;
using testing::AllOf;
using testing::HasSubstr;

std::vector<LayerSpec> some_layers() {
  return {layer_of(2, 2, 32, 32), layer_of(2, 2, 20, 12), layer_of(2, 2, 32, 32),
          layer_of(4, 2, 16, 48), layer_of(2, 2, 32, 32)};
}

std::vector<float> expected_of(const std::vector<LayerSpec>& layers, DType kv, const Step& all,
                               std::int64_t chunk) {
  ContiguousCache plain(layers, all.N(), kv);
  return feed_in(plain, all, chunk);
}

TEST(PagedTier, I7_a_limited_cache_gives_the_bits_of_the_contiguous_one) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  for (const DType kv : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    Rng rng(1);
    const Step all = random_step(rng, layers, 300);
    for (const std::int64_t chunk : {300, 64, 7, 1}) {
      const std::vector<float> expected = expected_of(layers, kv, all, chunk);
      for (const std::int64_t page : {1, 5, 16, 64}) {
        if (chunk < 64 && page != 64) continue;
        if (chunk < 300 && (kv == DType::kF32 || kv == DType::kBF16)) continue;
        for (const int threads : {1, 2}) {
          if (threads == 1 && page != 64) continue;
          set_threads(threads);
          for (const std::int64_t more : {0, 7}) {
            const auto pool = limited_pool(layers, 300, folder.path(), page, kv, more);
            if (!pool->tier_counts()) continue;  // few pages: all of them fit
            PagedCache cache(pool, 300);
            EXPECT_TRUE(same_bits(feed_in(cache, all, chunk), expected))
                << to_string(kv) << ", chunks of " << chunk << ", pages of " << page << ", " << more
                << " frames more";
            if (chunk < 300) {
              EXPECT_GT(pool->tier_counts()->bytes_read, 0);
            }
            EXPECT_LE(pool->ram_bytes(), pool->spec().memory.ram_bytes);
          }
        }
      }
    }
  }
}

TEST(PagedTier, D18_the_same_without_io_uring) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  Rng rng(2);
  const Step all = random_step(rng, layers, 200);
  const std::vector<float> expected = expected_of(layers, DType::kF16, all, 20);
  std::vector<std::string> methods;
  for (const char* io : {"pread", ""}) {
    ::setenv("QUIRE_IO", io, 1);
    const auto pool = limited_pool(layers, 200, folder.path(), 16, DType::kF16);
    PagedCache cache(pool, 200);
    EXPECT_TRUE(same_bits(feed_in(cache, all, 20), expected)) << io;
    methods.push_back(pool->tier_counts()->method);
  }
  ::unsetenv("QUIRE_IO");
  EXPECT_EQ(methods[0], "pread");  // the other may be either: the system decides
}

TEST(PagedTier, INF_04_K3_forks_under_a_limit_stay_apart) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  for (const DType kv : {DType::kF16, DType::kI8}) {
    Rng rng(3);
    const Step first = random_step(rng, layers, 105), a = random_step(rng, layers, 40),
               b = random_step(rng, layers, 40);
    ContiguousCache plain_a(layers, 200, kv), plain_b(layers, 200, kv);
    feed(plain_a, first);
    feed(plain_b, first);
    const auto pool = limited_pool(layers, 400, folder.path(), 16, kv);
    PagedCache left(pool, 200);
    feed(left, first);
    const auto right = left.fork();
    for (std::int64_t at = 0; at < 40; at += 8) {
      EXPECT_TRUE(same_bits(feed(left, part(a, at, at + 8)), feed(plain_a, part(a, at, at + 8))));
      EXPECT_TRUE(same_bits(feed(*right, part(b, at, at + 8)), feed(plain_b, part(b, at, at + 8))));
    }
  }
}

TEST(PagedTier, PAG_21_sixteen_answers_from_one_document_under_a_limit) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  Rng rng(4);
  const Step document = random_step(rng, layers, 600);
  const auto pool = limited_pool(layers, 600 + 16 * 64, folder.path(), 64, DType::kF16);
  PagedCache read(pool, 1000);
  hold(read, document, ids_of(600));
  std::vector<std::unique_ptr<PagedCache>> forks;
  std::vector<PagedCache*> sequences;
  std::vector<std::unique_ptr<ContiguousCache>> alone;
  for (int b = 0; b < 16; ++b) {
    forks.push_back(read.fork_paged());
    sequences.push_back(forks.back().get());
    alone.push_back(std::make_unique<ContiguousCache>(layers, 1000, DType::kF16));
    hold(*alone.back(), document);
  }
  for (int step = 0; step < 3; ++step) {
    std::vector<Step> parts;
    std::vector<float> expected;
    for (int b = 0; b < 16; ++b) parts.push_back(random_step(rng, layers, 1 + b % 3));
    std::vector<std::int64_t> counts;
    for (const Step& p : parts) counts.push_back(p.N());
    PagedBatch batch(sequences, counts);
    const Step joined = test::joined(parts);
    const auto got = test::feed_layers(batch, joined, Ids(static_cast<std::size_t>(joined.N()), 7));
    EXPECT_EQ(batch.shared(), 512);
    std::vector<std::vector<Tensor>> single;
    for (std::size_t b = 0; b < 16; ++b) single.push_back(test::feed_layers(*alone[b], parts[b]));
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      std::vector<Tensor> rows;
      for (const auto& s : single) rows.push_back(s[layer]);
      const Tensor want = test::joined(rows);
      EXPECT_EQ(std::memcmp(got[layer].data<float>(), want.data<float>(),
                            static_cast<std::size_t>(want.bytes())),
                0)
          << "layer " << layer;
    }
  }
  EXPECT_GT(pool->tier_counts()->bytes_read, 0);
}

TEST(PagedTier, INF_03_a_prefix_that_lies_on_disk_is_found_and_read_back) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  Rng rng(5);
  const Step all = random_step(rng, layers, 100), other = random_step(rng, layers, 150),
             more = random_step(rng, layers, 9);
  const auto pool = limited_pool(layers, 320, folder.path());
  {
    PagedCache first(pool, 160);
    feed_in(first, all, 20, ids_of(100));
  }
  {
    PagedCache between(pool, 160);  // pushes the first one's pages out
    feed_in(between, other, 30, ids_of(150, 1000));
  }
  PagedCache again(pool, 160);
  EXPECT_EQ(again.adopt(ids_of(100)), 96);
  ContiguousCache plain(layers, 160, DType::kF32);
  feed(plain, part(all, 0, 96));
  EXPECT_TRUE(same_bits(feed(again, more), feed(plain, more)));
}

TEST(PagedTier, I2_D16_saved_and_restored_under_a_limit) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  for (const DType kv : {DType::kF16, DType::kI8}) {
    Rng rng(6);
    const Step all = random_step(rng, layers, 150), more = random_step(rng, layers, 20);
    const auto pool = limited_pool(layers, 200, folder.path(), 16, kv);
    const auto free = std::make_shared<PagedPool>(spec_of(layers, 200, 16, kv));
    PagedCache cache(pool, 200), unlimited(free, 200);
    feed_in(cache, all, 50, ids_of(150));
    feed_in(unlimited, all, 50, ids_of(150));
    const std::string saved = folder.path() + "/limited", other = folder.path() + "/unlimited";
    save_cache(cache, saved, "Model", 1);
    save_cache(unlimited, other, "Model", 1);
    EXPECT_EQ(read_text(saved, 1 << 30), read_text(other, 1 << 30)) << "not the same file";
    const auto expected = feed(unlimited, more);
    cache.truncate(0);
    const auto restored = SavedCache(saved).load(pool, 200);
    EXPECT_EQ(restored->length(), 150);
    EXPECT_TRUE(same_bits(feed(*restored, more), expected)) << to_string(kv);
  }
}

/// The gradients of a layer's attention with respect to queries, and to keys and values in the
/// order of the sequence.
std::vector<float> gradients_of(const PagedCache& cache, std::int64_t layer, const Tensor& q_NHK,
                                const Tensor& dout_NHU) {
  auto reading = cache.pool()->store().read(layer, cache.table());
  const std::int64_t length = cache.length();
  KvView& view = reading.view;
  view.length_BG = &length;
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  Tensor start_J = Tensor::zeros({2}, DType::kI32);
  start_J.mutable_data<std::int32_t>()[1] = static_cast<std::int32_t>(q_NHK.size(0));
  const AttentionResult result = attention(q_NHK, start_J, view, spec);
  std::vector<float> dk(static_cast<std::size_t>(view.P * view.k_strides.page)), dv(dk);
  AttentionGradients gradients;
  gradients.dk_pages = dk.data();
  gradients.dv_pages = dv.data();
  attention_backward(gradients, dout_NHU, {}, q_NHK, start_J, view, spec, result);
  const float* dq = gradients.dq_NHK.data<float>();
  std::vector<float> out(dq, dq + gradients.dq_NHK.elements());
  for (std::int64_t w = 0; w < view.W; ++w) {
    const auto from = [&](std::vector<float>& side) {
      return side.begin() + view.table[w] * view.k_strides.page;
    };
    out.insert(out.end(), from(dk), from(dk) + view.G * view.Z * view.K);
    out.insert(out.end(), from(dv), from(dv) + view.G * view.Z * view.U);
  }
  return out;
}

TEST(PagedTier, K12_gradients_through_pages_that_were_on_disk_are_those_without) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  Rng rng(9);
  const Step all = random_step(rng, layers, 112);
  PagedCache limited(limited_pool(layers, 112, folder.path()), 112);
  PagedCache unlimited(std::make_shared<PagedPool>(spec_of(layers, 112)), 112);
  feed_in(limited, all, 16);
  feed_in(unlimited, all, 16);
  const auto before = limited.pool()->tier_counts()->bytes_read;
  for (std::int64_t layer = 0; layer < 5; ++layer) {
    const auto i = static_cast<std::size_t>(layer);
    const Tensor q_NHK = all.q[i].slice(0, 90, 112);
    const Tensor dout_NHU = test::random(rng, {22, layers[i].H, layers[i].U});
    EXPECT_TRUE(same_bits(gradients_of(limited, layer, q_NHK, dout_NHU),
                          gradients_of(unlimited, layer, q_NHK, dout_NHU)))
        << "layer " << layer;
  }
  // Of the whole walk, since a layer's pages may have been read ahead with the one before it.
  EXPECT_GT(limited.pool()->tier_counts()->bytes_read, before);
}

TEST(PagedTier, truncated_and_continued_under_a_limit) {
  const std::vector<LayerSpec> layers = some_layers();
  const Folder folder;
  Rng rng(7);
  const Step first = random_step(rng, layers, 130), wrong = random_step(rng, layers, 60),
             right = random_step(rng, layers, 60);
  PagedCache cache(limited_pool(layers, 200, folder.path()), 200);
  ContiguousCache plain(layers, 200, DType::kF32);
  feed_in(cache, first, 13);
  feed_in(cache, wrong, 20);
  cache.truncate(121);
  feed(plain, part(first, 0, 121));
  EXPECT_TRUE(same_bits(feed_in(cache, right, 20), feed_in(plain, right, 20)));
}

TEST(PagedTier, a_limit_that_holds_everything_needs_no_file) {
  const Folder folder;
  PagedSpec spec = spec_of(some_layers(), 100);
  spec.memory = {std::int64_t{1} << 40, folder.path() + "/never", 0};
  const PagedPool pool(spec);
  EXPECT_FALSE(pool.tier_counts());
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/never"));
}

TEST(PagedTier, D12_a_limit_below_two_layers_is_refused_with_the_floor) {
  const Folder folder;
  PagedSpec spec = limited(spec_of(some_layers(), 160), folder.path());
  const std::int64_t floor = least_ram_bytes(spec);
  EXPECT_EQ(floor, 2 * 10 * 16 * 2 * (32 + 32) * 4);  // two layers, ten pages of the largest
  spec.memory.ram_bytes = floor - 1;
  EXPECT_THAT(
      message_of<ArgumentError>([&] { PagedPool pool(spec); }),
      AllOf(HasSubstr("--cache-ram"), HasSubstr(std::to_string(floor)), HasSubstr("160 tokens")));
  spec.memory.ram_bytes = floor;
  spec.memory.disk_bytes = 1000;
  EXPECT_THAT(message_of<ArgumentError>([&] { PagedPool pool(spec); }),
              AllOf(HasSubstr("--cache-disk"), HasSubstr("1000")));
  spec.memory.disk_bytes = -1;
  EXPECT_THROW(PagedPool pool(spec), ArgumentError);
}

TEST(PagedTier, I20_the_file_stays_within_its_bound) {
  const Folder folder;
  const std::vector<LayerSpec> layers = some_layers();
  PagedSpec spec = limited(spec_of(layers, 160), folder.path());
  const std::int64_t records = 10 * static_cast<std::int64_t>(layers.size());
  const std::int64_t record = least_ram_bytes(spec) / 20 + 96;
  spec.memory.disk_bytes = records * record - 1;
  EXPECT_THROW(PagedPool pool(spec), ArgumentError);
  spec.memory.disk_bytes = records * record;
  const auto pool = std::make_shared<PagedPool>(spec);
  Rng rng(8);
  for (std::int32_t round = 0; round < 4; ++round) {
    PagedCache cache(pool, 160);
    feed_in(cache, random_step(rng, layers, 160), 40, ids_of(160, round * 1000));
    EXPECT_LE(pool->disk_bytes(), spec.memory.disk_bytes);
    EXPECT_GT(pool->disk_bytes(), 0);
  }
}

TEST(PagedTier, a_view_that_would_outlive_its_pages_is_refused) {
  const Folder folder;
  PagedCache cache(limited_pool(some_layers(), 100, folder.path()), 100);
  EXPECT_THAT(message_of<ArgumentError>([&] { static_cast<void>(cache.view(0)); }),
              HasSubstr("memory limit"));
}

TEST(PagedTier, D11_K13_sequences_on_many_threads_under_a_limit) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16), layer_of(2, 1, 16, 16),
                                         layer_of(2, 1, 16, 16)};
  const Folder folder;
  const auto pool = limited_pool(layers, 16 * 96, folder.path());
  set_threads(2);
  std::vector<std::thread> threads;
  std::vector<int> wrong(16, 0);
  for (std::size_t t = 0; t < 16; ++t) {
    threads.emplace_back([&, t] {
      Rng rng(100 + t % 3);  // some read the same text
      for (int round = 0; round < 3; ++round) {
        const Step all = random_step(rng, layers, 40), more = random_step(rng, layers, 8);
        const Ids ids = ids_of(40, static_cast<std::int32_t>(t % 3 * 1000) + round * 100);
        PagedCache cache(pool, 48);
        const auto known = cache.adopt(ids);
        if (known < 40) feed(cache, part(all, known, 40), Ids(ids.begin() + known, ids.end()));
        const auto fork = cache.fork();
        ContiguousCache plain(layers, 48, DType::kF32);
        feed(plain, all);
        const auto expected = feed(plain, more);
        wrong[t] += same_bits(feed(cache, more), expected) ? 0 : 1;
        wrong[t] += same_bits(feed(*fork, more), expected) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(16, 0));
  EXPECT_EQ(pool->counts().held, 0);
}

}  // namespace
}  // namespace quire::cache

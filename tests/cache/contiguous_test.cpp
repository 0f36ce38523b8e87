#include "quire/cache/contiguous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/base/thread_pool.h"
#include "quire/tensor/rng.h"
#include "tests/cache/steps.h"
#include "tests/reference/attention.h"

namespace quire::cache {
namespace {

using test::feed;
using test::feed_in;
using test::hold;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;
using testing::AllOf;
using testing::HasSubstr;

constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16,
                             DType::kI8,  DType::kI4,  DType::kI4H};

/// What a number becomes when it is stored; for i8, with the largest magnitude of its row.
float stored(float x, DType dtype, float largest) {
  if (dtype == DType::kF16) return to_float(to_half(x));
  if (dtype == DType::kBF16) return to_float(to_bfloat16(x));
  if (dtype != DType::kI8) return x;
  const float q = std::nearbyint(x * (127.0f / largest));
  return q * (largest / 127.0f);
}

Tensor as_stored(const Tensor& x, DType dtype) {
  Tensor out = Tensor::empty(x.shape(), DType::kF32);
  const std::int64_t width = x.size(-1);
  const Tensor rows = x.contiguous_copy();
  for (std::int64_t begin = 0; begin < x.elements(); begin += width) {
    float largest = 0;
    for (std::int64_t i = begin; i < begin + width; ++i)
      largest = std::max(largest, std::abs(rows.data<float>()[i]));
    for (std::int64_t i = begin; i < begin + width; ++i)
      out.mutable_data<float>()[i] = stored(rows.data<float>()[i], dtype, largest);
  }
  return out;
}

/// A view of plain rows [S, G, K] and [S, G, U].
KvView plain_view(const Tensor& k, const Tensor& v, const std::int64_t* length) {
  KvView view;
  view.k_pages = k.data<float>();
  view.v_pages = v.data<float>();
  view.P = 1;
  view.Z = k.size(0);
  view.G = k.size(1);
  view.K = k.size(2);
  view.U = v.size(2);
  view.k_strides = {0, view.G * view.K, view.K};
  view.v_strides = {0, view.G * view.U, view.U};
  view.length_BG = length;
  return view;
}

std::vector<LayerSpec> some_layers() {
  return {layer_of(4, 2, 16, 16), layer_of(6, 2, 20, 12), layer_of(3, 3, 64, 32)};
}

TEST(ContiguousCache, attends_as_attention_does_over_plain_tensors) {
  const std::vector<LayerSpec> layers = some_layers();
  // (For i4: tests/ops/attention/kv_format_test.cpp.)
  for (const DType kv : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    Rng rng(1);
    const Step all = random_step(rng, layers, 150);
    ContiguousCache cache(layers, 150, kv);
    const std::int64_t cuts[] = {0, 1, 2, 18, 83, 84, 149, 150};
    for (std::size_t c = 0; c + 1 < std::size(cuts); ++c) {
      const Step step = part(all, cuts[c], cuts[c + 1]);
      const std::int64_t N = cuts[c + 1] - cuts[c];
      for (std::size_t i = 0; i < layers.size(); ++i) {
        cache.append(static_cast<std::int64_t>(i), step.k[i], step.v[i]);
        const Tensor out = cache.attend(static_cast<std::int64_t>(i), step.q[i]);
        const Tensor k = as_stored(all.k[i].slice(0, 0, cuts[c + 1]), kv),
                     v = as_stored(all.v[i].slice(0, 0, cuts[c + 1]), kv);
        const KvView view = plain_view(k, v, &cuts[c + 1]);
        ASSERT_EQ(out.shape(), (Shape{N, layers[i].H, layers[i].U}));
        const float* q = step.q[i].data<float>();
        const auto truth =
            ref::attention<double>({q, q + step.q[i].elements()}, {0, static_cast<std::int32_t>(N)},
                                   layers[i].H, view, layers[i].attention);
        for (std::int64_t n = 0; n < out.elements(); ++n)
          ASSERT_NEAR(double{out.data<float>()[n]}, truth.out_NHU[static_cast<std::size_t>(n)],
                      2e-6)
              << to_string(kv) << ", layer " << i << ", length " << cuts[c + 1];
      }
      cache.advance(N);
      EXPECT_EQ(cache.length(), cuts[c + 1]);
    }
  }
}

TEST(ContiguousCache, stores_f32_without_a_change_so_that_attention_gives_the_same_bits) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(2);
  const Step all = random_step(rng, layers, 100);
  ContiguousCache cache(layers, 100, DType::kF32);
  const std::vector<float> out = feed(cache, all);
  std::vector<float> expected;
  const std::int64_t length = 100;
  const std::int32_t start[] = {0, 100};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Tensor o = attention(all.q[i], Tensor::of(std::span<const std::int32_t>(start), {2}),
                               plain_view(all.k[i], all.v[i], &length), layers[i].attention)
                         .out_NHU;
    expected.insert(expected.end(), o.data<float>(), o.data<float>() + o.elements());
  }
  EXPECT_TRUE(same_bits(out, expected));
}

TEST(ContiguousCache, INF_06_steps_of_any_size_and_threads_give_the_same_bits) {
  std::vector<LayerSpec> layers = {layer_of(4, 2, 16, 32)};
  layers[0].attention.query_rounding = QueryRounding::kLikePages;
  for (const DType kv : kStored) {
    Rng rng(3);
    const Step all = random_step(rng, layers, 300);
    std::vector<float> expected;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      for (const std::int64_t step : {300, 64, 7, 1}) {
        ContiguousCache cache(layers, 300, kv);
        const std::vector<float> out = feed_in(cache, all, step);
        if (expected.empty()) expected = out;
        EXPECT_TRUE(same_bits(out, expected)) << to_string(kv) << ", steps of " << step;
      }
    }
  }
}

TEST(ContiguousCache, uses_the_attention_of_the_layer) {
  LayerSpec windowed = layer_of(2, 1, 16, 16);
  windowed.attention.window_left = 3;
  windowed.attention.scale = 0.5;
  windowed.attention.softcap = 2;
  Rng rng(4);
  const Step all = random_step(rng, {windowed}, 40);
  ContiguousCache cache({windowed}, 40, DType::kF32);
  const std::vector<float> out = feed(cache, all);
  const std::int64_t length = 40;
  const float* q = all.q[0].data<float>();
  const auto truth =
      ref::attention<double>({q, q + all.q[0].elements()}, {0, 40}, 2,
                             plain_view(all.k[0], all.v[0], &length), windowed.attention);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(double{out[i]}, truth.out_NHU[i], 2e-6);
}

TEST(ContiguousCache, an_unset_alignment_is_bottom_right) {
  LayerSpec unset = layer_of(2, 1, 16, 16);
  Rng rng(5);
  const Step all = random_step(rng, {unset}, 20);
  ContiguousCache expected({unset}, 20, DType::kF32);
  unset.attention.alignment = Alignment::kUnset;
  ContiguousCache cache({unset}, 20, DType::kF32);
  for (const std::int64_t at : {0, 10})
    EXPECT_TRUE(
        same_bits(feed(cache, part(all, at, at + 10)), feed(expected, part(all, at, at + 10))));
}

TEST(ContiguousCache, truncate_and_go_on_is_as_if_never_read) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kStored) {
    Rng rng(6);
    const Step kept = random_step(rng, layers, 70), other = random_step(rng, layers, 50),
               next = random_step(rng, layers, 20);
    ContiguousCache cache(layers, 120, kv), fresh(layers, 120, kv);
    for (const std::int64_t length : {70, 64, 17, 16, 15, 1, 0}) {
      cache.truncate(0);
      fresh.truncate(0);
      hold(cache, kept);
      hold(cache, other);
      cache.truncate(length);
      EXPECT_EQ(cache.length(), length);
      if (length > 0) hold(fresh, part(kept, 0, length));
      EXPECT_TRUE(same_bits(feed(cache, next), feed(fresh, next)))
          << to_string(kv) << " at " << length;
      EXPECT_EQ(cache.length(), length + 20);
    }
  }
}

TEST(ContiguousCache, an_unfinished_step_is_replaced) {
  const std::vector<LayerSpec> layers = some_layers();
  for (const DType kv : kStored) {
    Rng rng(7);
    const Step first = random_step(rng, layers, 30), next = random_step(rng, layers, 9);
    ContiguousCache cache(layers, 100, kv), fresh(layers, 100, kv);
    EXPECT_TRUE(same_bits(feed(cache, first), feed(fresh, first)));
    // A longer step that ends in its second layer, all of it NaN.
    Tensor k = Tensor::empty({40, 2, 16}, DType::kF32), v = Tensor::empty({40, 2, 16}, DType::kF32);
    for (Tensor* x : {&k, &v})
      std::fill_n(x->mutable_data<float>(), x->elements(), std::numeric_limits<float>::quiet_NaN());
    cache.append(0, k, v);
    EXPECT_EQ(cache.length(), 30);
    EXPECT_TRUE(same_bits(feed(cache, next), feed(fresh, next))) << to_string(kv);
    EXPECT_EQ(cache.length(), 39);
  }
}

TEST(ContiguousCache, a_step_may_be_empty) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(8);
  ContiguousCache cache(layers, 10, DType::kF16);
  EXPECT_TRUE(feed(cache, random_step(rng, layers, 0)).empty());
  feed(cache, random_step(rng, layers, 10));
  EXPECT_TRUE(feed(cache, random_step(rng, layers, 0)).empty());
  EXPECT_EQ(cache.length(), 10);
}

TEST(ContiguousCache, counts_bytes) {
  const std::vector<LayerSpec> layers = some_layers();
  const std::int64_t numbers = 2 * 32 + 2 * 32 + 3 * 96, heads = 2 + 2 + 3;
  for (const DType kv : kStored) {
    ContiguousCache cache(layers, 1'000, kv);
    const bool is_i4 = kv == DType::kI4 || kv == DType::kI4H;
    const std::int64_t each = is_i4 ? 2 * (12 + 12) + 2 * (14 + 10) + 3 * (40 + 20)
                                    : numbers * static_cast<std::int64_t>(size_of(kv)) +
                                          (kv == DType::kI8 ? heads * 2 * 4 : 0);
    EXPECT_EQ(cache.bytes_per_token(), each);
    EXPECT_EQ(cache.bytes(), 0);
    Rng rng(9);
    feed(cache, random_step(rng, layers, 21));
    EXPECT_EQ(cache.bytes(), 21 * each);
    cache.truncate(4);
    EXPECT_EQ(cache.bytes(), 4 * each);
    EXPECT_EQ(cache.capacity(), 1'000);
  }
}

TEST(ContiguousCache, reports_that_it_reads_all_that_it_holds) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(9);
  ContiguousCache cache(layers, 100, DType::kF16);
  feed(cache, random_step(rng, layers, 70));
  cache.end_reading();
  const CacheReport report = cache.report();
  EXPECT_EQ(report.tokens, 70);
  EXPECT_EQ(report.bytes_read, 70 * cache.bytes_per_token());
  EXPECT_EQ(report.bytes_stored, 70 * cache.bytes_per_token());
  EXPECT_EQ(report.mass, 1);
}

TEST(ContiguousCache, INF_01_K1_refuses_more_than_its_capacity_and_stays_as_it_was) {
  const std::vector<LayerSpec> layers = {layer_of(2, 1, 16, 16)};
  for (const DType kv : kStored) {
    Rng rng(10);
    ContiguousCache cache(layers, 37, kv), fresh(layers, 37, kv);
    const Step first = random_step(rng, layers, 30), last = random_step(rng, layers, 7);
    feed(cache, first);
    feed(fresh, first);
    const Step large = random_step(rng, layers, 8);
    EXPECT_THAT(message_of([&] { cache.append(0, large.k[0], large.v[0]); }),
                AllOf(HasSubstr("30"), HasSubstr("37"), HasSubstr("8")));
    EXPECT_EQ(cache.length(), 30);
    EXPECT_TRUE(same_bits(feed(cache, last), feed(fresh, last)));
    EXPECT_EQ(cache.length(), 37);
    const Step one = random_step(rng, layers, 1);
    EXPECT_THAT(message_of([&] { cache.append(0, one.k[0], one.v[0]); }), HasSubstr("37"));
  }
}

TEST(ContiguousCache, refuses_wrong_arguments) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(11);
  ContiguousCache cache(layers, 64, DType::kF32);
  const Step step = random_step(rng, layers, 5);
  for (const std::int64_t layer : {std::int64_t{-1}, std::int64_t{3}, INT64_MAX}) {
    EXPECT_THAT(message_of([&] { cache.append(layer, step.k[0], step.v[0]); }),
                AllOf(HasSubstr(std::to_string(layer)), HasSubstr("3")));
    EXPECT_THAT(message_of([&] { (void)cache.attend(layer, step.q[0]); }), HasSubstr("layer"));
    EXPECT_THROW((void)cache.view(layer), ArgumentError);
  }
  EXPECT_THROW(cache.append(0, step.k[1], step.v[0]), ArgumentError);
  EXPECT_THROW(cache.append(0, step.k[0], step.v[0].slice(0, 0, 4)), ArgumentError);
  EXPECT_THROW(cache.append(0, step.k[0].to(DType::kF64), step.v[0].to(DType::kF64)),
               ArgumentError);
  EXPECT_THROW(cache.append(0, step.k[0].slice(1, 0, 1), step.v[0].slice(1, 0, 1)), ArgumentError);
  cache.append(0, step.k[0], step.v[0]);
  EXPECT_THROW((void)cache.attend(0, step.q[2]), ArgumentError);
  EXPECT_EQ(cache.length(), 0);
  EXPECT_THROW(cache.truncate(1), ArgumentError);
  EXPECT_THAT(message_of([&] { cache.advance(5); }), AllOf(HasSubstr("layer 1"), HasSubstr("0")));
  for (std::size_t i = 1; i < layers.size(); ++i)
    cache.append(static_cast<std::int64_t>(i), step.k[i], step.v[i]);
  EXPECT_THAT(message_of([&] { cache.advance(4); }), AllOf(HasSubstr("layer 0"), HasSubstr("5")));
  cache.advance(5);
  EXPECT_THROW(cache.truncate(-1), ArgumentError);
  EXPECT_THAT(message_of([&] { cache.truncate(6); }), AllOf(HasSubstr("6"), HasSubstr("5")));
  EXPECT_THROW(cache.advance(-1), ArgumentError);
  EXPECT_THAT(message_of([&] { cache.advance(60); }), AllOf(HasSubstr("60"), HasSubstr("64")));
  EXPECT_EQ(cache.length(), 5);
}

TEST(ContiguousCache, refuses_impossible_sizes) {
  const LayerSpec layer = layer_of(2, 1, 16, 16);
  for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN, INT64_MAX}) {
    EXPECT_THAT(message_of([&] { ContiguousCache({layer}, capacity, DType::kF32); }),
                HasSubstr(std::to_string(capacity)));
  }
  for (const DType kv : {DType::kF64, DType::kI16, DType::kI32, DType::kU8, DType::kBool})
    EXPECT_THAT(message_of([&] { ContiguousCache({layer}, 1, kv); }),
                HasSubstr(std::string(to_string(kv))));
  for (const LayerSpec& wrong :
       {layer_of(3, 2, 16, 16), layer_of(0, 1, 16, 16), layer_of(2, 0, 16, 16),
        layer_of(2, 1, 0, 16), layer_of(2, 1, 16, 0), layer_of(2, -1, 16, 16)}) {
    EXPECT_THROW(ContiguousCache({layer, wrong}, 10, DType::kF32), ArgumentError);
  }
  // Products that leave 64 bits, or that no address space has.
  const LayerSpec wide = layer_of(INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX);
  EXPECT_THROW(ContiguousCache({wide}, 1'000'000, DType::kF32), ArgumentError);
  const LayerSpec large = layer_of(1 << 10, 1 << 10, 1 << 10, 1 << 10);
  EXPECT_THROW(ContiguousCache({large}, std::int64_t{1} << 39, DType::kF32), Error);
  // Each layer alone fits, a thousand of them do not.
  const LayerSpec share = layer_of(32, 32, 128, 128);
  EXPECT_THROW(
      ContiguousCache(std::vector<LayerSpec>(1'000, share), std::int64_t{1} << 31, DType::kF32),
      OutOfMemory);
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(ContiguousCache, INF_01_append_never_moves_what_is_there) {
  const std::vector<LayerSpec> layers = some_layers();
  ContiguousCache cache(layers, 5'000, DType::kF16);
  std::vector<KvView> before;
  for (std::int64_t i = 0; i < 3; ++i) before.push_back(cache.view(i));
  Rng rng(12);
  for (int round = 0; round < 20; ++round) hold(cache, random_step(rng, layers, 250));
  for (std::int64_t i = 0; i < 3; ++i) {
    const KvView now = cache.view(i);
    EXPECT_EQ(now.k_pages, before[static_cast<std::size_t>(i)].k_pages);
    EXPECT_EQ(now.v_pages, before[static_cast<std::size_t>(i)].v_pages);
    EXPECT_EQ(*now.length_BG, 5'000);
  }
}

TEST(ContiguousCache, a_view_has_the_tokens_of_the_step_under_way) {
  const std::vector<LayerSpec> layers = some_layers();
  Rng rng(13);
  ContiguousCache cache(layers, 100, DType::kI8);
  feed(cache, random_step(rng, layers, 10));
  const Step step = random_step(rng, layers, 5);
  cache.append(1, step.k[1], step.v[1]);
  EXPECT_EQ(*cache.view(0).length_BG, 10);
  EXPECT_EQ(*cache.view(1).length_BG, 15);
  const KvView view = cache.view(1);
  EXPECT_EQ(view.dtype, DType::kI8);
  EXPECT_NE(view.k_scale_PZG, nullptr);
  EXPECT_EQ(view.k_layout, KLayout::kBlocks);
  EXPECT_EQ(view.P, 1);
  EXPECT_GE(view.Z, 100);
  EXPECT_EQ(view.G, 2);
  EXPECT_EQ(view.K, 20);
  EXPECT_EQ(view.U, 12);
  cache.truncate(4);
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(*cache.view(i).length_BG, 4);
}

/// Bytes of the pages that hold [begin, begin + bytes) and are in memory.
std::int64_t committed(const void* begin, std::int64_t bytes) {
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> in_memory(static_cast<std::size_t>(bytes / page));
  if (mincore(const_cast<void*>(begin), static_cast<std::size_t>(bytes / page * page),
              in_memory.data()) != 0)
    return -1;
  std::int64_t sum = 0;
  for (const unsigned char one : in_memory) sum += (one & 1) * page;
  return sum;
}

TEST(ContiguousCache, INF_01_memory_is_committed_as_it_fills) {
  // A million tokens of f32: 4 layers of 1 GiB.
  const LayerSpec layer = layer_of(4, 2, 64, 64);
  const std::vector<LayerSpec> layers(4, layer);
  const std::int64_t capacity = 1'000'000;
  const std::int64_t before = resident_bytes();
  ContiguousCache cache(layers, capacity, DType::kF32);
  const std::int64_t of_keys = capacity * 2 * 64 * 4;
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(committed(cache.view(i).k_pages, of_keys), 0);
    EXPECT_EQ(committed(cache.view(i).v_pages, of_keys), 0);
  }
  Rng rng(14);
  feed(cache, random_step(rng, layers, 100));
  // 100 tokens are 25,600 bytes a head and side. A kernel that gives huge pages may give one to
  // each of the 16 stretches.
  for (std::int64_t i = 0; i < 4; ++i) {
    const std::int64_t keys = committed(cache.view(i).k_pages, of_keys);
    EXPECT_GE(keys, 2 * 25'600);
    EXPECT_LE(keys, 2 * (2 << 20));
  }
  EXPECT_LE(resident_bytes() - before, 16 * (2 << 20) + (8 << 20));
}

}  // namespace
}  // namespace quire::cache

#include "quire/ops/search/listed_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "quire/base/half.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/kv_write.h"
#include "quire/tensor/rng.h"
#include "tests/support/message_of.h"

namespace quire {
namespace {

using test::message_of;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Keys beside their values in slots, as the tiered cache has them; what lies there, in f64.
struct Rows {
  Rows(DType dtype, std::int64_t g, std::int64_t slots, std::int64_t k, std::int64_t u,
       std::uint64_t seed)
      : G(g), S(slots), K(k), U(u), memory(static_cast<std::size_t>(g * slots * (k + u) * 4)) {
    pages.k_pages = memory.data();
    pages.v_pages = memory.data() + K * static_cast<std::int64_t>(size_of(dtype));
    pages.k_strides = pages.v_strides = {S * (K + U), K + U, S * (K + U)};
    pages.dtype = dtype;
    pages.P = 1;
    pages.Z = S;
    pages.G = G;
    pages.K = K;
    pages.U = U;
    if (dtype == DType::kI8) {
      k_scale.resize(static_cast<std::size_t>(S * G));
      v_scale = k_scale;
      pages.k_scale_PZG = k_scale.data();
      pages.v_scale_PZG = v_scale.data();
    }
    Rng rng(seed);
    Tensor k_NGK = Tensor::empty({S, G, K}, DType::kF32),
           v_NGU = Tensor::empty({S, G, U}, DType::kF32), slot_N = Tensor::empty({S}, DType::kI64);
    for (std::int64_t i = 0; i < k_NGK.elements(); ++i)
      k_NGK.mutable_data<float>()[i] = rng.normal();
    for (std::int64_t i = 0; i < v_NGU.elements(); ++i)
      v_NGU.mutable_data<float>()[i] = rng.normal();
    for (std::int64_t i = 0; i < S; ++i) slot_N.mutable_data<std::int64_t>()[i] = i;
    kv_write(pages, k_NGK, v_NGU, slot_N);
  }
  KvView view() const { return view_of(pages); }
  double number(const void* base, const std::vector<float>& scale, std::int64_t g, std::int64_t s,
                std::int64_t i) const {
    const std::int64_t at = g * pages.k_strides.head + s * pages.k_strides.slot + i;
    switch (pages.dtype) {
      case DType::kF16:
        return to_float(static_cast<const Half*>(base)[at]);
      case DType::kBF16:
        return to_float(static_cast<const BFloat16*>(base)[at]);
      case DType::kI8:
        return double{static_cast<float>(static_cast<const std::int8_t*>(base)[at])} *
               double{scale[static_cast<std::size_t>(s * G + g)]};
      default:
        return static_cast<const float*>(base)[at];
    }
  }
  double k(std::int64_t g, std::int64_t s, std::int64_t i) const {
    return number(pages.k_pages, k_scale, g, s, i);
  }
  double v(std::int64_t g, std::int64_t s, std::int64_t i) const {
    return number(pages.v_pages, v_scale, g, s, i);
  }

  std::int64_t G, S, K, U;
  std::vector<std::byte> memory;
  std::vector<float> k_scale, v_scale;
  KvPages pages;
};

/// Lists of any slots, some of them twice.
struct Lists {
  Lists(const Rows& rows, std::vector<std::int64_t> lengths, std::uint64_t seed)
      : W(*std::max_element(lengths.begin(), lengths.end()) + 3),
        length_G(std::move(lengths)),
        slot_GW(static_cast<std::size_t>(rows.G * W), -1) {
    Rng rng(seed);
    for (std::int64_t g = 0; g < rows.G; ++g)
      for (std::int64_t i = 0; i < length_G[static_cast<std::size_t>(g)]; ++i)
        slot_GW[static_cast<std::size_t>(g * W + i)] =
            static_cast<std::int32_t>(rng.uniform() * static_cast<double>(rows.S));
  }
  ListedKeys keys(const Rows& rows) const {
    ListedKeys out{rows.view(), slot_GW.data(), W, length_G.data()};
    if (!score_HW.empty()) out.score_HW = score_HW.data();
    return out;
  }
  std::int64_t W;
  std::vector<std::int64_t> length_G;
  std::vector<std::int32_t> slot_GW;
  std::vector<float> score_HW;
};

Tensor queries(std::int64_t H, std::int64_t K, std::uint64_t seed) {
  Rng rng(seed);
  Tensor out = Tensor::empty({1, H, K}, DType::kF32);
  for (std::int64_t i = 0; i < H * K; ++i) out.mutable_data<float>()[i] = rng.normal();
  return out;
}

void expect_reference(const AttentionResult& found, const Tensor& q_1HK, const Rows& rows,
                      const Lists& lists, double softcap = 0, const float* sink_H = nullptr) {
  const std::int64_t H = q_1HK.size(1);
  for (std::int64_t h = 0; h < H; ++h) {
    const std::int64_t g = h / (H / rows.G);
    double sum = 0;
    std::vector<double> out(static_cast<std::size_t>(rows.U));
    for (std::int64_t i = 0; i < lists.length_G[static_cast<std::size_t>(g)]; ++i) {
      const std::int64_t s = lists.slot_GW[static_cast<std::size_t>(g * lists.W + i)];
      double score = 0;
      for (std::int64_t d = 0; d < rows.K; ++d)
        score += double{q_1HK.data<float>()[h * rows.K + d]} * rows.k(g, s, d);
      score /= std::sqrt(static_cast<double>(rows.K));
      if (softcap > 0) score = softcap * std::tanh(score / softcap);
      if (!lists.score_HW.empty())
        score = double{lists.score_HW[static_cast<std::size_t>(h * lists.W + i)]};
      const double weight = std::exp(score);
      sum += weight;
      for (std::int64_t u = 0; u < rows.U; ++u)
        out[static_cast<std::size_t>(u)] += weight * rows.v(g, s, u);
    }
    if (sink_H != nullptr) sum += std::exp(double{sink_H[h]});
    const float* got = found.out_NHU.data<float>() + h * rows.U;
    if (sum == 0) {
      EXPECT_EQ(found.lse_NH.data<float>()[h], -kInfinity);
      for (std::int64_t u = 0; u < rows.U; ++u) EXPECT_EQ(got[u], 0);
      continue;
    }
    EXPECT_NEAR(found.lse_NH.data<float>()[h], std::log(sum), 3e-6);
    for (std::int64_t u = 0; u < rows.U; ++u)
      ASSERT_NEAR(got[u], out[static_cast<std::size_t>(u)] / sum, 3e-6) << h << " " << u;
  }
}

TEST(ListedAttention, is_attention_to_the_listed_keys_of_each_head) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    for (const auto& [H, G, K, U] : {std::array<std::int64_t, 4>{4, 2, 64, 64},
                                     {9, 3, 64, 64},
                                     {7, 1, 128, 128},
                                     {2, 2, 80, 48},
                                     {5, 1, 20, 24},
                                     {6, 2, 33, 7}}) {
      const Rows rows(dtype, G, 700, K, U, 1);
      for (const std::int64_t n : {1, 15, 16, 255, 257, 600}) {
        std::vector<std::int64_t> lengths(static_cast<std::size_t>(G), n);
        lengths.back() = n / 2;
        const Lists lists(rows, lengths, 2);
        const Tensor q = queries(H, K, 3);
        const ListedKeys keys[] = {lists.keys(rows)};
        expect_reference(listed_attention(q, keys)[0], q, rows, lists);
      }
    }
  }
}

TEST(ListedAttention, several_lists_at_once_some_with_known_scores_or_a_sink) {
  const Rows rows(DType::kF16, 2, 300, 32, 32, 4), other(DType::kF32, 2, 50, 32, 32, 5);
  const Lists a(rows, {280, 40}, 6), empty(rows, {0, 0}, 7);
  Lists known(other, {20, 45}, 8);
  Rng rng(9);
  known.score_HW.resize(static_cast<std::size_t>(4 * known.W));
  for (float& x : known.score_HW) x = rng.normal();
  const float sink[] = {0.5f, -kInfinity, 2, 1};
  const Tensor q = queries(4, 32, 10);
  ListedKeys keys[] = {a.keys(rows), empty.keys(rows), known.keys(other), a.keys(rows)};
  keys[3].sink_H = sink;
  const std::vector<AttentionResult> found = listed_attention(q, keys, 0, 3);
  ASSERT_EQ(found.size(), 4u);
  expect_reference(found[0], q, rows, a, 3);
  expect_reference(found[1], q, rows, empty, 3);
  expect_reference(found[2], q, other, known);
  expect_reference(found[3], q, rows, a, 3, sink);
  EXPECT_TRUE(listed_attention(q, {}).empty());
}

TEST(ListedAttention, bits_depend_neither_on_threads_nor_on_the_other_lists) {
  const Rows rows(DType::kF16, 2, 2000, 64, 64, 11);
  const Lists a(rows, {1500, 900}, 12), b(rows, {300, 700}, 13);
  const Tensor q = queries(8, 64, 14);
  const int threads = thread_pool().threads();
  const ListedKeys one[] = {a.keys(rows)}, two[] = {b.keys(rows), a.keys(rows)};
  const Tensor alone = listed_attention(q, one)[0].out_NHU;
  for (const int count : {1, 3}) {
    set_threads(count);
    const Tensor together = listed_attention(q, two)[1].out_NHU;
    EXPECT_EQ(std::memcmp(alone.data<float>(), together.data<float>(),
                          static_cast<std::size_t>(alone.bytes())),
              0);
  }
  set_threads(threads);
}

TEST(ListedAttention, errors_say_what_was_wrong) {
  const Rows rows(DType::kF32, 2, 40, 16, 16, 15);
  const Lists good(rows, {5, 6}, 16);
  const Tensor q = queries(4, 16, 17);
  const auto with = [&](auto&& change) {
    ListedKeys keys = good.keys(rows);
    change(keys);
    return message_of([&] { listed_attention(q, std::span(&keys, 1)); });
  };
  const std::int32_t wild[] = {0, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  const std::int64_t many[] = {100, 1};
  EXPECT_THAT(with([&](ListedKeys& k) { k.slot_GW = wild; }), testing::HasSubstr("slot 40 of 40"));
  EXPECT_THAT(with([&](ListedKeys& k) { k.length_G = many; }), testing::HasSubstr("lists 100"));
  EXPECT_THAT(with([](ListedKeys& k) { k.rows.k_layout = KLayout::kBlocks; }),
              testing::HasSubstr("blocks"));
  EXPECT_THAT(with([](ListedKeys& k) { k.rows.dtype = DType::kF64; }), testing::HasSubstr("f64"));
  EXPECT_THAT(with([](ListedKeys& k) { k.rows.K = 8; }), testing::HasSubstr("K = 8"));
  EXPECT_THAT(message_of([&] {
                listed_attention(queries(4, 16, 1).view({4, 16}), {});
              }),
              testing::HasSubstr("[4, 16]"));
}

}  // namespace
}  // namespace quire

// Tiny llama models against double precision (tests/goldens/README.md), and what must not change a
// bit: how a text is cut into calls, the number of threads, what the cache held before.
#include "quire/model/llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/io/safetensors.h"
#include "tests/model/llama_gguf.h"
#include "tests/model/model_runs.h"
#include "tests/support/memory_file_ops.h"
#include "tests/support/message_of.h"

namespace quire::model {
namespace {

using test::LlamaGguf;
using test::message_of;
using testing::HasSubstr;

std::vector<std::int32_t> some_ids(std::int64_t count, std::int64_t V, std::uint64_t seed = 5) {
  Rng rng(seed);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(V))));
  return ids;
}

std::unique_ptr<Model> load_bytes(const std::string& bytes, Mode mode) {
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  return Model::load(ModelFile::open("m.gguf"), {mode, {}});
}

class TinyLlama : public testing::TestWithParam<const char*> {
 protected:
  TinyLlama()
      : golden_(test::golden_path("tiny/") + GetParam() + ".golden.safetensors"),
        ids_(golden_.read("ids")) {}
  std::unique_ptr<Model> load(Mode mode) const {
    return Model::load(ModelFile::open(test::golden_path("tiny/") + GetParam() + ".gguf"),
                       {mode, {}});
  }
  std::span<const std::int32_t> ids() const {
    return {ids_.data<std::int32_t>(), static_cast<std::size_t>(ids_.elements())};
  }

  io::SafetensorsFile golden_;
  Tensor ids_;
};

TEST_P(TinyLlama, exact_mode_agrees_with_double_precision_at_every_position) {
  const auto model = load(Mode::kExact);
  const Tensor truth_NV = golden_.read("logits");
  ASSERT_EQ(truth_NV.shape(), (Shape{64, 320}));
  std::vector<float> hidden = test::run(*model, ids(), 64);
  const std::vector<float> logits = test::logits(*model, hidden);
  ASSERT_EQ(logits.size(), 64u * 320u);
  for (std::int64_t n = 0; n < 64; ++n)
    EXPECT_LE(test::nmse(logits.data() + n * 320, truth_NV.data<float>() + n * 320, 320), 1e-10)
        << "position " << n;
}

TEST_P(TinyLlama, fast_mode_differs_by_its_cache_alone) {
  // Weights in f32 are multiplied in f32 in both modes; the cache rounds to 11 bits.
  const auto model = load(Mode::kFast);
  const Tensor truth_NV = golden_.read("logits");
  std::vector<float> hidden = test::run(*model, ids(), 64);
  const std::vector<float> logits = test::logits(*model, hidden);
  const double error = test::nmse(logits.data(), truth_NV.data<float>(), 64 * 320);
  EXPECT_LE(error, 1e-5);
  EXPECT_GT(error, 1e-10) << "an f16 cache cannot be exact";
}

TEST_P(TinyLlama, greedy_continuation_is_the_golden_one) {
  const auto model = load(Mode::kExact);
  const Tensor golden = golden_.read("greedy"), gap = golden_.read("gap");
  const std::span<const double> gaps(gap.data<double>(), 24);
  const std::size_t clear = test::clear_steps(gaps);
  EXPECT_GE(clear, 6u);
  const std::vector<std::int32_t> out = test::greedy(*model, ids().first(8), clear);
  EXPECT_THAT(out, testing::ElementsAreArray(golden.data<std::int32_t>(), clear));
}

TEST_P(TinyLlama, chunks_and_threads_do_not_change_a_bit) {
  for (const Mode mode : {Mode::kExact, Mode::kFast}) {
    const auto model = load(mode);
    std::vector<float> expected, expected_logits;
    for (const int threads : {1, 2}) {
      const test::Threads set(threads);
      for (const std::size_t chunk : {256u, 7u, 1u}) {
        std::vector<float> hidden = test::run(*model, ids(), chunk);
        std::vector<float> logits = test::logits(*model, hidden);
        if (expected.empty()) expected = hidden, expected_logits = logits;
        EXPECT_TRUE(test::same_bits(hidden, expected)) << chunk << " tokens, " << threads;
        EXPECT_TRUE(test::same_bits(logits, expected_logits)) << chunk << " tokens, " << threads;
      }
    }
  }
}

TEST_P(TinyLlama, what_the_cache_held_before_does_not_matter) {
  const std::vector<std::int32_t> other = some_ids(40, 320);
  for (const Mode mode : {Mode::kExact, Mode::kFast}) {
    const auto model = load(mode);
    for (const DType kv : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
      const auto fresh = model->make_cache(64, kv), used = model->make_cache(64, kv);
      const std::vector<float> expected = test::run(*model, ids(), *fresh, 16);
      test::run(*model, ids().first(20), *used, 16);
      test::run(*model, other, *used, 16);
      used->truncate(20);
      const std::vector<float> rest = test::run(*model, ids().subspan(20), *used, 16);
      const auto at = expected.begin() + 20 * model->config().D;
      EXPECT_TRUE(test::same_bits(rest, {at, expected.end()})) << to_string(kv);
      used->truncate(0);
      EXPECT_TRUE(test::same_bits(test::run(*model, ids(), *used, 16), expected)) << to_string(kv);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, TinyLlama,
                         testing::Values("llama", "llama-linear", "llama-yarn", "llama3-rope",
                                         "llama-tied"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Llama, says_its_sizes) {
  const ModelConfig c = ModelFile::open(test::golden_path("tiny/llama.gguf"))->config();
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ((std::vector<std::int64_t>{c.L, c.D, c.H, c.G, c.K, c.U, c.F, c.V, c.context}),
            (std::vector<std::int64_t>{2, 32, 4, 2, 16, 16, 64, 320, 256}));
  EXPECT_DOUBLE_EQ(c.norm_epsilon, double{1e-5f});
  EXPECT_EQ(c.rope.pairing, RopePairing::kInterleaved);
  EXPECT_EQ(c.rope.rotary, 16);
  EXPECT_EQ(c.rope.theta, 5e5);
  EXPECT_EQ(c.rope.scaling, RopeScaling::kNone);
  EXPECT_FALSE(c.tied_output);
  EXPECT_TRUE(ModelFile::open(test::golden_path("tiny/llama-tied.gguf"))->config().tied_output);
  const RopeSpec yarn = ModelFile::open(test::golden_path("tiny/llama-yarn.gguf"))->config().rope;
  EXPECT_EQ(yarn.scaling, RopeScaling::kYarn);
  EXPECT_EQ(yarn.factor, 8);
  EXPECT_EQ(yarn.original_context, 32);
  const RopeSpec llama3 =
      ModelFile::open(test::golden_path("tiny/llama3-rope.gguf"))->config().rope;
  ASSERT_EQ(llama3.factors.size(), 8u);
  EXPECT_EQ(llama3.factors.front(), 1);
  EXPECT_EQ(llama3.factors.back(), 8);
}

TEST(Llama, keys_that_may_be_absent_have_the_values_of_the_format) {
  LlamaGguf gguf;
  const std::vector<std::int32_t> ids = some_ids(10, 40);
  const auto full = load_bytes(gguf.bytes(), Mode::kExact);
  gguf.without("llama.rope.dimension_count").without("llama.rope.freq_base");
  gguf.without("llama.attention.value_length").without("general.name");
  const auto less = load_bytes(gguf.bytes(), Mode::kExact);
  EXPECT_TRUE(test::same_bits(test::run(*full, ids, 10), test::run(*less, ids, 10)));

  LlamaGguf::Sizes sizes;
  sizes.H = sizes.G = 2;  // one key head for each query head, of size D / H
  LlamaGguf plain(test::kTypeF32, false, sizes);
  const std::string with_keys = plain.bytes();
  plain.without("llama.attention.head_count_kv").without("llama.attention.key_length");
  plain.without("llama.attention.value_length");
  EXPECT_TRUE(test::same_bits(test::run(*load_bytes(with_keys, Mode::kExact), ids, 10),
                              test::run(*load_bytes(plain.bytes(), Mode::kExact), ids, 10)));
}

TEST(Llama, a_head_may_turn_in_part_and_values_may_be_of_another_size) {
  LlamaGguf gguf;
  gguf.number("llama.rope.dimension_count", 8u);
  const std::vector<std::int32_t> ids = some_ids(10, 40);
  const auto part = load_bytes(gguf.bytes(), Mode::kExact);
  EXPECT_EQ(part->config().rope.rotary, 8);
  EXPECT_FALSE(test::same_bits(test::run(*part, ids, 10),
                               test::run(*load_bytes(LlamaGguf().bytes(), Mode::kExact), ids, 10)));

  Rng rng(3);
  gguf.number("llama.attention.value_length", 24u);
  for (const std::string blk : {"blk.0.", "blk.1."}) {
    gguf.tensor(blk + "attn_v.weight", 0, {32, 48},
                test::random_numbers(rng, 0, 32 * 48, 0.2f).file);
    gguf.tensor(blk + "attn_output.weight", 0, {96, 32},
                test::random_numbers(rng, 0, 32 * 96, 0.1f).file);
  }
  const auto wide = load_bytes(gguf.bytes(), Mode::kExact);
  EXPECT_EQ(wide->config().U, 24);
  EXPECT_TRUE(test::same_bits(test::run(*wide, ids, 10), test::run(*wide, ids, 3)));
}

TEST(Llama, exact_mode_multiplies_with_the_numbers_that_the_blocks_stand_for) {
  const std::vector<std::int32_t> ids = some_ids(50, 40);
  for (const std::uint32_t type :
       {test::kTypeF16, test::kTypeBF16, test::kTypeQ4_1, test::kTypeQ8_0}) {
    const auto blocks = load_bytes(LlamaGguf(type, false, {}).bytes(), Mode::kExact);
    const auto floats = load_bytes(LlamaGguf(type, true, {}).bytes(), Mode::kExact);
    std::vector<float> a = test::run(*blocks, ids, 50), b = test::run(*floats, ids, 50);
    const std::vector<float> x = test::logits(*blocks, a), truth = test::logits(*floats, b);
    ASSERT_EQ(x.size(), 50u * 40u);
    EXPECT_LE(test::nmse(x.data(), truth.data(), 50 * 40), 1e-11) << type;
  }
}

TEST(Llama, quantized_weights_keep_their_bits_over_chunks_and_threads) {
  const std::vector<std::int32_t> ids = some_ids(70, 40);
  for (const std::uint32_t type : {test::kTypeQ4_1, test::kTypeQ8_0}) {
    const std::string bytes = LlamaGguf(type, false, {}).bytes();
    std::vector<float> of_mode[2];
    for (const Mode mode : {Mode::kExact, Mode::kFast}) {
      const auto model = load_bytes(bytes, mode);
      std::vector<float>& expected = of_mode[mode == Mode::kFast];
      for (const int threads : {1, 2}) {
        const test::Threads set(threads);
        for (const std::size_t chunk : {70u, 7u, 1u}) {
          std::vector<float> hidden = test::run(*model, ids, chunk);
          const std::vector<float> logits = test::logits(*model, hidden);
          if (expected.empty()) expected = logits;
          EXPECT_TRUE(test::same_bits(logits, expected)) << chunk << " tokens, " << threads;
        }
      }
    }
    const double apart = test::nmse(of_mode[1].data(), of_mode[0].data(), 70 * 40);
    EXPECT_GT(apart, 1e-9) << "fast mode rounds its inputs to int8";
    EXPECT_LE(apart, 1e-2);
  }
}

TEST(Llama, keys_of_an_unfinished_step_reach_nothing) {
  const auto model = load_bytes(LlamaGguf().bytes(), Mode::kExact);
  const std::vector<std::int32_t> ids = some_ids(30, 40);
  const auto fresh = model->make_cache(128, DType::kF32),
             used = model->make_cache(128, DType::kF32);
  const std::vector<float> expected = test::run(*model, ids, *fresh, 10);
  std::vector<float> out = test::run(*model, std::span(ids).first(10), *used, 10);
  Tensor nan = Tensor::empty({100, 2, 16}, DType::kF32);
  std::fill_n(nan.mutable_data<float>(), nan.elements(), std::numeric_limits<float>::quiet_NaN());
  for (std::int64_t layer = 0; layer < 2; ++layer) used->append(layer, nan, nan);
  for (const float x : test::run(*model, std::span(ids).subspan(10), *used, 10)) out.push_back(x);
  EXPECT_TRUE(test::same_bits(out, expected));
}

TEST(Llama, forward_refuses_what_it_cannot_run_and_leaves_the_cache_as_it_was) {
  const auto model = load_bytes(LlamaGguf().bytes(), Mode::kExact);
  const std::vector<std::int32_t> ids = some_ids(300, 40);
  const auto cache = model->make_cache(16, DType::kF32);
  test::run(*model, std::span(ids).first(10), *cache, 10);
  for (const std::int32_t wrong : {-1, 40, INT32_MAX, INT32_MIN}) {
    const std::vector<std::int32_t> bad = {1, 2, wrong};
    EXPECT_THAT(message_of([&] { model->forward(bad, *cache); }), HasSubstr(std::to_string(wrong)));
  }
  const std::string full = message_of([&] { model->forward(std::span(ids).first(7), *cache); });
  EXPECT_THAT(full, testing::AllOf(HasSubstr("10"), HasSubstr("16"), HasSubstr("7")));
  EXPECT_THAT(message_of([&] { model->forward(std::span(ids).first(257), *cache); }),
              testing::AllOf(HasSubstr("257"), HasSubstr("256")));
  EXPECT_EQ(cache->length(), 10);
  const std::vector<float> rest = test::run(*model, std::span(ids).subspan(10, 6), *cache, 6);
  const std::vector<float> whole = test::run(*model, std::span(ids).first(16), 16);
  EXPECT_TRUE(test::same_bits(rest, {whole.begin() + 10 * 32, whole.end()}));
  EXPECT_EQ(cache->length(), 16);
}

TEST(Llama, forward_takes_up_to_max_chunk_tokens_and_none) {
  LlamaGguf gguf;
  gguf.number("llama.context_length", 600u);
  const auto model = load_bytes(gguf.bytes(), Mode::kFast);
  const std::vector<std::int32_t> ids = some_ids(600, 40);
  ASSERT_EQ(model->max_chunk(), 256);
  const auto cache = model->make_cache(600, DType::kF16);
  EXPECT_EQ(model->forward(std::span(ids).first(256), *cache).shape(), (Shape{256, 32}));
  EXPECT_EQ(model->forward({}, *cache).shape(), (Shape{0, 32}));
  EXPECT_EQ(cache->length(), 256);
  EXPECT_TRUE(test::same_bits(test::run(*model, ids, 256), test::run(*model, ids, 100)));
}

TEST(Llama, a_cache_of_another_model_is_refused) {
  const auto model = load_bytes(LlamaGguf().bytes(), Mode::kExact);
  const std::vector<std::int32_t> ids = some_ids(4, 40);
  AttentionSpec spec;
  spec.alignment = Alignment::kBottomRight;
  for (const cache::LayerSpec& layer :
       {cache::LayerSpec{4, 1, 16, 16, spec}, cache::LayerSpec{4, 2, 32, 16, spec},
        cache::LayerSpec{4, 2, 16, 32, spec}}) {
    cache::ContiguousCache other({layer, layer}, 16, DType::kF32);
    EXPECT_THROW(model->forward(ids, other), ArgumentError);
    EXPECT_EQ(other.length(), 0);
  }
  cache::ContiguousCache shallow({{4, 2, 16, 16, spec}}, 16, DType::kF32);
  EXPECT_THROW(model->forward(ids, shallow), ArgumentError);
}

}  // namespace
}  // namespace quire::model

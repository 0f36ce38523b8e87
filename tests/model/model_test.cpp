#include "quire/model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/model/available_memory.h"
#include "tests/model/llama_gguf.h"
#include "tests/model/model_runs.h"
#include "tests/support/memory_file_ops.h"
#include "tests/support/message_of.h"

namespace quire::model {
namespace {

using test::LlamaGguf;
using test::message_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::shared_ptr<const ModelFile> open(const LlamaGguf& gguf) {
  const std::string bytes = gguf.bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  return ModelFile::open("m.gguf");
}

TEST(Model, runs_llama) { EXPECT_THAT(supported_architectures(), ElementsAre("llama")); }

TEST(ModelFile, a_path_without_a_file_is_an_io_error) {
  EXPECT_THROW(ModelFile::open("/nonexistent/m.gguf"), IoError);
  const std::string folder = std::filesystem::temp_directory_path().string();
  EXPECT_THAT(message_of<Error>([&] { ModelFile::open(folder); }), HasSubstr(folder));
}

TEST(ModelFile, counts_parameters_and_names_its_path) {
  const auto file = open({});
  EXPECT_EQ(file->path(), "m.gguf");
  const std::int64_t block = 2 * 32 + 2 * 64 * 32 + 2 * 32 * 32 + 3 * 64 * 32;
  EXPECT_EQ(file->parameters(), 2 * 40 * 32 + 32 + 2 * block);
}

TEST(ModelFile, plan_is_what_the_model_then_takes) {
  const auto file = open({});
  for (const DType kv : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const MemoryPlan plan = file->plan(100, kv);
    const std::int64_t numbers = 2 * 2 * 32;  // L · G · (K + U)
    const std::int64_t scales = kv == DType::kI8 ? 2 * 2 * 2 * 4 : 0;
    EXPECT_EQ(plan.cache_per_token, numbers * static_cast<std::int64_t>(size_of(kv)) + scales);
    EXPECT_EQ(plan.cache, 100 * plan.cache_per_token);
    EXPECT_EQ(plan.total, plan.weights + plan.cache + plan.work);
    EXPECT_GT(plan.available, 0);
  }
  for (const std::uint32_t type : {test::kTypeF32, test::kTypeQ8_0, test::kTypeQ4_1}) {
    const auto typed = open(LlamaGguf(type, false, {}));
    const std::int64_t planned = typed->plan(1, DType::kF32).weights;
    EXPECT_GE(planned, static_cast<std::int64_t>(typed->gguf().tensors().size()));
    const std::string bytes = LlamaGguf(type, false, {}).bytes();
    test::MemoryFileOps files;
    files.put("m.gguf", bytes);
    const auto model = Model::load(ModelFile::open("m.gguf"), {});
    EXPECT_EQ(model->weight_bytes(), planned) << type;
    const auto cache = model->make_cache(100, DType::kI8);
    EXPECT_EQ(cache->bytes_per_token(), typed->plan(100, DType::kI8).cache_per_token);
  }
}

TEST(ModelFile, plan_counts_the_rows_that_panels_add) {
  LlamaGguf::Sizes sizes;
  sizes.V = 41;  // panels of 16 rows: 48
  const MemoryPlan few = open(LlamaGguf(0, false, sizes))->plan(1, DType::kF32);
  sizes.V = 48;
  const MemoryPlan many = open(LlamaGguf(0, false, sizes))->plan(1, DType::kF32);
  EXPECT_EQ(few.weights, many.weights);
}

TEST(ModelFile, plan_grows_with_the_context_by_its_cache_alone_once_a_chunk_is_full) {
  const auto file = open({});
  const MemoryPlan chunk = file->plan(256, DType::kF16),
                   long_text = file->plan(1'000'000, DType::kF16);
  EXPECT_EQ(long_text.work, chunk.work);
  EXPECT_EQ(long_text.total - chunk.total, (1'000'000 - 256) * chunk.cache_per_token);
}

TEST(ModelFile, tokenizer_spec_says_what_the_file_says) {
  LlamaGguf gguf;
  gguf.text("tokenizer.ggml.pre", "smollm").texts("tokenizer.ggml.merges", {"t 1", "t 2"});
  std::vector<std::int32_t> types(40, 1);
  types[3] = 3;
  gguf.numbers("tokenizer.ggml.token_type", types);
  gguf.number("tokenizer.ggml.bos_token_id", 1u).number("tokenizer.ggml.eos_token_id", 2u);
  gguf.number("tokenizer.ggml.eot_token_id", 3u).number("tokenizer.ggml.padding_token_id", 39u);
  gguf.number("tokenizer.ggml.unknown_token_id", 0u);
  gguf.number("tokenizer.ggml.add_bos_token", true);
  gguf.text("tokenizer.chat_template", "{{ messages }}");
  const auto file = open(gguf);
  const text::TokenizerSpec spec = file->tokenizer_spec();
  EXPECT_EQ(spec.source, "m.gguf");
  EXPECT_EQ(spec.model, "gpt2");
  EXPECT_EQ(spec.pre, "smollm");
  ASSERT_EQ(spec.tokens.size(), 40u);
  EXPECT_EQ(spec.tokens[39], "t39");
  EXPECT_THAT(spec.merges, ElementsAre("t 1", "t 2"));
  ASSERT_EQ(spec.types.size(), 40u);
  EXPECT_EQ(spec.types[3], 3);
  EXPECT_EQ(spec.bos, 1);
  EXPECT_EQ(spec.eos, 2);
  EXPECT_EQ(spec.eot, 3);
  EXPECT_EQ(spec.padding, 39);
  EXPECT_EQ(spec.unknown, 0);
  EXPECT_TRUE(spec.add_bos);
  EXPECT_FALSE(spec.add_eos);
  EXPECT_EQ(file->chat_template(), "{{ messages }}");
}

TEST(ModelFile, tokenizer_spec_of_a_file_that_says_little) {
  const auto file = open({});
  const text::TokenizerSpec spec = file->tokenizer_spec();
  EXPECT_EQ(spec.pre, "default");
  EXPECT_THAT(spec.merges, IsEmpty());
  EXPECT_THAT(spec.types, IsEmpty());
  for (const std::int32_t id : {spec.bos, spec.eos, spec.eot, spec.padding, spec.unknown})
    EXPECT_EQ(id, -1);
  EXPECT_FALSE(spec.add_bos);
  EXPECT_EQ(file->chat_template(), "");
  EXPECT_THAT(file->stop_ids(), IsEmpty());
  LlamaGguf gguf;
  gguf.without("tokenizer.ggml.model");
  EXPECT_THAT(message_of<FormatError>([&] { open(gguf)->tokenizer_spec(); }),
              HasSubstr("tokenizer.ggml.model"));
}

TEST(ModelFile, an_id_that_is_no_token_is_refused_with_both_numbers) {
  for (const std::string key :
       {"bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "padding_token_id"}) {
    for (const std::int64_t id : {std::int64_t{40}, std::int64_t{-2}, std::int64_t{1} << 32}) {
      LlamaGguf gguf;
      gguf.number("tokenizer.ggml." + key, id);
      EXPECT_THAT(message_of<FormatError>([&] { open(gguf)->tokenizer_spec(); }),
                  AllOf(HasSubstr(key), HasSubstr(std::to_string(id)), HasSubstr("40")));
    }
  }
}

TEST(ModelFile, stop_ids_are_the_ends_of_sequence_turn_and_message_without_repeats) {
  LlamaGguf gguf;
  gguf.number("tokenizer.ggml.eos_token_id", 2u).number("tokenizer.ggml.eom_token_id", 7u);
  EXPECT_THAT(open(gguf)->stop_ids(), ElementsAre(2, 7));
  gguf.number("tokenizer.ggml.eot_token_id", 2u);
  EXPECT_THAT(open(gguf)->stop_ids(), ElementsAre(2, 7));
  gguf.number("tokenizer.ggml.eot_token_id", 5u);
  EXPECT_THAT(open(gguf)->stop_ids(), ElementsAre(2, 5, 7));
  gguf.number("tokenizer.ggml.eom_token_id", 40u);
  EXPECT_THAT(open(gguf)->stop_ids(), ElementsAre(2, 5));
}

class LoadedModel : public testing::Test {
 protected:
  LoadedModel()
      : model_(Model::load(ModelFile::open(test::golden_path("tiny/llama.gguf")),
                           {Mode::kExact, {}})) {}
  std::unique_ptr<Model> model_;
};

TEST_F(LoadedModel, makes_caches_of_every_storage_up_to_its_context) {
  for (const DType kv : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const auto cache = model_->make_cache(256, kv);
    EXPECT_EQ(cache->capacity(), 256);
    EXPECT_EQ(cache->length(), 0);
    EXPECT_EQ(cache->bytes_per_token(), model_->file().plan(1, kv).cache_per_token);
  }
}

TEST_F(LoadedModel, refuses_a_cache_beyond_its_context_with_both_numbers) {
  for (const std::int64_t capacity : {std::int64_t{257}, std::int64_t{1} << 40, INT64_MAX}) {
    EXPECT_THAT(message_of<ArgumentError>([&] { (void)model_->make_cache(capacity, DType::kF32); }),
                AllOf(HasSubstr(std::to_string(capacity)), HasSubstr("256")));
  }
  for (const std::int64_t capacity : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN}) {
    EXPECT_THAT(message_of<ArgumentError>([&] { (void)model_->make_cache(capacity, DType::kF32); }),
                HasSubstr(std::to_string(capacity)));
  }
  for (const DType kv : {DType::kF64, DType::kI16, DType::kU8, DType::kBool})
    EXPECT_THAT(message_of<ArgumentError>([&] { (void)model_->make_cache(8, kv); }),
                HasSubstr(std::string(to_string(kv))));
}

TEST_F(LoadedModel, says_its_mode_and_the_cache_that_goes_with_it) {
  EXPECT_EQ(model_->mode(), Mode::kExact);
  EXPECT_EQ(model_->default_kv(), DType::kF32);
  const auto fast = Model::load(ModelFile::open(test::golden_path("tiny/llama.gguf")), {});
  EXPECT_EQ(fast->mode(), Mode::kFast);
  EXPECT_EQ(fast->default_kv(), DType::kF16);
}

TEST_F(LoadedModel, logits_take_any_rows_of_the_hidden_states) {
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5};
  std::vector<float> hidden = test::run(*model_, ids, 5);
  const std::vector<float> all = test::logits(*model_, hidden);
  const Tensor rows = Tensor::wrap(hidden.data(), {5, 32}, DType::kF32);
  const Tensor two = model_->logits(rows.slice(0, 3, 5));
  EXPECT_EQ(two.shape(), (Shape{2, 320}));
  EXPECT_TRUE(test::same_bits({all.begin() + 3 * 320, all.end()},
                              {two.data<float>(), two.data<float>() + 640}));
  EXPECT_EQ(model_->logits(rows.slice(0, 2, 2)).shape(), (Shape{0, 320}));
  EXPECT_THROW(model_->logits(rows.slice(1, 0, 31)), ArgumentError);
}

TEST(Model, loading_reports_every_byte_of_the_weights) {
  std::int64_t last = 0, end = 0;
  LoadOptions options;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, total);
    last = done;
    end = total;
  };
  const auto model = Model::load(ModelFile::open(test::golden_path("tiny/llama.gguf")), options);
  EXPECT_EQ(last, end);
  EXPECT_EQ(end, model->weight_bytes());
}

TEST(Model, tied_output_is_stored_once) {
  const auto file = ModelFile::open(test::golden_path("tiny/llama-tied.gguf"));
  const auto model = Model::load(file, {});
  EXPECT_EQ(model->weight_bytes(), file->plan(1, DType::kF32).weights);
}

TEST(Model, a_file_that_shrinks_between_opening_and_loading_is_an_error) {
  const std::string bytes = LlamaGguf().bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  const auto file = ModelFile::open("m.gguf");
  files.cut("m.gguf", bytes.size() - 100);
  EXPECT_THROW((void)Model::load(file, {}), Error);
}

}  // namespace
}  // namespace quire::model

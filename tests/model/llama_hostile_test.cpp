// Files that are whole GGUF but no llama model that can run: each is refused before anything of its
// claimed size is allocated, by a message with the key or tensor, and what was found.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quire/base/error.h"
#include "quire/model/model.h"
#include "tests/model/llama_gguf.h"
#include "tests/model/model_runs.h"
#include "tests/support/allocation_counter.h"
#include "tests/support/memory_file_ops.h"

namespace quire::model {
namespace {

using test::LlamaGguf;
using testing::AllOf;
using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The message of the FormatError that opening it ends with. At most `most_held` bytes are held
/// meanwhile.
std::string refusal(const LlamaGguf& gguf, std::int64_t most_held = 1 << 20) {
  const std::string bytes = gguf.bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  std::string message = "accepted";
  const std::int64_t held = test::peak_bytes([&] {
    try {
      ModelFile::open("m.gguf");
    } catch (const FormatError& e) {
      message = e.what();
    }
  });
  EXPECT_LE(held, most_held) << message;
  EXPECT_THAT(message, HasSubstr("m.gguf"));
  return message;
}

template <class... Words>
void expect_refused(const LlamaGguf& gguf, const Words&... words) {
  EXPECT_THAT(refusal(gguf), AllOf(HasSubstr(words)...));
}

TEST(LlamaHostile, the_untouched_model_is_accepted) {
  const std::string bytes = LlamaGguf().bytes();
  test::MemoryFileOps files;
  files.put("m.gguf", bytes);
  EXPECT_EQ(ModelFile::open("m.gguf")->config().V, 40);
}

TEST(LlamaHostile, another_architecture) {
  for (const std::string name : {"gpt2", "", "Llama", "llama ", "mixtral"}) {
    LlamaGguf gguf;
    gguf.text("general.architecture", name);
    expect_refused(gguf, "general.architecture", "'" + name + "'", "llama");
  }
  LlamaGguf gguf;
  gguf.without("general.architecture");
  expect_refused(gguf, "general.architecture", "missing");
}

TEST(LlamaHostile, experts_are_refused_by_name) {
  try {
    ModelFile::open(test::golden_path("tiny/mixtral.gguf"));
    FAIL() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("mixtral.gguf"), HasSubstr("llama.expert_count"),
                                HasSubstr("8"), HasSubstr("experts")));
  }
}

TEST(LlamaHostile, a_missing_key) {
  for (const std::string key :
       {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.context_length", "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon"}) {
    LlamaGguf gguf;
    gguf.without(key);
    expect_refused(gguf, key, "missing");
  }
}

TEST(LlamaHostile, a_key_of_the_wrong_type) {
  for (const std::string key :
       {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.context_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count",
        "llama.expert_count"}) {
    LlamaGguf as_text, as_float, as_array;
    expect_refused(as_text.text(key, "32"), key, "string");
    expect_refused(as_float.number(key, 32.0f), key);
    expect_refused(as_array.numbers(key, std::vector<std::uint32_t>{32, 32}), key, "array");
  }
  for (const std::string key : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"}) {
    LlamaGguf gguf;
    expect_refused(gguf.text(key, "1"), key, "string");
  }
  for (const std::string key :
       {"general.architecture", "general.name", "llama.rope.scaling.type"}) {
    LlamaGguf gguf;
    expect_refused(gguf.number(key, 7u), key);
  }
  LlamaGguf gguf;
  expect_refused(gguf.number("tokenizer.ggml.tokens", 40u), "tokenizer.ggml.tokens");
}

TEST(LlamaHostile, sizes_of_zero_below_zero_and_beyond_reason) {
  for (const std::string key :
       {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.context_length", "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.attention.value_length",
        "llama.rope.dimension_count"}) {
    LlamaGguf gguf;
    expect_refused(gguf.number(key, 0u), key, "is 0");
    expect_refused(gguf.number(key, std::int32_t{-1}), key, "is -1");
    expect_refused(gguf.number(key, std::int64_t{INT64_MIN}), key, "-9223372036854775808");
    expect_refused(gguf.number(key, std::uint32_t{UINT32_MAX}), key, "4294967295");
    expect_refused(gguf.number(key, std::int64_t{INT64_MAX}), key, "9223372036854775807");
    expect_refused(gguf.number(key, std::uint64_t{UINT64_MAX}), key);
  }
}

TEST(LlamaHostile, the_largest_sizes_that_are_allowed_do_not_fit_the_tensors) {
  struct Case {
    const char* key;
    std::uint32_t value;
  };
  for (const Case& c : {Case{"llama.block_count", 4096},
                        {"llama.embedding_length", 1 << 20},
                        {"llama.feed_forward_length", 1 << 22},
                        {"llama.attention.head_count", 1 << 14},
                        {"llama.attention.key_length", 1 << 12},
                        {"llama.attention.value_length", 1 << 12}}) {
    LlamaGguf gguf;
    // The names of 4,096 layers' tensors are the most that a number in a file can ask for.
    const std::string message = refusal(gguf.number(c.key, c.value), 16 << 20);
    EXPECT_THAT(message, HasSubstr("tensor ")) << c.key;
  }
}

TEST(LlamaHostile, heads_that_do_not_divide) {
  LlamaGguf gguf;
  expect_refused(gguf.number("llama.attention.head_count_kv", 3u), "head_count_kv", "3", "4");
  expect_refused(gguf.number("llama.attention.head_count_kv", 5u), "head_count_kv", "is 5");
  LlamaGguf no_length;
  no_length.without("llama.attention.key_length").without("llama.attention.head_count_kv");
  expect_refused(no_length.number("llama.attention.head_count", 5u), "head_count", "5", "32");
}

TEST(LlamaHostile, rope_dimensions) {
  LlamaGguf gguf;
  expect_refused(gguf.number("llama.rope.dimension_count", 7u), "llama.rope.dimension_count", "7",
                 "even");
  expect_refused(gguf.number("llama.rope.dimension_count", 18u), "llama.rope.dimension_count", "18",
                 "16");
}

TEST(LlamaHostile, a_window_shorter_than_the_context) {
  LlamaGguf gguf;
  expect_refused(gguf.number("llama.attention.sliding_window", 5u),
                 "llama.attention.sliding_window", "is 5", "full attention");
}

TEST(LlamaHostile, rope_base) {
  for (const float value : {0.0f, -1.0f, 0.5f, 1.0f, kNan, kInfinity, -kInfinity}) {
    LlamaGguf gguf;
    expect_refused(gguf.number("llama.rope.freq_base", value), "llama.rope.freq_base",
                   concat(double{value}));
  }
}

TEST(LlamaHostile, norm_epsilon) {
  for (const float value : {-1e-5f, 2.0f, kNan, kInfinity}) {
    LlamaGguf gguf;
    expect_refused(gguf.number("llama.attention.layer_norm_rms_epsilon", value),
                   "llama.attention.layer_norm_rms_epsilon", concat(double{value}));
  }
}

TEST(LlamaHostile, FLA_11_rope_scaling) {
  for (const std::string type : {"longrope", "su", "", "YARN", "dynamic"}) {
    LlamaGguf gguf;
    expect_refused(gguf.text("llama.rope.scaling.type", type), "llama.rope.scaling.type",
                   "'" + type + "'", "yarn");
  }
  for (const std::string type : {"linear", "yarn"}) {
    for (const float value : {0.0f, -2.0f, kNan, kInfinity}) {
      LlamaGguf gguf;
      gguf.text("llama.rope.scaling.type", type);
      expect_refused(gguf.number("llama.rope.scaling.factor", value), "llama.rope.scaling.factor",
                     concat(double{value}));
    }
  }
}

TEST(LlamaHostile, yarn_parameters) {
  const auto yarn = [] {
    LlamaGguf gguf;
    gguf.text("llama.rope.scaling.type", "yarn").number("llama.rope.scaling.factor", 8.0f);
    return gguf;
  };
  for (const std::string key :
       {"llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow",
        "llama.rope.scaling.attn_factor"}) {
    for (const float value : {0.0f, -1.0f, kNan, kInfinity}) {
      LlamaGguf gguf = yarn();
      expect_refused(gguf.number(key, value), key, concat(double{value}));
    }
  }
  LlamaGguf context = yarn();
  expect_refused(context.number("llama.rope.scaling.original_context_length", 0u),
                 "original_context_length", "is 0");
  LlamaGguf crossed = yarn();
  crossed.number("llama.rope.scaling.yarn_beta_fast", 2.0f);
  expect_refused(crossed.number("llama.rope.scaling.yarn_beta_slow", 3.0f), "yarn_beta_slow", "3",
                 "2");
}

TEST(LlamaHostile, rope_factors) {
  for (const float value : {0.0f, -1.0f, kNan, kInfinity}) {
    LlamaGguf gguf;
    std::vector<float> factors(8, 1.0f);
    factors[5] = value;
    expect_refused(gguf.floats("rope_freqs.weight", factors), "rope_freqs.weight",
                   concat(double{value}));
  }
  LlamaGguf gguf;
  expect_refused(gguf.floats("rope_freqs.weight", std::vector<float>(9, 1.0f)), "rope_freqs.weight",
                 "[9]", "[8]");
}

TEST(LlamaHostile, a_missing_tensor) {
  for (const std::string name :
       {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
        "blk.1.attn_k.weight", "blk.1.attn_v.weight", "blk.0.attn_output.weight",
        "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
        "blk.1.ffn_down.weight"}) {
    LlamaGguf gguf;
    expect_refused(gguf.without_tensor(name), name, "missing");
  }
  LlamaGguf deeper;
  expect_refused(deeper.number("llama.block_count", 3u), "blk.2.attn_norm.weight", "missing");
}

TEST(LlamaHostile, a_tensor_of_the_wrong_shape) {
  for (const std::string name :
       {"output_norm.weight", "output.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight",
        "blk.1.attn_k.weight", "blk.1.attn_v.weight", "blk.0.attn_output.weight",
        "blk.1.ffn_norm.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight",
        "blk.1.ffn_down.weight"}) {
    LlamaGguf gguf;
    const LlamaGguf::TensorSpec right = gguf.tensor(name);
    // A row more, a rank more, and the two sizes exchanged.
    LlamaGguf::TensorSpec wrong = right;
    const std::int64_t row = right.dims.size() == 1 ? 1 : right.dims[0];
    ++wrong.dims.back();
    wrong.data += std::string(static_cast<std::size_t>(4 * row), '\0');
    expect_refused(gguf.tensor(name, 0, wrong.dims, wrong.data), name, "shape",
                   concat(wrong.dims.back()), concat(right.dims.back()));
    wrong = right;
    wrong.dims.push_back(1);
    expect_refused(gguf.tensor(name, 0, wrong.dims, wrong.data), name, "shape");
    if (right.dims.size() == 2 && right.dims[0] != right.dims[1]) {
      wrong.dims = {right.dims[1], right.dims[0]};
      expect_refused(gguf.tensor(name, 0, wrong.dims, wrong.data), name, "shape");
    }
  }
  LlamaGguf flat;
  const LlamaGguf::TensorSpec embedding = flat.tensor("token_embd.weight");
  expect_refused(flat.tensor("token_embd.weight", 0, {40 * 32}, embedding.data),
                 "token_embd.weight", "1280");
}

TEST(LlamaHostile, the_number_of_tokens_is_the_number_of_rows) {
  for (const std::size_t count : {0u, 39u, 41u}) {
    LlamaGguf gguf;
    std::vector<std::string> tokens;
    for (std::size_t i = 0; i < count; ++i) tokens.push_back(std::to_string(i));
    expect_refused(gguf.texts("tokenizer.ggml.tokens", tokens), "tokenizer.ggml.tokens",
                   concat(std::uint64_t{count}), "40");
  }
}

TEST(LlamaHostile, a_tensor_that_the_architecture_does_not_have) {
  for (const std::string name :
       {"blk.2.attn_q.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight",
        "blk.00.attn_q.weight", "output.bias", "rope_factors_long.weight", "x"}) {
    LlamaGguf gguf;
    expect_refused(gguf.floats(name, {1, 2, 3}), "tensor " + name, "llama");
  }
}

TEST(LlamaHostile, a_tensor_type_that_is_not_read) {
  for (const std::string name : {"token_embd.weight", "blk.1.ffn_down.weight", "output.weight"}) {
    LlamaGguf gguf;
    LlamaGguf::TensorSpec spec = gguf.tensor(name);
    const std::int64_t numbers = spec.dims[0] * spec.dims[1];
    spec.data.resize(static_cast<std::size_t>(numbers / 32 * 22));
    expect_refused(gguf.tensor(name, test::kTypeQ5_0, spec.dims, spec.data), name, "Q5_0", "Q4_1",
                   "Q8_0", "F32");
  }
}

TEST(LlamaHostile, a_model_without_heads_of_numbers_is_refused_not_divided_by) {
  LlamaGguf gguf;  // more heads than the model is wide, without a key_length
  gguf.without("llama.attention.key_length").without("llama.attention.head_count_kv");
  expect_refused(gguf.number("llama.attention.head_count", 64u), "head_count", "64", "32");
}

}  // namespace
}  // namespace quire::model

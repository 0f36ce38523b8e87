// What a GGUF file must say to be a llama model: every size within bounds, every tensor present, of
// the right shape, and known.

#include <algorithm>
#include <cmath>
#include <set>

#include "quire/base/error.h"
#include "quire/model/gguf_weights.h"
#include "quire/model/llama.h"

namespace quire::model {
namespace {

std::int64_t bounded(const io::GgufFile& gguf, const std::string& key, std::int64_t value,
                     std::int64_t low, std::int64_t high) {
  if (value < low || value > high) {
    throw FormatError(gguf.path(),
                      concat("key ", key, " is ", value, "; it must be ", low, " to ", high));
  }
  return value;
}

std::int64_t size(const io::GgufFile& gguf, const std::string& key, std::int64_t high) {
  return bounded(gguf, key, gguf.integer(key), 1, high);
}

std::int64_t size_or(const io::GgufFile& gguf, const std::string& key, std::int64_t otherwise,
                     std::int64_t high) {
  return bounded(gguf, key, gguf.integer(key, otherwise), 1, high);
}

double positive(const io::GgufFile& gguf, const std::string& key, double otherwise) {
  const double value = gguf.number(key, otherwise);
  if (!(value > 0) || !std::isfinite(value)) {
    throw FormatError(gguf.path(),
                      concat("key ", key, " is ", value, "; it must be a positive number"));
  }
  return value;
}

void read_rope(const io::GgufFile& gguf, ModelConfig& c) {
  const std::string rope = "llama.rope.";
  c.rope.pairing = RopePairing::kInterleaved;
  c.rope.rotary = size_or(gguf, rope + "dimension_count", c.K, c.K);
  if (c.rope.rotary % 2 != 0) {
    throw FormatError(gguf.path(), concat("key llama.rope.dimension_count is ", c.rope.rotary,
                                          "; it must be even"));
  }
  c.rope.theta = positive(gguf, rope + "freq_base", 10000);
  if (c.rope.theta <= 1)
    throw FormatError(gguf.path(),
                      concat("key llama.rope.freq_base is ", c.rope.theta, "; it must be over 1"));
  const std::string type = gguf.text(rope + "scaling.type", "none");
  if (type != "none") c.rope.factor = positive(gguf, rope + "scaling.factor", 1);
  if (type == "linear") {
    c.rope.scaling = RopeScaling::kLinear;
  } else if (type == "yarn") {
    c.rope.scaling = RopeScaling::kYarn;
    c.rope.original_context = static_cast<double>(
        size_or(gguf, rope + "scaling.original_context_length", c.context, 1 << 30));
    c.rope.beta_fast = positive(gguf, rope + "scaling.yarn_beta_fast", 32);
    c.rope.beta_slow = positive(gguf, rope + "scaling.yarn_beta_slow", 1);
    if (c.rope.beta_slow > c.rope.beta_fast) {
      throw FormatError(gguf.path(),
                        concat("key llama.rope.scaling.yarn_beta_slow is ", c.rope.beta_slow,
                               ", over yarn_beta_fast = ", c.rope.beta_fast));
    }
    c.rope.attention_factor =
        yarn_attention_factor(c.rope.factor) * positive(gguf, rope + "scaling.attn_factor", 1);
  } else if (type != "none") {
    throw FormatError(gguf.path(), concat("key llama.rope.scaling.type is '", type,
                                          "'; supported are none, linear and yarn"));
  }
}

/// The shape that a tensor must have, and whether it may be absent.
struct Expected {
  std::string name;
  std::vector<std::int64_t> shape;
  bool optional = false;
};

std::vector<Expected> expected_tensors(const ModelConfig& c) {
  std::vector<Expected> all = {{"token_embd.weight", {c.V, c.D}},
                               {"output_norm.weight", {c.D}},
                               {"output.weight", {c.V, c.D}, true},
                               {"rope_freqs.weight", {c.rope.rotary / 2}, true}};
  for (std::int64_t layer = 0; layer < c.L; ++layer) {
    const std::string blk = concat("blk.", layer, ".");
    all.push_back({blk + "attn_norm.weight", {c.D}});
    all.push_back({blk + "attn_q.weight", {c.H * c.K, c.D}});
    all.push_back({blk + "attn_k.weight", {c.G * c.K, c.D}});
    all.push_back({blk + "attn_v.weight", {c.G * c.U, c.D}});
    all.push_back({blk + "attn_output.weight", {c.D, c.H * c.U}});
    all.push_back({blk + "ffn_norm.weight", {c.D}});
    all.push_back({blk + "ffn_gate.weight", {c.F, c.D}});
    all.push_back({blk + "ffn_up.weight", {c.F, c.D}});
    all.push_back({blk + "ffn_down.weight", {c.D, c.F}});
  }
  return all;
}

void check_tensors(const io::GgufFile& gguf, const ModelConfig& c) {
  std::set<std::string> known;
  for (const Expected& want : expected_tensors(c)) {
    known.insert(want.name);
    const io::GgufTensor* tensor = gguf.tensor(want.name);
    if (tensor == nullptr) {
      if (want.optional) continue;
      throw FormatError(gguf.path(), concat("tensor ", want.name, " is missing"));
    }
    if (tensor->shape != want.shape) {
      throw FormatError(gguf.path(),
                        concat("tensor ", want.name, " has shape ", to_string(tensor->shape),
                               "; the sizes of this model make it ", to_string(want.shape)));
    }
    weight_type(gguf, *tensor);
  }
  for (const io::GgufTensor& tensor : gguf.tensors()) {
    // Leaving a tensor out would give wrong answers in silence.
    if (!known.contains(tensor.name)) {
      throw FormatError(gguf.path(),
                        concat("tensor ", tensor.name,
                               " is not part of the llama architecture as this version knows it"));
    }
  }
}

void read_rope_factors(const io::GgufFile& gguf, ModelConfig& c) {
  if (gguf.tensor("rope_freqs.weight") == nullptr) return;
  const Tensor factors = WeightReader(gguf, {}).vector("rope_freqs.weight");
  const float* f = factors.data<float>();
  c.rope.factors.assign(f, f + factors.elements());
  for (const float factor : c.rope.factors) {
    if (!(factor > 0) || !std::isfinite(factor)) {
      throw FormatError(gguf.path(), concat("tensor rope_freqs.weight holds ", double{factor},
                                            "; its numbers must be positive"));
    }
  }
}

void check_experts(const io::GgufFile& gguf) {
  const std::int64_t experts = gguf.integer("llama.expert_count", 0);
  if (experts != 0) {
    throw FormatError(
        gguf.path(),
        concat("key llama.expert_count is ", experts,
               ": a mixture of experts; this version runs the llama architecture without experts"));
  }
}

}  // namespace

ModelConfig read_llama_config(const io::GgufFile& gguf) {
  check_experts(gguf);
  ModelConfig c;
  c.architecture = "llama";
  c.name = gguf.text("general.name", "");
  c.L = size(gguf, "llama.block_count", 4096);
  c.D = size(gguf, "llama.embedding_length", 1 << 20);
  c.F = size(gguf, "llama.feed_forward_length", 1 << 22);
  c.H = size(gguf, "llama.attention.head_count", 1 << 14);
  c.G = size_or(gguf, "llama.attention.head_count_kv", c.H, c.H);
  if (c.H % c.G != 0) {
    throw FormatError(gguf.path(), concat("key llama.attention.head_count_kv is ", c.G,
                                          ", which does not divide head_count = ", c.H));
  }
  if (gguf.find("llama.attention.key_length") == nullptr && c.D % c.H != 0) {
    throw FormatError(gguf.path(), concat("key llama.attention.head_count is ", c.H,
                                          ", which does not divide embedding_length = ", c.D));
  }
  c.K = size_or(gguf, "llama.attention.key_length", std::max<std::int64_t>(1, c.D / c.H), 1 << 12);
  c.U = size_or(gguf, "llama.attention.value_length", c.K, 1 << 12);
  c.context = size(gguf, "llama.context_length", 1 << 30);
  const std::string window = "llama.attention.sliding_window";
  const std::int64_t seen = gguf.integer(window, 0);
  if (seen > 0 && seen < c.context) {
    throw FormatError(gguf.path(),
                      concat("key ", window, " is ", seen, ", less than the context of ", c.context,
                             "; only full attention is supported"));
  }
  c.norm_epsilon = gguf.number("llama.attention.layer_norm_rms_epsilon");
  if (!(c.norm_epsilon >= 0) || c.norm_epsilon > 1) {
    throw FormatError(gguf.path(), concat("key llama.attention.layer_norm_rms_epsilon is ",
                                          c.norm_epsilon, "; it must be 0 to 1"));
  }
  const io::GgufTensor* embedding = gguf.tensor("token_embd.weight");
  if (embedding == nullptr) throw FormatError(gguf.path(), "tensor token_embd.weight is missing");
  if (embedding->shape.size() != 2) {
    throw FormatError(gguf.path(), concat("tensor token_embd.weight has shape ",
                                          to_string(embedding->shape), "; it must be a matrix"));
  }
  c.V = bounded(gguf, "token_embd.weight (rows)", embedding->shape[0], 1, 1 << 24);
  const auto* tokens = gguf.texts("tokenizer.ggml.tokens");
  if (tokens != nullptr && static_cast<std::int64_t>(tokens->size()) != c.V) {
    throw FormatError(gguf.path(), concat("key tokenizer.ggml.tokens has ", tokens->size(),
                                          " tokens, but token_embd.weight has ", c.V, " rows"));
  }
  c.tied_output = gguf.tensor("output.weight") == nullptr;
  read_rope(gguf, c);
  check_tensors(gguf, c);
  read_rope_factors(gguf, c);
  return c;
}

}  // namespace quire::model

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quire/base/half.h"
#include "quire/tensor/rng.h"
#include "tests/support/gguf_writer.h"

namespace quire::test {

/// GGUF's numbers of tensor types.
enum GgufTensorType : std::uint32_t {
  kTypeF32 = 0,
  kTypeF16 = 1,
  kTypeQ4_1 = 3,
  kTypeQ5_0 = 6,
  kTypeQ8_0 = 8,
  kTypeBF16 = 30
};

/// What a matrix is in a file, and the same numbers as floats.
struct StoredNumbers {
  std::string file, floats;
};

template <class T>
void put(std::string& out, T value) {
  out += gguf_number(value);
}

/// `count` random numbers of standard deviation `size` as `type` stores them.
inline StoredNumbers random_numbers(Rng& rng, std::uint32_t type, std::int64_t count, float size) {
  StoredNumbers out;
  const auto plain = [&](float x) { put(out.floats, x); };
  const std::int64_t block = type == kTypeQ4_1 || type == kTypeQ8_0 ? 32 : 1;
  for (std::int64_t i = 0; i < count; i += block) {
    if (type == kTypeF32 || type == kTypeF16 || type == kTypeBF16) {
      const float x = rng.normal() * size;
      const Half half = to_half(x);
      const BFloat16 brain = to_bfloat16(x);
      if (type == kTypeF32) put(out.file, x), plain(x);
      if (type == kTypeF16) put(out.file, half.bits), plain(to_float(half));
      if (type == kTypeBF16) put(out.file, brain.bits), plain(to_float(brain));
      continue;
    }
    const bool wide = type == kTypeQ8_0;  // scale · q; else scale · q + minimum, low nibbles first
    const Half scale = to_half(size * (wide ? 1 / 64.0f : 1 / 4.0f)), least = to_half(-2 * size);
    put(out.file, scale.bits);
    if (!wide) put(out.file, least.bits);
    int q[32];
    for (int& x : q) x = static_cast<int>(rng.below(wide ? 255 : 16)) - (wide ? 127 : 0);
    for (int k = 0; k < (wide ? 32 : 16); ++k)
      out.file += static_cast<char>(wide ? q[k] : q[k] | q[k + 16] << 4);
    for (const int x : q)
      plain(to_float(scale) * static_cast<float>(x) + (wide ? 0.0f : to_float(least)));
  }
  return out;
}

/// A small right llama model as a GGUF file; tests then break one thing of it.
class LlamaGguf {
 public:
  struct Sizes {
    std::int64_t L = 2, D = 32, H = 4, G = 2, K = 16, F = 64, V = 40, context = 128;
  };
  struct TensorSpec {
    std::uint32_t type;
    std::vector<std::int64_t> dims;  // innermost first
    std::string data;
  };

  /// `type`: of all matrices; `as_floats` writes the numbers that they stand for as F32 instead.
  LlamaGguf() : LlamaGguf(kTypeF32, false, Sizes()) {}
  LlamaGguf(std::uint32_t type, bool as_floats, const Sizes& s) : s_(s) {
    text("general.architecture", "llama").text("general.name", "small");
    size("llama.block_count", s.L).size("llama.embedding_length", s.D);
    size("llama.feed_forward_length", s.F).size("llama.context_length", s.context);
    size("llama.attention.head_count", s.H).size("llama.attention.head_count_kv", s.G);
    size("llama.attention.key_length", s.K).size("llama.attention.value_length", s.K);
    size("llama.rope.dimension_count", s.K).number("llama.rope.freq_base", 10'000.0f);
    number("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    std::vector<std::string> tokens;
    for (std::int64_t id = 0; id < s.V; ++id)
      tokens.push_back(std::string(1, 't').append(std::to_string(id)));
    texts("tokenizer.ggml.tokens", tokens).text("tokenizer.ggml.model", "gpt2");
    matrix("token_embd.weight", type, as_floats, s.V, s.D, 1.0f);
    for (std::int64_t layer = 0; layer < s.L; ++layer) {
      const std::string blk = "blk." + std::to_string(layer) + ".";
      vector(blk + "attn_norm.weight", s.D);
      matrix(blk + "attn_q.weight", type, as_floats, s.H * s.K, s.D);
      matrix(blk + "attn_k.weight", type, as_floats, s.G * s.K, s.D);
      matrix(blk + "attn_v.weight", type, as_floats, s.G * s.K, s.D);
      matrix(blk + "attn_output.weight", type, as_floats, s.D, s.H * s.K);
      vector(blk + "ffn_norm.weight", s.D);
      matrix(blk + "ffn_gate.weight", type, as_floats, s.F, s.D);
      matrix(blk + "ffn_up.weight", type, as_floats, s.F, s.D);
      matrix(blk + "ffn_down.weight", type, as_floats, s.D, s.F);
    }
    vector("output_norm.weight", s.D);
    matrix("output.weight", type, as_floats, s.V, s.D);
  }

  template <class T>
  LlamaGguf& number(const std::string& key, T value) {
    return add(key, [=](GgufWriter& to) { to.number(key, value); });
  }
  LlamaGguf& text(const std::string& key, const std::string& value) {
    return add(key, [=](GgufWriter& to) { to.text(key, value); });
  }
  template <class T>
  LlamaGguf& numbers(const std::string& key, const std::vector<T>& values) {
    return add(key, [=](GgufWriter& to) { to.numbers(key, values); });
  }
  LlamaGguf& texts(const std::string& key, const std::vector<std::string>& values) {
    return add(key, [=](GgufWriter& to) { to.texts(key, values); });
  }
  LlamaGguf& without(const std::string& key) {
    keys_.erase(key);
    return *this;
  }
  LlamaGguf& tensor(const std::string& name, std::uint32_t type, std::vector<std::int64_t> dims,
                    std::string data) {
    tensors_[name] = {type, std::move(dims), std::move(data)};
    return *this;
  }
  /// A vector of F32 numbers.
  LlamaGguf& floats(const std::string& name, const std::vector<float>& values) {
    std::string data;
    for (const float x : values) put(data, x);
    return tensor(name, kTypeF32, {static_cast<std::int64_t>(values.size())}, data);
  }
  LlamaGguf& without_tensor(const std::string& name) {
    tensors_.erase(name);
    return *this;
  }
  const TensorSpec& tensor(const std::string& name) const { return tensors_.at(name); }
  std::size_t key_count() const { return keys_.size(); }

  std::string bytes() const {
    GgufWriter writer;
    for (const auto& [key, write] : keys_) write(writer);
    for (const auto& [name, t] : tensors_) writer.tensor(name, t.type, t.dims, t.data);
    return writer.bytes();
  }

 private:
  LlamaGguf& add(const std::string& key, std::function<void(GgufWriter&)> write) {
    keys_[key] = std::move(write);
    return *this;
  }
  LlamaGguf& size(const std::string& key, std::int64_t value) {
    return number(key, static_cast<std::uint32_t>(value));
  }
  void matrix(const std::string& name, std::uint32_t type, bool as_floats, std::int64_t rows,
              std::int64_t columns, float size = 0) {
    const float spread = size > 0 ? size : 1.2f / std::sqrt(static_cast<float>(columns));
    StoredNumbers numbers = random_numbers(rng_, type, rows * columns, spread);
    tensor(name, as_floats ? std::uint32_t{kTypeF32} : type, {columns, rows},
           as_floats ? std::move(numbers.floats) : std::move(numbers.file));
  }
  void vector(const std::string& name, std::int64_t count) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < count; ++i) values.push_back(1 + 0.2f * rng_.normal());
    floats(name, values);
  }

  Sizes s_;
  Rng rng_{11};
  std::map<std::string, std::function<void(GgufWriter&)>> keys_;
  std::map<std::string, TensorSpec> tensors_;
};

}  // namespace quire::test

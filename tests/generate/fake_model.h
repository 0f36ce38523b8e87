#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/kv_cache.h"
#include "quire/model/model.h"
#include "quire/text/tokenizer.h"

namespace quire::test {

/// A cache that remembers the ids themselves.
class FakeCache : public cache::KvCache {
 public:
  explicit FakeCache(std::int64_t capacity) : capacity_(capacity) {}
  std::int64_t length() const override { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t capacity() const override { return capacity_; }
  void append(std::int64_t, const Tensor&, const Tensor&) override {
    throw std::logic_error("append");
  }
  Tensor attend(std::int64_t, const Tensor&) override { throw std::logic_error("attend"); }
  void advance(std::int64_t) override { throw std::logic_error("advance"); }
  void truncate(std::int64_t length) override { ids.resize(static_cast<std::size_t>(length)); }
  std::int64_t bytes() const override { return length(); }
  std::int64_t bytes_per_token() const override { return 1; }

  std::vector<std::int32_t> ids;

 private:
  std::int64_t capacity_;
};

/// A model whose logits are any function of all ids so far. Its hidden state is a hash of them in
/// three numbers, so that a chunk, a truncation or a token too many would be seen.
class FakeModel : public model::Model {
 public:
  using Next = std::function<std::vector<float>(std::span<const std::int32_t> ids)>;
  explicit FakeModel(std::int64_t V, Next next) : V_(V), next_(std::move(next)) {}

  const model::ModelFile& file() const override { throw std::logic_error("a fake has no file"); }
  model::Mode mode() const override { return model::Mode::kExact; }
  std::int64_t weight_bytes() const override { return 0; }

  Tensor forward(std::span<const std::int32_t> ids, cache::KvCache& cache) const override {
    auto& fake = dynamic_cast<FakeCache&>(cache);
    const auto N = static_cast<std::int64_t>(ids.size());
    calls.push_back(N);
    if (N < 1 || N > max_chunk()) throw std::logic_error("a chunk of a wrong size");
    for (const std::int32_t id : ids) QUIRE_CHECK(id >= 0 && id < V_, "id ", id, " of V = ", V_);
    Tensor hidden_ND = Tensor::empty({N, 1}, DType::kF32);
    for (std::int64_t n = 0; n < N; ++n) {
      fake.ids.push_back(ids[static_cast<std::size_t>(n)]);
      histories_.push_back(fake.ids);
      hidden_ND.mutable_data<float>()[n] = static_cast<float>(histories_.size() - 1);
    }
    if (fake.length() > fake.capacity()) throw std::logic_error("the cache is too full");
    return hidden_ND;
  }

  Tensor logits(const Tensor& hidden_ND) const override {
    const std::int64_t N = hidden_ND.size(0);
    rows_of_logits.push_back(N);
    Tensor out = Tensor::empty({N, V_}, DType::kF32);
    for (std::int64_t n = 0; n < N; ++n) {
      const std::vector<float> row =
          next_(histories_.at(static_cast<std::size_t>(hidden_ND.data<float>()[n])));
      std::copy(row.begin(), row.end(), out.mutable_data<float>() + n * V_);
    }
    return out;
  }

  mutable std::vector<std::int64_t> calls;           // N of each forward
  mutable std::vector<std::int64_t> rows_of_logits;  // N of each logits

 private:
  std::int64_t V_;
  Next next_;
  mutable std::vector<std::vector<std::int32_t>> histories_;  // by hidden state
};

/// Ids are places in a list of byte strings; those that begin with "<|" are special.
class FakeTokenizer : public text::Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}
  std::vector<std::int32_t> encode(std::span<const text::Piece>) const override { return {}; }
  std::string_view bytes(std::int32_t id) const override {
    return tokens_.at(static_cast<std::size_t>(id));
  }
  std::int32_t size() const override { return static_cast<std::int32_t>(tokens_.size()); }
  bool is_special(std::int32_t id) const override { return bytes(id).starts_with("<|"); }
  const text::TokenizerSpec& spec() const override { return spec_; }
  std::int32_t find(std::string_view) const override { return -1; }

 private:
  std::vector<std::string> tokens_;
  text::TokenizerSpec spec_;
};

}  // namespace quire::test

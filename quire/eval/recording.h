#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quire/cache/contiguous.h"
#include "quire/cache/kv_cache.h"
#include "quire/tensor/tensor.h"

namespace quire::eval {

/// An exact cache that also remembers, in f32 and as the model computed them, the keys and values
/// of all tokens, and the queries of those from `queries_from` on: what is read once can be handed
/// to any other cache without the model. Keys and queries are already turned to their positions.
class RecordingCache : public cache::KvCache {
 public:
  /// A piece of the text that was read a second time: it ends before token `end`, and of each layer
  /// these are the keys, values and queries of the tokens that came again, f32.
  struct Again {
    struct Layer {
      Tensor k_NGK, v_NGU, q_NHK;
    };
    std::int64_t end = 0, tokens = 0;
    std::vector<Layer> layers;
  };

  /// reread: the tokens of a piece that is read a second time; 0: none is.
  /// Throws ArgumentError for queries_from outside [0, capacity], and as ContiguousCache does;
  /// OutOfMemory.
  RecordingCache(std::vector<cache::LayerSpec> layers, std::int64_t capacity, DType kv,
                 std::int64_t queries_from, std::int64_t reread = 0);

  std::int64_t length() const override { return cache_.length(); }
  std::int64_t capacity() const override { return cache_.capacity(); }
  void begin_step(std::span<const std::int32_t> ids) override;
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override;
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override;
  void advance(std::int64_t tokens) override { cache_.advance(tokens); }
  void truncate(std::int64_t length) override;
  std::int64_t reread_tokens() const override { return reread_; }
  void begin_reread() override;
  void end_reread() override;
  cache::CacheReport report() const override { return cache_.report(); }
  std::int64_t bytes() const override { return cache_.bytes(); }
  std::int64_t bytes_per_token() const override { return cache_.bytes_per_token(); }

  std::int64_t layers() const { return static_cast<std::int64_t>(specs_.size()); }
  const cache::LayerSpec& spec(std::int64_t layer) const;
  std::int64_t queries_from() const { return queries_from_; }
  /// The ids of the tokens [0, length()); those of a step that were not told are −1.
  std::span<const std::int32_t> ids() const;
  /// f32 of the tokens [begin, end): views of the recording. Throws ArgumentError for a layer or
  /// tokens that are not there, and for queries that were not kept.
  Tensor k_NGK(std::int64_t layer, std::int64_t begin, std::int64_t end) const;
  Tensor v_NGU(std::int64_t layer, std::int64_t begin, std::int64_t end) const;
  Tensor q_NHK(std::int64_t layer, std::int64_t begin, std::int64_t end) const;
  /// What was read a second time of the tokens that are there, in their order.
  std::span<const Again> again() const { return again_; }
  /// The exact keys and values, stored as `kv`.
  KvView view(std::int64_t layer) const { return cache_.view(layer); }

 private:
  std::size_t checked(std::int64_t layer) const;
  void check(std::int64_t first, std::int64_t begin, std::int64_t end) const;

  struct Layer {
    Tensor k_SGK, v_SGU, q_SHK;  // S: the capacity; of queries, without those before queries_from
  };
  std::vector<cache::LayerSpec> specs_;
  std::int64_t queries_from_, reread_;
  std::int64_t reread_at_ = -1;  // tokens that stay of a second reading under way; else −1
  std::vector<Again> again_;
  cache::ContiguousCache cache_;
  std::vector<Layer> recorded_;
  std::vector<std::int32_t> ids_;
};

/// Bytes that a recording of so many tokens, so many queries, and so many tokens that came again,
/// takes beside its cache.
std::int64_t recording_bytes(std::span<const cache::LayerSpec> layers, std::int64_t tokens,
                             std::int64_t queries, std::int64_t again = 0);

/// Hands the tokens [to.length(), end) of the recording to another cache, `chunk` at a time, as a
/// model would that reads them; from the token `queries_from` on it also asks with the recorded
/// queries, and drops the answers: policies that judge keys by the attention they receive need
/// that. What was read a second time is handed on where it stands to a cache that wants it.
/// `progress` is called with the number of tokens that the cache holds after each chunk; when
/// it says false, replay stops and returns false. Throws ArgumentError for an end outside the
/// recording, a chunk under 1, queries that were not recorded, and as the cache does.
bool replay(const RecordingCache& from, std::int64_t end, cache::KvCache& to,
            std::int64_t queries_from, std::int64_t chunk = 256,
            const std::function<bool(std::int64_t)>& progress = {});

}  // namespace quire::eval

#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "quire/base/error.h"
#include "quire/generate/session.h"

namespace quire::generate {

/// What a Session holds.
struct Session::Impl {
  const model::Model& model;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::unique_ptr<cache::KvCache> cache;
  std::vector<std::int32_t> stop_ids;
  std::vector<std::int32_t> ids;    // the cache holds a beginning of these
  std::optional<Tensor> hidden_1D;  // of the last id, once the cache holds it
  std::optional<Tensor> logits_V;   // made of hidden_1D when asked for

  static constexpr int kMostLosses = 8;  // of one chunk, before a disk is given up

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }

  void feed(std::span<const std::int32_t> part) {
    hidden_1D.reset();
    logits_V.reset();
    const Tensor hidden_ND = forward(part);
    const auto n = static_cast<std::int64_t>(part.size());
    // A copy: a view would keep the whole chunk alive.
    hidden_1D = hidden_ND.slice(0, n - 1, n).to(DType::kF32);
  }

  /// model.forward(); what a disk lost of the ids before `part` is read again, a few times.
  Tensor forward(std::span<const std::int32_t> part) {
    const std::int64_t before = cache->length();
    for (int losses = 0;; ++losses) {
      try {
        while (cache->length() < before) {
          const std::int64_t begin = cache->length();
          const std::int64_t count = std::min(before - begin, model.max_chunk());
          static_cast<void>(model.forward(std::span(ids).subspan(static_cast<std::size_t>(begin),
                                                                 static_cast<std::size_t>(count)),
                                          *cache));
        }
        return model.forward(part, *cache);
      } catch (const IoError&) {
        if (losses == kMostLosses || !cache->recover()) throw;
      }
    }
  }

  /// Feeds the ids that the cache does not hold.
  void feed_rest() {
    while (cache->length() < length()) {
      const std::int64_t begin = cache->length();
      const std::int64_t end = std::min(length(), begin + model.max_chunk());
      feed(std::span(ids).subspan(static_cast<std::size_t>(begin),
                                  static_cast<std::size_t>(end - begin)));
    }
  }

  /// Brings the cache up to all ids, and hidden_1D up to the last of them.
  void catch_up() {
    if (ids.empty() || (cache->length() == length() && hidden_1D)) return;
    // After a truncation the hidden state of the last id is gone: it is read again, with the same
    // bits.
    if (cache->length() == length()) cache->truncate(length() - 1);
    feed_rest();
  }

  const Tensor& last_logits() {
    QUIRE_CHECK(!ids.empty(), "nothing has been read yet: there is nothing to continue");
    catch_up();
    if (!logits_V) logits_V = model.logits(*hidden_1D).view({-1});
    return *logits_V;
  }

  void accept(std::int32_t id) {
    ids.push_back(id);
    hidden_1D.reset();
    logits_V.reset();
  }
};

}  // namespace quire::generate

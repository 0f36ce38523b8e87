#pragma once

// Keys, values and queries of one attention layer for a context of any length: of real text, or
// made up.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/tensor/tensor.h"

namespace quire::bench {

struct Heads {
  std::int64_t H = 32, G = 8, K = 128;
};

/// A document of so many tokens, and the tokens that follow it.
class ContextKeys {
 public:
  virtual ~ContextKeys() = default;
  /// Of tokens first, first + 1, …; asked for in order, keys before values. [N, G, K], f32.
  virtual Tensor keys(std::int64_t first, std::int64_t N) = 0;
  virtual Tensor values(std::int64_t first, std::int64_t N) = 0;
  /// Of the n-th token behind the document: [1, H, K].
  virtual Tensor query(std::int64_t n) = 0;
};

/// Keys without any order, or (clustered) in runs of 24 that share a topic which comes back again
/// and again, and queries that ask for a topic.
std::unique_ptr<ContextKeys> random_keys(const Heads& heads, std::int64_t tokens);
std::unique_ptr<ContextKeys> clustered_keys(const Heads& heads, std::int64_t tokens);

/// What `quire eval --dump-qkv` wrote of a model whose rotary embedding turns numbers 2i and 2i + 1
/// of a head by theta^(−2i / K) a position, with heads half as large as those asked for.
///
/// A kv head of K numbers is two heads of K/2 of the model side by side, of different layers: head
/// i of all that were dumped and head i + G. Its scores are then the two heads' together over √2:
/// keys of real text in every respect, of the wanted size. Its query heads are pairs of those that
/// the two heads have: (0, 0), (1, 1), (2, 2), (0, 1), and so on.
///
/// A context longer than the texts is the texts again, one after another, as often as it takes:
/// keys and queries are turned on from their places in the text to those in the context. That is
/// what a model reads that begins anew with each piece, and never goes beyond the context that it
/// was trained for; a score depends on the distance alone, so that queries meet the keys of a
/// piece as they would in a text that goes on. But for the first, pieces lack their first 16
/// tokens: a model's sink is there once. The context ends where the last text does, less the
/// `steps` tokens that follow.
class TextKeys {
 public:
  /// Throws FormatError, IoError; ArgumentError where the sizes do not fit.
  TextKeys(const std::vector<std::string>& files, const Heads& heads, double theta);
  ~TextKeys();
  /// Tokens of all texts.
  std::int64_t tokens() const;
  /// Uses this object.
  std::unique_ptr<ContextKeys> context(std::int64_t tokens, std::int64_t steps) const;

  struct Impl;

 private:
  std::unique_ptr<const Impl> impl_;
};

}  // namespace quire::bench

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "quire/ops/attention/attention.h"
#include "quire/ops/math/rope.h"
#include "quire/tensor/tensor.h"

namespace quire::cache {

/// What a cache must know of a layer.
struct LayerSpec {
  std::int64_t H = 0, G = 0, K = 0, U = 0;
  AttentionSpec attention;
  /// How queries and keys were turned before they came: for policies that look at them unturned.
  /// rotary = 0: not at all, or nobody needs it.
  RopeSpec rope = {};
};

/// What a cache says of itself.
struct CacheReport {
  std::int64_t tokens = 0;
  /// What the last step of one token read, over all layers: keys, values, scales, index, wherever
  /// they lay.
  std::int64_t bytes_read = 0;
  /// What it keeps in all tiers: keys, values, scales, index, dense layers and hot zones included.
  std::int64_t bytes_stored = 0;
  /// The part of the attention that the last step's exact keys received, over layers and heads; 1
  /// where nothing was left out.
  double mass = 1;
  /// Tokens that were read a second time.
  std::int64_t reread = 0;
};

/// Keys and values over all layers: of one sequence, or (PagedBatch) of several that a model
/// continues in one step. A step is: begin_step(); for each layer append(), then attend(); then
/// advance().
class KvCache {
 public:
  virtual ~KvCache() = default;

  /// Tokens in the cache: those of finished steps. Of several sequences: of the longest.
  virtual std::int64_t length() const = 0;
  virtual std::int64_t capacity() const = 0;

  /// Tells the tokens of the step that comes, for caches that find them again (adopt) or save them.
  /// A step whose tokens are not told is legal.
  virtual void begin_step(std::span<const std::int32_t> ids);
  /// The positions of the N tokens of the step that comes: length(), length() + 1, … of one
  /// sequence.
  virtual std::vector<std::int64_t> positions(std::int64_t N) const;
  /// Writes the keys and values of N new tokens of a layer behind the length() tokens that it has.
  /// k_NGK, v_NGU f32. Throws ArgumentError when length() + N exceeds capacity() (with both
  /// numbers).
  virtual void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) = 0;
  /// Attention of the N queries that were appended last over all keys of the layer. Returns f32 [N,
  /// H, U].
  virtual Tensor attend(std::int64_t layer, const Tensor& q_NHK) = 0;
  /// Ends a step of N tokens.
  virtual void advance(std::int64_t tokens) = 0;
  /// Drops all tokens from `length` on. Throws ArgumentError when it has fewer.
  virtual void truncate(std::int64_t length) = 0;

  /// After append() or attend() threw IoError: drops the step under way and the tokens whose keys a
  /// disk lost, with those behind them, so that they can be read again. False, and nothing is
  /// dropped, where nothing was lost.
  virtual bool recover();

  /// Takes over what is known already of the beginning of a text: an empty cache then holds the
  /// first tokens of `ids`, as if they had been read. Returns how many; 0 where a cache shares
  /// nothing.
  virtual std::int64_t adopt(std::span<const std::int32_t> ids);
  /// A cache of the same tokens that goes its own way; neither sees what the other appends. Throws
  /// ArgumentError where a cache cannot share.
  virtual std::unique_ptr<KvCache> fork() const;

  /// Above 0 while the cache wants each piece of so many tokens of the document, and the shorter
  /// one at its end, read a second time right behind itself: what a piece's own words attend to
  /// when they come again tells what the cache must keep to say them.
  virtual std::int64_t reread_tokens() const;
  /// The steps up to end_reread() are that second reading of the tokens that came last; none of
  /// their tokens stays. Throw ArgumentError out of turn, and where no second reading is wanted.
  virtual void begin_reread();
  virtual void end_reread();

  /// Tells that the last document was read: a policy that leaves keys out does so from here on,
  /// and no sooner.
  virtual void end_reading();
  virtual CacheReport report() const;

  /// What a saved cache keeps of a layer, right after end_reading(). Throws ArgumentError where a
  /// cache cannot be saved, or later; IoError.
  virtual std::vector<std::byte> layer_bytes(std::int64_t layer) const;
  /// Makes an empty cache hold the `length` tokens of a document whose layers are told, as if it
  /// had read them and end_reading() had been called. Throws ArgumentError for bytes that are not
  /// those of such a cache, and what `layer` throws; the cache is then empty.
  using LayerBytes = std::function<std::vector<std::byte>(std::int64_t layer)>;
  virtual void restore(std::int64_t length, const LayerBytes& layer);

  /// Bytes that hold tokens now, and bytes that a token takes.
  virtual std::int64_t bytes() const = 0;
  virtual std::int64_t bytes_per_token() const = 0;
};

}  // namespace quire::cache

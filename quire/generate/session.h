#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/cache/kv_cache.h"
#include "quire/model/model.h"
#include "quire/ops/sample/sample.h"
#include "quire/tensor/tensor.h"
#include "quire/text/tokenizer.h"

namespace quire::generate {

/// Called with the number of tokens done; it returns false to stop.
using Progress = std::function<bool(std::int64_t done)>;
/// Called with text; it returns false to interrupt.
using Stream = std::function<bool(std::string_view text)>;

/// kStop: a stop token or string came. kLength: max_tokens or the end of the context. kInterrupted:
/// the caller wanted no more.
enum class FinishReason : std::uint8_t { kStop, kLength, kInterrupted };
std::string_view to_string(FinishReason reason);  // "stop", "length", "interrupted"

/// How to continue a text, and when to stop.
struct GenerateSpec {
  std::int64_t max_tokens = -1;  // -1: until a stop or the end of the context
  SampleSpec sample;             // the penalty looks at everything read and generated
  std::uint64_t seed = 0;
  /// Text that ends the answer: not part of it, also when it is split over tokens. Not empty,
  /// UTF-8. Of several, the one that is complete first counts; of those the longest.
  std::vector<std::string> stops;
  bool ignore_eos = false;  // stop tokens are tokens like any other
};

/// What was generated, and why it ended.
struct GenerateResult {
  std::string text;               // valid UTF-8, without the stop and without special tokens
  std::vector<std::int32_t> ids;  // all generated ids, the stop token not included
  FinishReason finish_reason = FinishReason::kLength;
};

struct AnswerEvents;  // answers.h

/// A model, its tokenizer and a cache: reads ids, then writes. The model must outlive it. Copies
/// share everything. Not for several threads at once.
class Session {
 public:
  /// With a contiguous cache for `context` tokens, and the stop tokens of the model's file.
  /// Throws ArgumentError when the model has a shorter context; OutOfMemory.
  Session(const model::Model& model, std::shared_ptr<const text::Tokenizer> tokenizer,
          std::int64_t context, DType kv);

  /// With a cache of any kind that holds the tokens `held`; its capacity is the context.
  Session(const model::Model& model, std::shared_ptr<const text::Tokenizer> tokenizer,
          std::unique_ptr<cache::KvCache> cache, std::vector<std::int32_t> stop_ids,
          std::vector<std::int32_t> held = {});

  /// A session that has read the same and goes its own way. Throws ArgumentError where the cache
  /// cannot be forked.
  Session fork() const;

  /// Reads ids into the cache, `chunk` (>= 1; at most what the model takes) at a time; of the first
  /// ones only what a cache that shares does not know already (KvCache::adopt). Pieces that a
  /// cache wants read a second time are (KvCache::reread_tokens). `progress` is called after each
  /// chunk with the tokens read, second readings included; when it stops, read returns false, and
  /// what was read stays. Throws ArgumentError when the context cannot hold the ids, with both
  /// counts, and nothing is read then; and for an id that the model does not know: the chunks
  /// before it stay read.
  bool read(std::span<const std::int32_t> ids, const Progress& progress = {},
            std::int64_t chunk = 256);

  /// Continues after what was read. What was read and what is generated together never exceed the
  /// context. `stream` is called after each token with the text that became certain by it, perhaps
  /// none: never a part of a stop, of a character, or of a special token. The same seed gives the
  /// same answer. Throws ArgumentError for a spec out of range, or when nothing has been read.
  GenerateResult generate(const GenerateSpec& spec, const Stream& stream = {});

  /// Logits after the last token, f32 [V]. Throws ArgumentError when nothing has been read.
  const Tensor& last_logits() const;

  /// Everything read and generated.
  std::span<const std::int32_t> ids() const;
  /// Holds all ids, except perhaps the last generated one, which is read when it is first needed.
  cache::KvCache& cache();
  std::int64_t context() const;

  /// Keeps the first `length` tokens. Throws ArgumentError when there are fewer.
  void truncate(std::int64_t length);

 private:
  friend std::vector<GenerateResult> answer_each(Session&,
                                                 std::span<const std::vector<std::int32_t>>,
                                                 const GenerateSpec&, const AnswerEvents&);
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// How likely a model finds a text.
struct Score {
  std::vector<double> nll;              // of token i+1 given the first i+1, natural logarithm
  double nll_mean = 0, perplexity = 0;  // NaN for fewer than two tokens
  Tensor logits_PV;                     // f32, at the positions asked for
};

/// Reads the ids and compares each with what the model expected there. Sums of exponentials are
/// doubles, added in the order of ids: the result does not depend on `chunk` or the number of
/// threads.
///
/// at        positions in [0, N) whose logits are kept, ascending
/// progress  as in Session::read; when it stops, the result covers what was read
///
/// Throws  ArgumentError for no ids, a wrong `at`, and as Session::read does.
/// Memory  the cache, logits of 64 positions at a time, and what is asked for: N + P · V numbers.
Score score(const model::Model& model, std::span<const std::int32_t> ids, DType kv,
            std::span<const std::int64_t> at, std::int64_t chunk = 256,
            const Progress& progress = {});

/// The same with an empty cache of any kind.
Score score(const model::Model& model, std::span<const std::int32_t> ids, cache::KvCache& cache,
            std::span<const std::int64_t> at, std::int64_t chunk = 256,
            const Progress& progress = {});

}  // namespace quire::generate

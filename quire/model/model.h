#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/cache/kv_cache.h"
#include "quire/cache/paged.h"
#include "quire/io/gguf.h"
#include "quire/ops/math/rope.h"
#include "quire/text/tokenizer.h"

namespace quire::model {

/// kExact: weights widened to f32 inside the tile, f32 activations, f32 cache by default. kFast:
/// int8 activations, f16 cache by default.
enum class Mode : std::uint8_t { kExact, kFast };

/// Sizes of a model, by the letters of docs/shapes.md (F: the hidden width of the feed-forward
/// layer).
struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // may be empty
  std::int64_t L = 0, D = 0, H = 0, G = 0, K = 0, U = 0, F = 0, V = 0;
  std::int64_t context = 0;  // the longest sequence it was trained for
  double norm_epsilon = 0;
  RopeSpec rope;
  bool tied_output = false;  // the embedding is the output matrix too
};

/// The bytes a model will take, before anything is loaded.
struct MemoryPlan {
  std::int64_t weights = 0, cache_per_token = 0, cache = 0, work = 0, total = 0;
  std::int64_t available =
      0;  // of this machine now (the smaller of free memory and a cgroup's limit)
};

/// What a model file says, without its weights: validated, so that loading can only fail on I/O or
/// memory.
class ModelFile {
 public:
  /// `path`: a .gguf file. Throws FormatError for anything that is not a supported model: the file,
  /// what was found, what is supported.
  static std::shared_ptr<const ModelFile> open(const std::string& path);

  const std::string& path() const { return gguf_.path(); }
  const io::GgufFile& gguf() const { return gguf_; }
  const ModelConfig& config() const { return config_; }
  std::int64_t parameters() const;  // numbers in all tensors
  text::TokenizerSpec tokenizer_spec() const;
  std::string chat_template() const;           // empty when it has none
  std::vector<std::int32_t> stop_ids() const;  // end of sequence, of turn, of message
  std::vector<cache::LayerSpec> cache_layers() const;
  /// For a contiguous cache of `context` tokens stored as `kv`.
  MemoryPlan plan(std::int64_t context, DType kv) const;

 private:
  explicit ModelFile(io::GgufFile gguf);
  io::GgufFile gguf_;
  ModelConfig config_;
};

/// The model architectures that this build runs: "llama".
std::vector<std::string> supported_architectures();

/// How to load a model.
struct LoadOptions {
  Mode mode = Mode::kFast;
  /// Called with the bytes of weights read so far and in all.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// A model with its weights, ready to run. One architecture is one file behind this interface.
class Model {
 public:
  virtual ~Model() = default;

  /// Throws FormatError, IoError, OutOfMemory.
  static std::unique_ptr<Model> load(std::shared_ptr<const ModelFile> file,
                                     const LoadOptions& options);

  virtual const ModelFile& file() const = 0;
  const ModelConfig& config() const { return file().config(); }
  virtual Mode mode() const = 0;
  virtual std::int64_t weight_bytes() const = 0;

  /// The default storage type of the cache in this mode: f32 (exact), f16 (fast).
  DType default_kv() const { return mode() == Mode::kExact ? DType::kF32 : DType::kF16; }
  /// A contiguous cache for up to `capacity` tokens. Throws ArgumentError beyond config().context,
  /// naming both numbers.
  std::unique_ptr<cache::KvCache> make_cache(std::int64_t capacity, DType kv) const;
  /// What a pool of pages for this model must know; the caller sets its budget, and its identity
  /// where prefixes outlive the process.
  cache::PagedSpec paged_spec(DType kv) const;

  /// Appends the ids to the cache and returns the final normed hidden states, f32 [N, D]. N is at
  /// most max_chunk(). The bits of a row do not depend on how the text was cut into calls. Throws
  /// ArgumentError for an id outside [0, V).
  virtual Tensor forward(std::span<const std::int32_t> ids, cache::KvCache& cache) const = 0;
  /// f32 [N, V] of rows of hidden states.
  virtual Tensor logits(const Tensor& hidden_ND) const = 0;
  std::int64_t max_chunk() const { return 256; }
};

}  // namespace quire::model

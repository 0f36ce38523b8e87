#include "quire/model/model.h"

#include <algorithm>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/model/available_memory.h"
#include "quire/model/gguf_weights.h"
#include "quire/model/llama.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::model {
namespace {

constexpr std::int64_t kPanelRows = 16;
// Code, tables, the tokenizer and what the allocator keeps, measured with small models.
constexpr std::int64_t kProgramBytes = 32 << 20;

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::int64_t padded_bytes(const io::GgufTensor& tensor) {
  if (tensor.shape.size() < 2 || tensor.shape[0] == 0)
    return static_cast<std::int64_t>(tensor.bytes);
  const std::int64_t rows = tensor.shape[0],
                     padded = (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
  return static_cast<std::int64_t>(tensor.bytes) / rows * padded;
}

std::vector<cache::LayerSpec> layers_of(const ModelConfig& c) {
  cache::LayerSpec layer{c.H, c.G, c.K, c.U, {}};
  layer.attention.alignment = Alignment::kBottomRight;
  // A cache of bf16 is chosen for what it saves: queries as exact as its keys are enough.
  layer.attention.query_rounding = QueryRounding::kLikePages;
  layer.rope = c.rope;
  return std::vector<cache::LayerSpec>(static_cast<std::size_t>(c.L), layer);
}

}  // namespace

std::vector<std::string> supported_architectures() { return {"llama"}; }

ModelFile::ModelFile(io::GgufFile gguf) : gguf_(std::move(gguf)) {
  const std::string architecture = gguf_.text("general.architecture");
  const std::vector<std::string> supported = supported_architectures();
  if (std::find(supported.begin(), supported.end(), architecture) == supported.end()) {
    throw FormatError(path(), concat("key general.architecture is '", architecture,
                                     "'; this version runs ", joined(supported)));
  }
  config_ = read_llama_config(gguf_);
}

std::shared_ptr<const ModelFile> ModelFile::open(const std::string& path) {
  return std::shared_ptr<const ModelFile>(new ModelFile(io::GgufFile(path)));
}

std::int64_t ModelFile::parameters() const {
  std::int64_t count = 0;
  for (const io::GgufTensor& tensor : gguf_.tensors()) {
    std::int64_t elements = 1;
    for (const std::int64_t size : tensor.shape) elements *= size;
    count += elements;
  }
  return count;
}

text::TokenizerSpec ModelFile::tokenizer_spec() const {
  const std::string ggml = "tokenizer.ggml.";
  text::TokenizerSpec spec;
  spec.source = path();
  spec.model = gguf_.text(ggml + "model");
  spec.pre = gguf_.text(ggml + "pre", "default");
  if (const auto* tokens = gguf_.texts(ggml + "tokens")) spec.tokens = *tokens;
  if (const auto* merges = gguf_.texts(ggml + "merges")) spec.merges = *merges;
  if (const auto* types = gguf_.integers(ggml + "token_type"))
    spec.types.assign(types->begin(), types->end());
  const auto id = [&](const char* key) {
    const std::int64_t value = gguf_.integer(ggml + key, -1);
    if (value < -1 || value >= config_.V) {
      throw FormatError(path(), concat("key ", ggml, key, " is ", value, ", but there are ",
                                       config_.V, " tokens"));
    }
    return static_cast<std::int32_t>(value);
  };
  spec.bos = id("bos_token_id");
  spec.eos = id("eos_token_id");
  spec.eot = id("eot_token_id");
  spec.unknown = id("unknown_token_id");
  spec.padding = id("padding_token_id");
  spec.add_bos = gguf_.boolean(ggml + "add_bos_token", false);
  spec.add_eos = gguf_.boolean(ggml + "add_eos_token", false);
  return spec;
}

std::string ModelFile::chat_template() const { return gguf_.text("tokenizer.chat_template", ""); }

std::vector<std::int32_t> ModelFile::stop_ids() const {
  std::vector<std::int32_t> ids;
  for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const std::int64_t id = gguf_.integer(concat("tokenizer.ggml.", key), -1);
    const bool seen = std::find(ids.begin(), ids.end(), id) != ids.end();
    if (id >= 0 && id < config_.V && !seen) ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

std::vector<cache::LayerSpec> ModelFile::cache_layers() const { return layers_of(config_); }

MemoryPlan ModelFile::plan(std::int64_t context, DType kv) const {
  const ModelConfig& c = config_;
  MemoryPlan plan;
  for (const io::GgufTensor& tensor : gguf_.tensors()) plan.weights += padded_bytes(tensor);
  plan.cache_per_token = c.L * kv_bytes_per_token(kv, c.G, c.K, c.U);
  plan.cache = plan.cache_per_token * context;
  // A chunk of tokens: the residual and its norm, queries, keys, values and their result, both
  // halves of the feed-forward layer; then one row of logits, and the file's form of the rows that
  // are being packed.
  constexpr std::int64_t kChunk = 256, kFloat = sizeof(float);
  const std::int64_t per_token = 4 * c.D + 2 * c.H * (c.K + c.U) + 3 * c.F;
  plan.work = std::min(context, kChunk) * per_token * kFloat + 2 * c.V * kFloat + kProgramBytes;
  plan.total = plan.weights + plan.cache + plan.work;
  plan.available = available_memory();
  return plan;
}

std::unique_ptr<Model> Model::load(std::shared_ptr<const ModelFile> file,
                                   const LoadOptions& options) {
  return load_llama(std::move(file), options);
}

std::unique_ptr<cache::KvCache> Model::make_cache(std::int64_t capacity, DType kv) const {
  const ModelConfig& c = config();
  QUIRE_CHECK(capacity >= 1 && capacity <= c.context, "a context of ", capacity,
              " tokens; this model was trained for at most ", c.context);
  return std::make_unique<cache::ContiguousCache>(layers_of(c), capacity, kv);
}

cache::PagedSpec Model::paged_spec(DType kv) const {
  cache::PagedSpec spec;
  spec.layers = layers_of(config());
  spec.kv = kv;
  spec.identity = concat(file().path(), mode() == Mode::kExact ? " exact" : " fast");
  return spec;
}

}  // namespace quire::model

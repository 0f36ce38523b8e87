#include "quire/model/llama.h"

#include <utility>
#include <vector>

#include "quire/base/error.h"
#include "quire/model/gguf_weights.h"
#include "quire/nn/cached_attention.h"
#include "quire/nn/feed_forward.h"
#include "quire/ops/math/elementwise.h"
#include "quire/ops/math/rms_norm.h"
#include "quire/ops/matmul/embedding.h"

namespace quire::model {
namespace {

struct Block {
  Tensor attention_norm_D, feed_forward_norm_D;
  nn::CachedAttention attention;
  nn::FeedForward feed_forward;
};

class Llama : public Model {
 public:
  Llama(std::shared_ptr<const ModelFile> file, const LoadOptions& options)
      : file_(std::move(file)), mode_(options.mode), rope_(file_->config().rope) {
    WeightReader reader(file_->gguf(), options.progress);
    embedding_ = reader.matrix("token_embd.weight");
    for (std::int64_t layer = 0; layer < config().L; ++layer)
      blocks_.push_back(read_block(reader, concat("blk.", layer, ".")));
    norm_D_ = reader.vector("output_norm.weight");
    output_ = config().tied_output ? embedding_ : reader.matrix("output.weight");
    weight_bytes_ = reader.bytes();
  }

  const ModelFile& file() const override { return *file_; }
  Mode mode() const override { return mode_; }
  std::int64_t weight_bytes() const override { return weight_bytes_; }

  Tensor forward(std::span<const std::int32_t> ids, cache::KvCache& cache) const override {
    QUIRE_CHECK(static_cast<std::int64_t>(ids.size()) <= max_chunk(), "forward: ", ids.size(),
                " tokens at once; at most ", max_chunk());
    const MatmulMode mode = mode_ == Mode::kExact ? MatmulMode::kExact : MatmulMode::kFast;
    const double epsilon = config().norm_epsilon;
    cache.begin_step(ids);
    Tensor x_ND = embedding(ids, embedding_);
    for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
      const Block& block = blocks_[layer];
      add_(x_ND,
           nn::cached_attention(rms_norm(x_ND, block.attention_norm_D, epsilon), block.attention,
                                rope_, config().G, cache, static_cast<std::int64_t>(layer), mode));
      add_(x_ND, nn::feed_forward(rms_norm(x_ND, block.feed_forward_norm_D, epsilon),
                                  block.feed_forward, mode));
    }
    cache.advance(static_cast<std::int64_t>(ids.size()));
    return rms_norm(x_ND, norm_D_, epsilon);
  }

  Tensor logits(const Tensor& hidden_ND) const override {
    // The head costs most of fast mode's error when its input is rounded to one int8 term, and in
    // decoding it waits for memory anyway.
    return matmul(hidden_ND, output_,
                  mode_ == Mode::kExact ? MatmulMode::kExact : MatmulMode::kFastTwoTerm);
  }

 private:
  static Block read_block(WeightReader& reader, const std::string& blk) {
    Block block;
    block.attention_norm_D = reader.vector(blk + "attn_norm.weight");
    block.attention.q = reader.matrix(blk + "attn_q.weight");
    block.attention.k = reader.matrix(blk + "attn_k.weight");
    block.attention.v = reader.matrix(blk + "attn_v.weight");
    block.attention.output = reader.matrix(blk + "attn_output.weight");
    block.feed_forward_norm_D = reader.vector(blk + "ffn_norm.weight");
    block.feed_forward.gate = reader.matrix(blk + "ffn_gate.weight");
    block.feed_forward.up = reader.matrix(blk + "ffn_up.weight");
    block.feed_forward.down = reader.matrix(blk + "ffn_down.weight");
    return block;
  }

  std::shared_ptr<const ModelFile> file_;
  Mode mode_;
  RopeTable rope_;
  Weight embedding_, output_;
  std::vector<Block> blocks_;
  Tensor norm_D_;
  std::int64_t weight_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Model> load_llama(std::shared_ptr<const ModelFile> file,
                                  const LoadOptions& options) {
  return std::make_unique<Llama>(std::move(file), options);
}

}  // namespace quire::model

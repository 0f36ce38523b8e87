#include "quire/cache/policies/clustered.h"
#include "quire/cache/policies/policies.h"

namespace quire::cache {
namespace {

class RetroInfer : public Clustered {
 public:
  explicit RetroInfer(const RetroInferParameters& p)
      : Clustered({p.sinks,
                   p.recent,
                   {.segment = p.segment,
                    .tokens_per_cluster = p.tokens_per_cluster,
                    .iterations = p.iterations},
                   p.estimated,
                   false,
                   p.dense_layers}) {}
  std::string_view name() const override { return "retroinfer"; }
};

}  // namespace

std::unique_ptr<Policy> retroinfer_policy(const RetroInferParameters& parameters) {
  return std::make_unique<RetroInfer>(parameters);
}

}  // namespace quire::cache

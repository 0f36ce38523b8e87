#include "quire/ops/attention/attention_backward.h"

#include "quire/base/error.h"

namespace quire {

void attention_backward(AttentionGradients&, const Tensor&, const Tensor&, const Tensor&,
                        const Tensor&, const KvView&, const AttentionSpec&,
                        const AttentionResult&) {
  throw ArgumentError("attention_backward is not built yet");
}

}  // namespace quire

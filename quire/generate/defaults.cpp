// What takes its defaults from the model's file, apart from the rest: the loops themselves need
// only the interfaces of a model and a cache.

#include <algorithm>

#include "quire/generate/session.h"

namespace quire::generate {

Session::Session(const model::Model& model, std::shared_ptr<const text::Tokenizer> tokenizer,
                 std::int64_t context, DType kv)
    : Session(model, std::move(tokenizer), model.make_cache(context, kv), model.file().stop_ids()) {
}

Score score(const model::Model& model, std::span<const std::int32_t> ids, DType kv,
            std::span<const std::int64_t> at, std::int64_t chunk, const Progress& progress) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const auto cache = model.make_cache(std::max<std::int64_t>(tokens, 1), kv);
  return score(model, ids, *cache, at, chunk, progress);
}

}  // namespace quire::generate

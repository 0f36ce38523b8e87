#include "quire/model/reread.h"

#include <algorithm>

namespace quire::model {

std::int64_t until_reread(const cache::KvCache& cache, std::int64_t tokens) {
  const std::int64_t piece = cache.reread_tokens();
  return piece > 0 ? std::min(tokens, piece - cache.length() % piece) : tokens;
}

std::span<const std::int32_t> piece_to_reread(const cache::KvCache& cache,
                                              std::span<const std::int32_t> ids, bool ends) {
  const std::int64_t piece = cache.reread_tokens(), length = std::ssize(ids);
  if (piece == 0 || length == 0 || (length % piece != 0 && !ends)) return {};
  return ids.last(static_cast<std::size_t>((length - 1) % piece + 1));
}

bool reread(const Model& model, std::span<const std::int32_t> piece, cache::KvCache& cache,
            const std::function<bool(std::int64_t done)>& progress) {
  if (piece.empty()) return true;
  const std::int64_t room = std::min(cache.capacity(), model.config().context) - cache.length(),
                     end = std::min<std::int64_t>(std::ssize(piece), room);
  if (end <= 0) return true;
  // Whatever happens, the copy goes.
  struct Ends {
    cache::KvCache& cache;
    ~Ends() { cache.end_reread(); }
  };
  cache.begin_reread();
  const Ends ends{cache};
  for (std::int64_t begin = 0; begin < end; begin += model.max_chunk()) {
    const std::int64_t count = std::min(model.max_chunk(), end - begin);
    static_cast<void>(model.forward(
        piece.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)), cache));
    if (progress && !progress(begin + count)) return false;
  }
  return true;
}

}  // namespace quire::model

#include "quire/model/identity.h"

#include <algorithm>
#include <vector>

#include "quire/base/file_ops.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/hash.h"

namespace quire::model {
namespace {

constexpr std::uint64_t kPiece = 1 << 20;

}  // namespace

std::string model_identity(const ModelFile& file, Mode mode) {
  const auto bytes = file_ops().open(file.path());
  const std::uint64_t size = bytes->size(), pieces = (size + kPiece - 1) / kPiece;
  // The sums of the pieces, in order, and then their sum: the same whoever reads which.
  std::vector<cache::Hash128> sums(pieces);
  thread_pool().run(static_cast<std::int64_t>(pieces), [&](std::int64_t i) {
    const std::uint64_t begin = static_cast<std::uint64_t>(i) * kPiece;
    thread_local std::vector<std::byte> piece;
    piece.resize(std::min(kPiece, size - begin));
    bytes->read_at(begin, piece);
    sums[static_cast<std::size_t>(i)] = cache::checksum(piece);
  });
  return to_text(cache::checksum(std::as_bytes(std::span(sums)))) +
         (mode == Mode::kExact ? " exact" : " fast");
}

}  // namespace quire::model

#include <algorithm>
#include <cstdint>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/attention/attention_kernel.h"
#include "quire/ops/attention/attention_mass_kernel.h"
#include "quire/ops/attention/page_table.h"
#include "quire/ops/attention/visible.h"

namespace quire::kernel {
namespace {

/// The keys of one sequence and kv head, by chunks.
struct Keys {
  std::int64_t b, g, first, length, first_chunk, offset;
};

struct Piece {
  std::size_t keys;
  std::int64_t chunk;
};

}  // namespace

void attention_mass_cpu(const AttentionMass& args) {
  std::vector<Keys> all;
  std::vector<Piece> pieces;
  for (std::int64_t b = 0; b < args.B; ++b) {
    for (std::int64_t g = 0; g < args.kv.G; ++g) {
      const std::int64_t first = view_first(args.kv, b, g), length = view_length(args.kv, b, g);
      if (length == 0 || args.start_J[b] == args.start_J[b + 1]) continue;
      const std::int64_t first_chunk = first / kChunkKeys,
                         end_chunk = (first + length + kChunkKeys - 1) / kChunkKeys;
      all.push_back({b, g, first, length, first_chunk,
                     static_cast<std::int64_t>(pieces.size()) * kChunkKeys});
      for (std::int64_t chunk = first_chunk; chunk < end_chunk; ++chunk)
        pieces.push_back({all.size() - 1, chunk});
    }
  }
  std::vector<float> mass(pieces.size() * static_cast<std::size_t>(kChunkKeys));
  thread_pool().run(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(kTileKeys * (args.kv.K + 3)));
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    const Keys& keys = all[piece.keys];
    QUIRE_FOR_ISA(attention_mass_chunk)
    (args, keys.b, keys.g, piece.chunk, mass.data() + i * kChunkKeys, scratch.data());
  });
  // A page may be in several tables: sequences are added in order.
  for (const Keys& keys : all) {
    const float* from = mass.data() + keys.offset + keys.first - keys.first_chunk * kChunkKeys;
    for (std::int64_t s = 0; s < keys.length; ++s) {
      const std::int64_t page = page_at(args.kv, keys.b, keys.g, s / args.kv.Z);
      float& to = args.mass_PZG[(page * args.kv.Z + s % args.kv.Z) * args.kv.G + keys.g];
      to = args.largest ? std::max(to, from[s]) : to + from[s];
    }
  }
}

}  // namespace quire::kernel

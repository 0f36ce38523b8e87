#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "quire/base/thread_pool.h"
#include "quire/ops/search/listed_attention_kernel.h"

namespace quire::kernel {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

struct Piece {
  std::int64_t part, g, first, n;
};

SoftmaxState state_at(float* memory, std::int64_t rows, std::int64_t width) {
  return {memory + rows * width, memory + rows * (width + 1), memory};
}

/// Partial results [begin, end) of one list and kv head become out and lse.
void finish(const ListedAttention& a, const ListedPart& part, std::int64_t g,
            std::span<float> states, std::int64_t step) {
  const std::int64_t group = a.H / a.G, width = (a.U + 15) / 16 * 16;
  std::vector<float> total(static_cast<std::size_t>(step), 0.0f);
  const SoftmaxState sum = state_at(total.data(), group, width);
  std::fill_n(sum.max_R, group, kNone);
  for (std::size_t at = 0; at < states.size(); at += static_cast<std::size_t>(step))
    QUIRE_FOR_ISA(merge_states)(sum, state_at(states.data() + at, group, width), group, width);
  for (std::int64_t r = 0; r < group; ++r) {
    const std::int64_t h = g * group + r;
    const SoftmaxState row{sum.max_R + r, sum.sum_R + r, sum.out_RU + r * width};
    if (part.sink_H != nullptr && part.sink_H[h] != kNone) {
      std::vector<float> nothing(static_cast<std::size_t>(width), 0.0f);
      float sink = part.sink_H[h], one = 1.0f;
      QUIRE_FOR_ISA(merge_states)(row, {&sink, &one, nothing.data()}, 1, width);
    }
    QUIRE_FOR_ISA(finish_row)(row.out_RU, *row.sum_R, a.U, part.out_HU + h * a.U);
    part.lse_H[h] = *row.sum_R == 0.0f
                        ? kNone
                        : static_cast<float>(static_cast<double>(*row.max_R) +
                                             std::log(static_cast<double>(*row.sum_R)));
  }
}

}  // namespace

void listed_attention_cpu(const ListedAttention& args) {
  const std::int64_t group = args.H / args.G, width = (args.U + 15) / 16 * 16;
  const std::int64_t step = group * (width + 2);
  std::vector<Piece> pieces;
  std::vector<std::size_t> begin;  // of each list and kv head, in pieces
  for (std::int64_t p = 0; p < args.count; ++p) {
    for (std::int64_t g = 0; g < args.G; ++g) {
      begin.push_back(pieces.size());
      const std::int64_t length = args.parts[p].length_G[g];
      for (std::int64_t first = 0; first < length; first += kListedKeys)
        pieces.push_back({p, g, first, std::min(kListedKeys, length - first)});
    }
  }
  begin.push_back(pieces.size());
  std::vector<float> states(pieces.size() * static_cast<std::size_t>(step));
  const auto chunk = QUIRE_FOR_ISA(listed_chunk);
  thread_pool().run(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<std::size_t>(group * kListedKeys + listed_row_floats(args)));
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    chunk(args, args.parts[piece.part], piece.g, piece.first, piece.n,
          state_at(states.data() + i * step, group, width), scratch.data());
  });
  for (std::size_t i = 0; i + 1 < begin.size(); ++i) {
    const auto p = static_cast<std::int64_t>(i) / args.G, g = static_cast<std::int64_t>(i) % args.G;
    finish(args, args.parts[p], g,
           std::span(states).subspan(begin[i] * static_cast<std::size_t>(step),
                                     (begin[i + 1] - begin[i]) * static_cast<std::size_t>(step)),
           step);
  }
}

}  // namespace quire::kernel

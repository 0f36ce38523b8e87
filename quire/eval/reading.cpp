#include "quire/eval/reading.h"

#include <algorithm>
#include <cstring>

#include "quire/base/error.h"
#include "quire/model/reread.h"

namespace quire::eval {

std::optional<Reading> read_text(const model::Model& model, std::span<const std::int32_t> ids,
                                 std::int64_t positions, DType kv, std::int64_t queries_from,
                                 const Progress& progress, std::int64_t reread) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  QUIRE_CHECK(positions >= 1, "positions is ", positions, "; it must be at least 1");
  QUIRE_CHECK(tokens >= positions + 2, "the text has ", tokens, " tokens; ", positions,
              " positions need at least ", positions + 2);
  QUIRE_CHECK(tokens - 1 <= model.config().context, "the text has ", tokens,
              " tokens, but this model's context is ", model.config().context);
  Reading out;
  out.ids.assign(ids.begin(), ids.end());
  out.document = tokens - 1 - positions;
  out.positions = positions;
  QUIRE_CHECK(queries_from >= 0 && queries_from <= out.document, "queries_from is ", queries_from,
              ", but the document has ", out.document, " tokens");
  out.recording = std::make_unique<RecordingCache>(model.paged_spec(kv).layers, tokens - 1, kv,
                                                   queries_from, reread);
  std::int64_t again = 0;  // tokens that were read a second time
  for (std::int64_t begin = 0; begin < tokens - 1;) {
    // A chunk ends where the document ends: what stands behind it is kept.
    const std::int64_t border = begin < out.document ? out.document : tokens - 1;
    std::int64_t end = std::min(border, begin + model.max_chunk());
    if (begin < out.document) end = begin + model::until_reread(*out.recording, end - begin);
    const Tensor hidden_ND = model.forward(
        ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
        *out.recording);
    if (begin >= out.document) {
      if (begin == out.document)
        out.hidden_ND = Tensor::empty({positions, hidden_ND.size(1)}, DType::kF32);
      std::memcpy(out.hidden_ND.mutable_data<float>() + (begin - out.document) * hidden_ND.size(1),
                  hidden_ND.data<float>(), static_cast<std::size_t>(hidden_ND.bytes()));
    }
    begin = end;
    if (progress && !progress(end + again)) return std::nullopt;
    if (end > out.document) continue;
    const auto piece = model::piece_to_reread(
        *out.recording, ids.first(static_cast<std::size_t>(end)), end == out.document);
    const Progress show = [&](std::int64_t done) {
      return !progress || progress(end + again + done);
    };
    if (!model::reread(model, piece, *out.recording, show)) return std::nullopt;
    again += std::ssize(piece);
  }
  return out;
}

}  // namespace quire::eval

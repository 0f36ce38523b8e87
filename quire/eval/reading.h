#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/eval/recording.h"
#include "quire/model/model.h"

namespace quire::eval {

/// Called with the number of tokens done; it returns false to stop.
using Progress = std::function<bool(std::int64_t done)>;

/// A text that was read once, exactly: its first `document` tokens, and `positions` tokens behind
/// them at which caches are compared; the text has one token more, which the last position
/// foretells.
struct Reading {
  std::vector<std::int32_t> ids;
  std::int64_t document = 0, positions = 0;
  std::unique_ptr<RecordingCache> recording;  // of document + positions tokens
  Tensor hidden_ND;                           // of the positions: what the full cache says there
};

/// Reads ids into a full cache, and pieces of the document of `reread` tokens twice (0: none).
/// `progress` counts both. Throws ArgumentError when fewer than one token would be left as the
/// document, or the text is longer than the model's context, with both numbers; as the model does.
/// Nothing when `progress` stopped it.
///
/// positions     at least 1
/// queries_from  the first token whose queries are recorded, at most the document's end
std::optional<Reading> read_text(const model::Model& model, std::span<const std::int32_t> ids,
                                 std::int64_t positions, DType kv, std::int64_t queries_from,
                                 const Progress& progress = {}, std::int64_t reread = 0);

}  // namespace quire::eval

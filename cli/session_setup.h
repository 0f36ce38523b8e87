#pragma once

#include <memory>

#include "cli/common.h"
#include "cli/figures.h"
#include "quire/base/json.h"
#include "quire/generate/session.h"
#include "quire/model/model.h"

namespace quire::cli {

/// The context that --context asks for, else the model's. Throws ArgumentError beyond the model's,
/// with both numbers.
std::int64_t context_of(const Common& common, const model::ModelFile& file);

/// Throws ArgumentError with both counts when a prompt does not fit the context: before any weight
/// is loaded, and never cut short.
void check_prompt(std::int64_t prompt_tokens, std::int64_t context);

/// Throws OutOfMemory with the numbers, and the option that would help, when the weights and a
/// cache of `tokens` need more memory than there is. Of the cache at most `cache_ram` bytes count
/// (0: all of it).
void check_fits(const model::ModelFile& file, std::int64_t tokens, DType kv,
                std::int64_t cache_ram = 0);
/// The plan of so many tokens with that limit.
model::MemoryPlan limited_plan(const model::ModelFile& file, std::int64_t tokens, DType kv,
                               std::int64_t cache_ram);

/// A model with its weights, and how long they took.
struct Loaded {
  std::unique_ptr<model::Model> model;
  double seconds = 0;
};
Loaded load_model(const std::shared_ptr<const model::ModelFile>& file, const Common& common);

/// Weights, cache and peak memory, as `bytes` of docs/json.md.
Json bytes_json(std::int64_t weights, std::int64_t cache);

/// Whether a closing table is wanted, and whether a progress line is.
bool wants_table(const Common& common);
bool wants_progress(const Common& common);

/// Reads ids behind a progress line; false when a signal stopped it.
bool read_with_progress(generate::Session& session, std::span<const std::int32_t> ids,
                        const Common& common);

}  // namespace quire::cli

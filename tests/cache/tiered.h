#pragma once

// Pools of which only a part is in memory, and caches that read only a part.

#include <memory>
#include <string>
#include <vector>

#include "quire/cache/paged.h"
#include "quire/cache/tiered.h"
#include "tests/cache/steps.h"
#include "tests/support/folder.h"

namespace quire::cache::test {

using quire::test::Folder;

/// A pool's sizes without a limit.
inline PagedSpec spec_of(const std::vector<LayerSpec>& layers, std::int64_t budget,
                         std::int64_t page = 16, DType kv = DType::kF32) {
  PagedSpec spec;
  spec.layers = layers;
  spec.kv = kv;
  spec.budget_tokens = budget;
  spec.page_tokens = page;
  spec.identity = "a model";
  return spec;
}

/// The smallest limit there is, and `more` frames (pages of a layer).
inline PagedSpec limited(PagedSpec spec, const std::string& folder, std::int64_t more = 0) {
  const std::int64_t pages = (spec.budget_tokens + spec.page_tokens - 1) / spec.page_tokens;
  const std::int64_t least = least_ram_bytes(spec);
  spec.memory.ram_bytes = least + more * (least / (2 * pages));
  spec.memory.folder = folder;
  return spec;
}

inline std::shared_ptr<PagedPool> limited_pool(const std::vector<LayerSpec>& layers,
                                               std::int64_t budget, const std::string& folder,
                                               std::int64_t page = 16, DType kv = DType::kF32,
                                               std::int64_t more = 0) {
  return std::make_shared<PagedPool>(limited(spec_of(layers, budget, page, kv), folder, more));
}

/// Zones that a few hundred tokens fill.
inline TieredSpec small_zones(const SearchBudget& budget) {
  TieredSpec spec;
  spec.budget = budget;
  spec.recent = 32;
  spec.staging = 64;
  return spec;
}

}  // namespace quire::cache::test

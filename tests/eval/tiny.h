#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/cache/contiguous.h"
#include "quire/cache/policies/policies.h"
#include "quire/eval/candidate.h"
#include "quire/model/model.h"
#include "quire/tensor/rng.h"

namespace quire::test {

/// Two layers, four query heads on two key heads, a context of 256.
inline std::unique_ptr<model::Model> tiny_llama() {
  return model::Model::load(
      model::ModelFile::open(QUIRE_SOURCE_DIR "/tests/goldens/tiny/llama.gguf"),
      {model::Mode::kExact, {}});
}

inline std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t V,
                                            std::uint64_t seed = 1) {
  Rng rng(seed);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(V))));
  return ids;
}

/// A policy by its name with a budget in tokens, on f32.
inline eval::Candidate policy(const model::Model& model, const std::string& name,
                              std::int64_t tokens) {
  return {name, std::to_string(tokens),
          [&model, name, tokens](std::int64_t, std::int64_t capacity) {
            return cache::make_policy_cache(name, {.tokens = tokens, .fraction = 1},
                                            model.paged_spec(DType::kF32).layers, capacity,
                                            DType::kF32);
          }};
}

/// The ordinary cache.
inline eval::Candidate contiguous(const model::Model& model) {
  return {"full", "", [&model](std::int64_t, std::int64_t capacity) {
            return model.make_cache(capacity, DType::kF32);
          }};
}

}  // namespace quire::test

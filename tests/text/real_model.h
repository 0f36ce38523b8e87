#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "quire/base/error.h"
#include "quire/io/gguf.h"
#include "quire/text/tokenizer.h"

namespace quire::test {

/// Where the real model lies; throws with advice when it does not.
inline std::string real_model_path() {
  const char* named = std::getenv("QUIRE_MODEL");
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::string path = named != nullptr ? named
                     : cache != nullptr
                         ? std::string(cache) + "/quire/models/SmolLM2-135M-Instruct.Q4_1.gguf"
                         : std::string(home != nullptr ? home : "") +
                               "/.cache/quire/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) {
    throw Error(concat(path, " is absent: run scripts/fetch_model smollm2, or set QUIRE_MODEL"));
  }
  return path;
}

/// The tokenizer of the real model, read once.
inline const text::Tokenizer& real_tokenizer() {
  static const std::shared_ptr<const text::Tokenizer> tokenizer = [] {
    const io::GgufFile file(real_model_path());
    text::TokenizerSpec spec;
    spec.source = file.path();
    spec.model = file.text("tokenizer.ggml.model");
    spec.pre = file.text("tokenizer.ggml.pre");
    spec.tokens = *file.texts("tokenizer.ggml.tokens");
    spec.merges = *file.texts("tokenizer.ggml.merges");
    for (const std::int64_t type : *file.integers("tokenizer.ggml.token_type")) {
      spec.types.push_back(static_cast<std::int32_t>(type));
    }
    spec.bos = static_cast<std::int32_t>(file.integer("tokenizer.ggml.bos_token_id"));
    spec.eos = static_cast<std::int32_t>(file.integer("tokenizer.ggml.eos_token_id"));
    spec.unknown = static_cast<std::int32_t>(file.integer("tokenizer.ggml.unknown_token_id"));
    return text::Tokenizer::make(std::move(spec));
  }();
  return *tokenizer;
}

}  // namespace quire::test

#pragma once

#include <memory>
#include <string>

#include "quire/io/gguf.h"
#include "quire/text/tokenizer.h"
#include "tests/support/real_model.h"

namespace quire::test {

/// The tokenizer of the real model, read once.
inline const text::Tokenizer& real_tokenizer() {
  static const std::shared_ptr<const text::Tokenizer> tokenizer = [] {
    const io::GgufFile file(real_model());
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

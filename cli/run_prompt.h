#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quire/cache/saved.h"
#include "quire/model/model.h"
#include "quire/text/tokenizer.h"

namespace quire::cli {

/// What `run` reads.
struct Sources {
  std::optional<std::string> prompt, system, ids, questions;
  std::vector<std::string> files;
  bool raw = false;
};

/// Throws ArgumentError when they contradict each other, or there is nothing to read. `loads`: a
/// saved cache stands in for the files.
void check(const Sources& sources, bool loads);

/// Token ids of one prompt, or of one for each question.
struct Prompts {
  std::vector<std::string> questions;  // empty without --questions
  std::vector<std::vector<std::int32_t>> ids;
  std::int64_t document_tokens = 0;  // leading ids that end with the last file
  std::shared_ptr<const text::Tokenizer> tokenizer;
};

/// Reads the files. `saved` may be null; it stands for the files where there are none. Throws
/// FormatError, IoError; ArgumentError when the saved cache was made with another template or
/// system message.
Prompts make_prompts(const Sources& sources, const model::ModelFile& file,
                     const cache::SavedCache* saved);

/// The leading ids that all prompts have in common, leaving at least one to each.
std::int64_t common_tokens(const Prompts& prompts);

}  // namespace quire::cli

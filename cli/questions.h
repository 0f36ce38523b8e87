#pragma once

#include <cstdint>

#include "cli/run_prompt.h"
#include "quire/generate/session.h"

namespace quire::cli {

/// What answering several questions came to.
struct Written {
  std::int64_t asked = 0, generated = 0;  // tokens of the questions behind what they share; written
  std::int64_t cache_bytes = 0;           // most at once
};

/// Answers every question about the document, whose `common` leading tokens the session holds, from
/// forks of it or in turn (generate::answer_each). Prints each question with its answer in order,
/// the first one as it comes; with `json` an object a line for each. A signal stops all.
Written write_answers(generate::Session& document, const Prompts& prompts, std::int64_t common,
                      const generate::GenerateSpec& spec, bool json);

}  // namespace quire::cli

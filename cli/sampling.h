#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "quire/generate/session.h"
#include "quire/model/model.h"

namespace quire::cli {

/// How `run` and `chat` write.
struct Sampling {
  std::optional<std::int64_t> max_tokens, top_k;
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::uint64_t seed = 0;
  std::vector<std::string> stops;
  bool ignore_eos = false;
};

void add_sampling(Options& options, Sampling& sampling);

/// What was asked for, else what the model's file says (general.sampling.*), else greedy.
/// Throws ArgumentError; FormatError for a value of the file that is out of range.
generate::GenerateSpec generate_spec(const Sampling& sampling, const model::ModelFile& file);

}  // namespace quire::cli

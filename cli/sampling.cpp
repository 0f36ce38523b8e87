#include "cli/sampling.h"

#include <limits>

#include "quire/base/error.h"

namespace quire::cli {
namespace {

constexpr double kAnyNumber = std::numeric_limits<double>::max();
constexpr std::int64_t kAnyInteger = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kMostStops = 64, kLongestStop = 1024;

/// Source: the keys that llama.cpp's converter writes from a model's generation_config.json.
SampleSpec of_file(const model::ModelFile& file) {
  const io::GgufFile& gguf = file.gguf();
  SampleSpec spec;
  spec.temperature = gguf.number("general.sampling.temp", 0);
  spec.top_k = gguf.integer("general.sampling.top_k", 0);
  spec.top_p = gguf.number("general.sampling.top_p", 1);
  spec.min_p = gguf.number("general.sampling.min_p", 0);
  spec.repeat_penalty = gguf.number("general.sampling.penalty_repeat", 1);
  try {
    check(spec);
  } catch (const ArgumentError& error) {
    throw FormatError(file.path(), concat("general.sampling: ", error.what()));
  }
  return spec;
}

}  // namespace

void add_sampling(Options& options, Sampling& sampling) {
  options.group("Writing");
  options.integer("--max-tokens", sampling.max_tokens, {0, kAnyInteger},
                  "Tokens to write [until a stop or the context's end]", Suffix::kSize);
  options.number("--temperature", sampling.temperature, {0, kAnyNumber},
                 "0: the likeliest token [the model's, else 0]");
  options.integer("--top-k", sampling.top_k, {0, kAnyInteger}, "Of the K likeliest; 0: of all");
  options.number("--top-p", sampling.top_p, {0, 1, true}, "Of those that hold X together");
  options.number("--min-p", sampling.min_p, {0, 1}, "Of those at least X as likely as the first");
  options.number("--repeat-penalty", sampling.repeat_penalty, {0, kAnyNumber, true},
                 "Above 1: against repetition");
  options.seed("--seed", sampling.seed, "Of the random numbers [0]");
  options.texts("--stop", "S", sampling.stops, "Text that ends the answer; may be repeated");
  options.flag("--ignore-eos", sampling.ignore_eos, "Do not stop at the end token");
}

generate::GenerateSpec generate_spec(const Sampling& sampling, const model::ModelFile& file) {
  QUIRE_CHECK(sampling.stops.size() <= kMostStops, "--stop is given ", sampling.stops.size(),
              " times; at most ", kMostStops);
  for (const std::string& stop : sampling.stops) {
    QUIRE_CHECK(!stop.empty() && stop.size() <= kLongestStop, "--stop has ", stop.size(),
                " bytes; it must have 1 to ", kLongestStop);
  }
  generate::GenerateSpec spec;
  spec.sample = of_file(file);
  spec.max_tokens = sampling.max_tokens.value_or(-1);
  spec.sample.temperature = sampling.temperature.value_or(spec.sample.temperature);
  spec.sample.top_k = sampling.top_k.value_or(spec.sample.top_k);
  spec.sample.top_p = sampling.top_p.value_or(spec.sample.top_p);
  spec.sample.min_p = sampling.min_p.value_or(spec.sample.min_p);
  spec.sample.repeat_penalty = sampling.repeat_penalty.value_or(spec.sample.repeat_penalty);
  spec.seed = sampling.seed;
  spec.stops = sampling.stops;
  spec.ignore_eos = sampling.ignore_eos;
  return spec;
}

}  // namespace quire::cli

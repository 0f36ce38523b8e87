#include "cli/common.h"

#include <array>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostThreads = 1024;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;
constexpr std::array<std::pair<const char*, DType>, 4> kKvTypes{
    {{"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}, {"i8", DType::kI8}}};

}  // namespace

void add_output(Options& options, Common& common) {
  options.group("Output");
  options.flag("--json", common.json, "Print one JSON object (docs/json.md)");
  options.flag("--quiet", common.quiet, "No progress, no table");
  options.flag("--verbose", common.verbose, "The table also when no terminal is there to see it");
}

void add_compute(Options& options, Common& common) {
  options.group("Computation");
  options.choice("--mode", common.mode, {"exact", "fast"},
                 concat("f32 or int8 activations [", common.mode, "]"));
  options.integer("--threads", common.threads, {1, kMostThreads}, "Threads [all cores]");
}

void add_cache(Options& options, Common& common) {
  options.integer("--context", common.context, {1, kMostTokens}, "Tokens [the model's context]",
                  Suffix::kSize);
  options.text("--kv", "f32|bf16|f16|i8", common.kv, "Type of the cache [f32 exact, f16 fast]");
}

void apply(const Common& common) {
  if (common.threads) set_threads(static_cast<int>(*common.threads));
}

model::Mode mode(const Common& common) {
  return common.mode == "exact" ? model::Mode::kExact : model::Mode::kFast;
}

DType kv_type(const Common& common) {
  if (!common.kv) return mode(common) == model::Mode::kExact ? DType::kF32 : DType::kF16;
  for (const auto& [name, type] : kKvTypes) {
    if (*common.kv == name) return type;
  }
  throw ArgumentError("--kv is '" + *common.kv + "'; in this version: f32, bf16, f16, i8");
}

std::string kv_name(DType kv) {
  for (const auto& [name, type] : kKvTypes) {
    if (kv == type) return name;
  }
  return "?";
}

}  // namespace quire::cli

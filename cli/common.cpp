#include "cli/common.h"

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostThreads = 1024;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

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
  add_kv(options, common);
}

void add_kv(Options& options, Common& common) {
  std::string unit;
  for (const DType type : kKvForms) {
    if (!unit.empty()) unit += '|';
    unit += to_string(type);
  }
  options.text("--kv", unit, common.kv, "Type of the cache [f32 exact, f16 fast]");
}

void apply(const Common& common) {
  if (common.threads) set_threads(static_cast<int>(*common.threads));
}

model::Mode mode(const Common& common) {
  return common.mode == "exact" ? model::Mode::kExact : model::Mode::kFast;
}

DType kv_type(const Common& common) {
  if (!common.kv) return mode(common) == model::Mode::kExact ? DType::kF32 : DType::kF16;
  for (const DType type : kKvForms) {
    if (*common.kv == to_string(type)) return type;
  }
  throw ArgumentError(concat("--kv is '", *common.kv, "'; in this version: ", kv_formats()));
}

std::string kv_name(DType kv) { return std::string(to_string(kv)); }

}  // namespace quire::cli

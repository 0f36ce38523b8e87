#include "cli/session_setup.h"

#include <fmt/format.h>

#include "cli/output.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "quire/base/error.h"

namespace quire::cli {

std::int64_t context_of(const Common& common, const model::ModelFile& file) {
  const std::int64_t context = common.context.value_or(file.config().context);
  QUIRE_CHECK(context <= file.config().context, "--context is ", context,
              "; this model's context is ", file.config().context);
  return context;
}

void check_prompt(std::int64_t prompt_tokens, std::int64_t context) {
  QUIRE_CHECK(prompt_tokens <= context, "the prompt has ", prompt_tokens,
              " tokens, the context has room for ", context);
  QUIRE_CHECK(prompt_tokens > 0, "the prompt is empty; give a PROMPT, --file or --ids");
}

model::MemoryPlan limited_plan(const model::ModelFile& file, std::int64_t tokens, DType kv,
                               std::int64_t cache_ram) {
  model::MemoryPlan plan = file.plan(tokens, kv);
  if (cache_ram > 0 && plan.cache > cache_ram) {
    plan.total -= plan.cache - cache_ram;
    plan.cache = cache_ram;
  }
  return plan;
}

void check_fits(const model::ModelFile& file, std::int64_t tokens, DType kv,
                std::int64_t cache_ram) {
  const model::MemoryPlan plan = limited_plan(file, tokens, kv, cache_ram);
  if (plan.available <= 0 || plan.total <= plan.available) return;
  const std::string numbers =
      fmt::format("weights {} + cache {} ({} tokens, {}) + work {} = {}, and {} of memory are free",
                  bytes_text(plan.weights), bytes_text(plan.cache), grouped(tokens), kv_name(kv),
                  bytes_text(plan.work), bytes_text(plan.total), bytes_text(plan.available));
  const std::int64_t left = plan.available - plan.weights - plan.work;
  const std::int64_t fits = plan.cache_per_token > 0 ? left / plan.cache_per_token : 0;
  std::string advice = "a smaller model is needed";
  if (fits > 0) {
    advice = fmt::format("--context {} fits{}", fits,
                         kv == DType::kF32 ? "; --kv f16 halves the cache" : "");
    if (cache_ram > 0) advice = "give less --cache-ram";
  }
  throw OutOfMemory(fmt::format("{}: {}; {}", file.path(), numbers, advice));
}

Loaded load_model(const std::shared_ptr<const model::ModelFile>& file, const Common& common) {
  const Stopwatch watch;
  model::LoadOptions options;
  options.mode = mode(common);
  Loaded out;
  out.model = model::Model::load(file, options);
  out.seconds = watch.seconds();
  return out;
}

Json bytes_json(std::int64_t weights, std::int64_t cache) {
  Json bytes;
  bytes["weights"] = weights;
  bytes["cache"] = cache;
  bytes["peak"] = peak_memory_bytes();
  return bytes;
}

bool wants_table(const Common& common) {
  return !common.quiet && (common.verbose || (!common.json && error_terminal().present));
}

bool wants_progress(const Common& common) { return !common.quiet && !common.json; }

bool read_with_progress(generate::Session& session, std::span<const std::int32_t> ids,
                        const Common& common) {
  // A cache that judges keys by a second reading makes it one that is twice as long.
  const std::int64_t times = session.cache().reread_tokens() > 0 ? 2 : 1;
  Progress progress("reading", times * std::ssize(ids),
                    wants_progress(common) ? Progress::Show::kOnTerminal : Progress::Show::kOff);
  return session.read(ids, [&](std::int64_t done) {
    progress.update(done);
    return stop_signal() == 0;
  });
}

}  // namespace quire::cli

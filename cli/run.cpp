// quire run: reads a prompt and documents, writes an answer.

#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/model_name.h"
#include "cli/near_session.h"
#include "cli/output.h"
#include "cli/paged_session.h"
#include "cli/policy_session.h"
#include "cli/questions.h"
#include "cli/run_prompt.h"
#include "cli/sampling.h"
#include "cli/session_setup.h"
#include "cli/signals.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"

namespace quire::cli {
namespace {

struct RunArguments {
  Common common;
  Sampling sampling;
  Sources sources;
  CacheChoice cache;
  std::optional<std::string> model;
};

void declare(Options& options, RunArguments& a) {
  Sources& s = a.sources;
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.argument("PROMPT", s.prompt, "What to answer or to continue; - reads standard input");
  options.group("Reading");
  options.texts("--file", "PATH", s.files, "A document before the prompt; may be repeated; - too");
  options.text("--questions", "FILE", s.questions, "Prompts, one a line, all about the documents");
  options.text("--system", "S", s.system, "The system message");
  options.flag("--raw", s.raw, "Continue the text, without the chat template");
  options.text("--ids", "FILE", s.ids, "Token ids instead of text");
  add_cache_choice(options, a.cache);
  add_cache(options, a.common);
  add_sampling(options, a.sampling);
  add_compute(options, a.common);
  add_output(options, a.common);
}

struct Times {
  double load = 0, read = 0, write = 0, reopen = 0, save = 0;
};

struct Report {
  generate::GenerateResult result;
  std::int64_t prompt_tokens = 0, read_tokens = 0, weight_bytes = 0, cache_bytes = 0;
  std::int64_t generated = 0;
  Times times;
  DType kv = DType::kF32;
  Json cache;
};

/// What both forms of the command tell.
void add_figures(Json& out, const RunArguments& a, const Report& r) {
  out["prompt_tokens"] = r.prompt_tokens;
  out["generated_tokens"] = r.generated;
  if (!a.sources.questions) out["finish_reason"] = generate::to_string(r.result.finish_reason);
  out["read_tok_s"] = rate(r.read_tokens, r.times.read);
  out["write_tok_s"] = rate(r.generated, r.times.write);
  out["load_s"] = r.times.load;
  if (a.cache.load) out["reopen_s"] = r.times.reopen;
  if (a.cache.save) out["save_s"] = r.times.save;
  out["bytes"] = bytes_json(r.weight_bytes, r.cache_bytes);
  out["cache"] = r.cache;
  out["mode"] = a.common.mode;
  out["seed"] = a.sampling.seed;
  out["threads"] = thread_pool().threads();
  out["isa"] = to_string(isa());
}

Json to_json(const RunArguments& a, const Report& r) {
  Json::Array ids(r.result.ids.begin(), r.result.ids.end());
  Json out;
  out["text"] = r.result.text;
  out["ids"] = std::move(ids);
  add_figures(out, a, r);
  return out;
}

void print_table(const RunArguments& a, const Report& r) {
  const auto phase = [](const char* name, std::int64_t tokens, double seconds) {
    return fmt::format("  {:<8}{:>8} tokens  {:>8.1f} tok/s  {:>10}\n", name, grouped(tokens),
                       rate(tokens, seconds), seconds_text(seconds));
  };
  std::string text = phase("read", r.read_tokens, r.times.read);
  text += phase("wrote", r.generated, r.times.write);
  text += fmt::format("  {:<8}{:>15}\n", "loaded", "in " + seconds_text(r.times.load));
  if (a.cache.load)
    text += fmt::format("  {:<8}{:>15}\n", "reopened", "in " + seconds_text(r.times.reopen));
  if (a.cache.save)
    text += fmt::format("  {:<8}{:>15}\n", "saved", "in " + seconds_text(r.times.save));
  text += fmt::format("  {:<8}{:>15}\n", "weights", bytes_text(r.weight_bytes));
  text += fmt::format("  {:<8}{:>15}  {}\n", "cache", bytes_text(r.cache_bytes), kv_name(r.kv));
  text += fmt::format("  {:<8}{:>15}  memory\n", "peak", bytes_text(peak_memory_bytes()));
  write_error(text);
}

/// Everything that `run` works with once the model is there.
struct Work {
  const RunArguments& a;
  const model::Model& model;
  const Prompts& prompts;
  const cache::SavedCache* saved;
  std::int64_t context;
  std::int64_t budget_tokens;
};

Json full_json(const Report& r) {
  Json cache;
  cache["policy"] = "full";
  cache["type"] = kv_name(r.kv);
  cache["tokens"] = r.read_tokens + r.generated;
  return cache;
}

/// Reads the document and saves it where that was asked for, then up to `ids`. False when a signal
/// stopped it.
bool read_document(const Work& w, PagedSession& paged, std::span<const std::int32_t> ids,
                   Report& report) {
  if (w.a.cache.save) {
    const Stopwatch reading;
    const auto document = ids.first(static_cast<std::size_t>(w.prompts.document_tokens));
    const bool finished = read_up_to(paged.session, document, w.a.common, report.read_tokens);
    report.times.read += reading.seconds();
    if (!finished) return false;
    report.times.save = save(w.a.cache, paged.session, w.model);
  }
  const Stopwatch reading;
  const bool finished = read_up_to(paged.session, ids, w.a.common, report.read_tokens);
  report.times.read += reading.seconds();
  return finished;
}

void write_answer(const Work& w, generate::Session& session, Report& report) {
  const generate::GenerateSpec spec = generate_spec(w.a.sampling, w.model.file());
  const Stopwatch writing;
  bool line_open = false;
  report.result = session.generate(spec, [&](std::string_view text) {
    if (!w.a.common.json && !text.empty()) {
      print(text);
      line_open = text.back() != '\n';
    }
    return stop_signal() == 0;
  });
  report.times.write = writing.seconds();
  report.generated = static_cast<std::int64_t>(report.result.ids.size());
  if (line_open) print("\n");
}

/// Reads under a policy, whose budget applies to every token after the last document. False when a
/// signal stopped it.
bool read_under_policy(const Work& w, generate::Session& session, std::span<const std::int32_t> ids,
                       Report& report) {
  const auto document = ids.first(static_cast<std::size_t>(w.prompts.document_tokens));
  const Stopwatch reading;
  const auto held = std::ssize(session.ids());
  bool finished = true;
  if (w.saved != nullptr) {
    QUIRE_CHECK(
        std::equal(document.begin(), document.end(), session.ids().begin(), session.ids().end()),
        "--load-cache ", *w.a.cache.load, " holds other documents, and --cache ", w.a.cache.kind,
        " cannot be cut; leave --file out, or --load-cache");
  } else {
    finished = read_with_progress(session, document, w.a.common);
    if (finished) session.cache().end_reading();
  }
  report.times.read = reading.seconds();
  if (finished) {
    report.times.save = save_policy(w.a.cache, session, w.model, report.kv);
    const Stopwatch rest;
    finished = read_with_progress(session, ids.subspan(document.size()), w.a.common);
    report.times.read += rest.seconds();
  }
  report.read_tokens = std::ssize(session.ids()) - held;
  return finished;
}

PolicySession policy_session(const Work& w, Report& report) {
  PolicySession out = make_policy_session(w.model, w.prompts.tokenizer, w.a.cache, w.saved,
                                          report.kv, w.context, w.budget_tokens);
  report.times.reopen = out.reopened;
  return out;
}

void answer_under_policy(const Work& w, std::span<const std::int32_t> ids, Report& report) {
  generate::Session session = policy_session(w, report).session;
  if (read_under_policy(w, session, ids, report)) write_answer(w, session, report);
  report.cache_bytes = session.cache().bytes();
  report.cache = policy_json(session, w.a.cache.kind, report.kv);
}

/// Reads the prompt, then writes the answer; a signal ends either.
Report answer(const Work& w) {
  Report report;
  const std::vector<std::int32_t>& ids = w.prompts.ids.front();
  report.kv = w.saved != nullptr ? w.saved->info().kv : kv_type(w.a.common);
  report.weight_bytes = w.model.weight_bytes();
  report.prompt_tokens = static_cast<std::int64_t>(ids.size());
  report.result.finish_reason = generate::FinishReason::kInterrupted;
  if (is_paged(w.a.cache, false)) {
    PagedSession paged = make_paged_session(w.model, w.prompts.tokenizer, w.a.cache, w.saved,
                                            report.kv, w.context, w.budget_tokens);
    report.times.reopen = paged.reopened;
    if (read_document(w, paged, ids, report)) write_answer(w, paged.session, report);
    report.cache_bytes = paged.session.cache().bytes();
    report.cache = paged_json(*paged.pool, static_cast<std::int64_t>(paged.session.ids().size()));
    return report;
  }
  if (is_policy(w.a.cache)) {
    answer_under_policy(w, ids, report);
    return report;
  }
  generate::Session session(w.model, w.prompts.tokenizer, w.context, report.kv);
  const Stopwatch reading;
  const bool finished = read_with_progress(session, ids, w.a.common);
  report.times.read = reading.seconds();
  report.read_tokens = static_cast<std::int64_t>(session.ids().size());
  if (finished) write_answer(w, session, report);
  report.cache_bytes = session.cache().bytes();
  report.cache = full_json(report);
  return report;
}

void write_all_answers(const Work& w, generate::Session& session, std::int64_t common,
                       Report& report) {
  const generate::GenerateSpec spec = generate_spec(w.a.sampling, w.model.file());
  const Stopwatch writing;
  const Written written = write_answers(session, w.prompts, common, spec, w.a.common.json);
  report.times.write = writing.seconds();
  report.generated = written.generated;
  report.prompt_tokens += written.asked;
  report.cache_bytes = written.cache_bytes;
}

/// Reads what the questions have in common, then writes all answers.
Report answer_questions(const Work& w) {
  Report report;
  report.kv = w.saved != nullptr ? w.saved->info().kv : kv_type(w.a.common);
  report.weight_bytes = w.model.weight_bytes();
  if (is_policy(w.a.cache)) {
    generate::Session session = policy_session(w, report).session;
    report.prompt_tokens = std::max(common_tokens(w.prompts), w.prompts.document_tokens);
    const auto shared = std::span<const std::int32_t>(w.prompts.ids.front())
                            .first(static_cast<std::size_t>(report.prompt_tokens));
    if (read_under_policy(w, session, shared, report))
      write_all_answers(w, session, report.prompt_tokens, report);
    report.cache = policy_json(session, w.a.cache.kind, report.kv);
    return report;
  }
  PagedSession paged = make_paged_session(w.model, w.prompts.tokenizer, w.a.cache, w.saved,
                                          report.kv, w.context, w.budget_tokens);
  report.times.reopen = paged.reopened;
  const std::int64_t common = common_tokens(w.prompts);
  report.prompt_tokens = common;
  const std::span<const std::int32_t> first = w.prompts.ids.front();
  if (read_document(w, paged, first.first(static_cast<std::size_t>(common)), report))
    write_all_answers(w, paged.session, common, report);
  report.cache = paged_json(*paged.pool, paged.session.cache().length());
  return report;
}

/// Tokens that the cache comes to hold at most: of one answer, or of all that are written at once
/// (policies answer one after another).
std::int64_t tokens_needed(const RunArguments& a, const Prompts& prompts, std::int64_t context) {
  const std::int64_t page = cache::PagedSpec{}.page_tokens;
  const std::int64_t common = prompts.questions.empty() ? 0 : common_tokens(prompts);
  std::int64_t sum = (common + page - 1) / page * page, most = 0;
  for (const std::vector<std::int32_t>& ids : prompts.ids) {
    const auto count = static_cast<std::int64_t>(ids.size());
    check_prompt(count, context);
    const std::int64_t room = context - count;
    const std::int64_t all = count + std::min(a.sampling.max_tokens.value_or(room), room);
    if (prompts.questions.empty()) return all;
    most = std::max(most, all);
    sum += (all + page - 1) / page * page - common / page * page;
  }
  return is_policy(a.cache) ? most : sum;
}

/// Where no position is the model's own: --context, else room for the longest prompt, and for
/// --max-tokens or as many as the model was trained for.
std::int64_t unbounded_context(const RunArguments& a, const Prompts& prompts,
                               const model::ModelConfig& config) {
  std::size_t longest = 0;
  for (const std::vector<std::int32_t>& ids : prompts.ids) longest = std::max(longest, ids.size());
  return a.common.context.value_or(static_cast<std::int64_t>(longest) +
                                   a.sampling.max_tokens.value_or(config.context));
}

/// What fits into memory of what would be needed; some questions then wait for others.
std::int64_t budget_that_fits(const RunArguments& a, const model::ModelFile& file, DType kv,
                              std::int64_t needed) {
  const std::int64_t ram = a.cache.memory.ram.value_or(0);
  const model::MemoryPlan plan = limited_plan(file, needed, kv, ram);
  if (ram == 0 && a.sources.questions && !is_policy(a.cache) && plan.available > 0 &&
      plan.total > plan.available) {
    const std::int64_t left = plan.available - plan.weights - plan.work;
    if (left > plan.cache_per_token) return left / plan.cache_per_token;
  }
  check_fits(file, needed, kv, ram);
  return needed;
}

}  // namespace

int run(Arguments arguments) {
  RunArguments a;
  Options options("run", "MODEL [PROMPT] [--file PATH]…",
                  "Reads a prompt and documents, writes an answer.");
  declare(options, a);
  if (!options.parse(arguments)) return kOk;
  const std::string& name = options.need(a.model, "MODEL");
  const bool asks = a.sources.questions.has_value();
  check(a.sources, a.cache.load.has_value());
  check(a.cache, asks);
  if (a.cache.save) check_save(*a.cache.save);
  DType kv = kv_type(a.common);
  const auto file = open_model(name);
  const bool near = counts_in_cache(a.cache);
  std::int64_t context = near ? 0 : context_of(a.common, *file);
  if (near) static_cast<void>(near_spec(a.cache, file->config()));
  static_cast<void>(generate_spec(a.sampling, *file));  // refuse early what would be refused late
  const auto saved = open_saved(a.cache, a.common, *file);
  if (saved != nullptr) kv = saved->info().kv;
  catch_signals();
  const Prompts prompts = make_prompts(a.sources, *file, saved.get());
  if (stop_signal() != 0) return signal_exit_code();
  QUIRE_CHECK(!a.cache.save || prompts.document_tokens > 0,
              "--save-cache: there is no document whose end could be told; give --file or --ids");
  QUIRE_CHECK(!is_policy(a.cache) || prompts.document_tokens > 0, "--cache ", a.cache.kind,
              ": there is no document that it could leave anything of; give --file or --ids");
  if (near) context = unbounded_context(a, prompts, file->config());
  const std::int64_t needed = tokens_needed(a, prompts, context);
  const std::int64_t held =
      near ? near_tokens_held(near_spec(a.cache, file->config()), prompts.document_tokens, needed)
           : needed;
  const std::int64_t budget = budget_that_fits(a, *file, kv, held);
  check_memory(a.cache, saved.get(), *file, kv, budget);
  apply(a.common);
  const Loaded loaded = load_model(file, a.common);
  if (stop_signal() != 0) return signal_exit_code();

  const Work work{a, *loaded.model, prompts, saved.get(), context, budget};
  Report report = asks ? answer_questions(work) : answer(work);
  report.times.load = loaded.seconds;
  if (a.common.json && asks) {
    Json out;
    out["questions"] = static_cast<std::int64_t>(prompts.questions.size());
    add_figures(out, a, report);
    print_json(out);
  } else if (a.common.json) {
    print_json(to_json(a, report));
  }
  if (wants_table(a.common)) print_table(a, report);
  return stop_signal() != 0 ? signal_exit_code() : kOk;
}

}  // namespace quire::cli

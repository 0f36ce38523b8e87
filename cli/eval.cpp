// quire eval: what a cache loses beside the full one, and what it costs.

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/eval_files.h"
#include "cli/eval_report.h"
#include "cli/eval_setup.h"
#include "cli/failure.h"
#include "cli/input.h"
#include "cli/model_name.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/prompt.h"
#include "cli/session_setup.h"
#include "cli/signals.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/eval/compare.h"
#include "quire/eval/fidelity.h"
#include "quire/eval/reading.h"
#include "quire/eval/shared_reading.h"
#include "quire/eval/tasks.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;
constexpr std::int64_t kOrdinaryTokens = 4096;  // a few minutes on two cores

struct EvalArguments {
  Common common;
  std::optional<std::string> model, file, caches, budgets, tasks, plot, dump;
  std::optional<std::int64_t> positions, tokens, task_tokens;
  std::optional<std::vector<std::int64_t>> layers;
  std::uint64_t seed = 0;
};

void declare(Options& options, EvalArguments& a) {
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.group("What is measured");
  options.text("--file", "TEXT", a.file, "The text; - reads standard input");
  options.text("--cache", "A,B", a.caches, "Caches to compare [full,int8,window,quest]");
  options.text("--budget", "N|N%,…", a.budgets, "Tokens of the document attended to [5%,12.5%]");
  options.integer("--tokens", a.tokens, {1, kMostTokens}, "The first N tokens of the text [4096]",
                  Suffix::kSize);
  options.integer("--positions", a.positions, {1, 1'000'000}, "Of them compared, one by one [384]");
  options.text("--tasks", "A,B", a.tasks, "passkey,copy or none [passkey,copy]");
  options.integer("--task-tokens", a.task_tokens, {128, kMostTokens},
                  "Tokens of a task's document [2048]", Suffix::kSize);
  options.text("--kv", "f32|bf16|f16|i8", a.common.kv, "Type of the caches [f16]");
  options.seed("--seed", a.seed, "Of the tasks and the intervals [0]");
  options.group("Results");
  options.text("--plot", "F.svg", a.plot, "KL against bytes read and bytes stored");
  options.text("--dump-qkv", "F.safetensors", a.dump, "Queries, keys and values of the text");
  options.integers("--layers", a.layers, {0, 1'000'000},
                   "Layers of --dump-qkv [first,middle,last]");
  add_compute(options, a.common);
  add_output(options, a.common);
}

/// What was asked for, checked as far as it can be without the model.
struct Plan {
  std::vector<std::string> caches, tasks;
  std::vector<NamedBudget> budgets;
  std::int64_t positions = 384;
  eval::TaskSpec task;
};

Plan make_plan(const EvalArguments& a) {
  Plan plan;
  plan.caches = parse_list("--cache", a.caches.value_or("full,int8,window,quest"));
  check_cache_names("--cache", plan.caches);
  plan.budgets = parse_budgets("--budget", a.budgets.value_or("5%,12.5%"));
  if (a.tasks != "none") plan.tasks = parse_list("--tasks", a.tasks.value_or("passkey,copy"));
  for (const std::string& task : plan.tasks) {
    QUIRE_CHECK(task == "passkey" || task == "copy", "--tasks names '", task,
                "'; in this version: passkey, copy, none");
  }
  plan.positions = a.positions.value_or(plan.positions);
  plan.task.tokens = a.task_tokens.value_or(plan.task.tokens);
  plan.task.seed = a.seed;
  QUIRE_CHECK(!a.layers || a.dump, "--layers needs --dump-qkv FILE");
  QUIRE_CHECK(!a.plot || a.plot != a.dump, "--plot and --dump-qkv name the same file");
  return plan;
}

/// The tokens that are measured, and how many the text has.
struct TextIds {
  std::vector<std::int32_t> ids;
  std::int64_t in_text = 0;
};

TextIds read_ids(const EvalArguments& a, const Plan& plan, const text::Tokenizer& tokenizer,
                 std::int64_t context) {
  TextIds out{encode(tokenizer, {{read_input(*a.file), text::Origin::kData, false}})};
  const auto tokens = out.in_text = static_cast<std::int64_t>(out.ids.size());
  const std::int64_t most = std::min(tokens, context + 1),
                     wanted = a.tokens.value_or(std::min(most, kOrdinaryTokens));
  QUIRE_CHECK(wanted <= tokens, "--tokens is ", wanted, ", but the text has ", tokens, " tokens");
  QUIRE_CHECK(wanted <= most, "--tokens is ", wanted, ", but this model's context is ", context);
  QUIRE_CHECK(wanted >= plan.positions + 128, wanted == tokens ? "the text has " : "of the text ",
              wanted, wanted == tokens ? " tokens; " : " tokens are taken; ", plan.positions,
              " positions and a document of at least 128 need ", plan.positions + 128,
              " (--positions takes fewer", wanted < most ? ", --tokens more" : "", ")");
  out.ids.resize(static_cast<std::size_t>(wanted));
  QUIRE_CHECK(plan.tasks.empty() || plan.task.tokens <= wanted, "of the text ", wanted,
              " tokens are taken, but a task's document has ", plan.task.tokens,
              " (--task-tokens takes fewer, --tasks none leaves them out)");
  return out;
}

/// Runs a part of the work behind a progress line; a signal stops it.
template <class Work>
auto with_progress(const EvalArguments& a, const std::string& label, std::int64_t total,
                   const Work& work) {
  Progress progress(label, total,
                    wants_progress(a.common) ? Progress::Show::kOnTerminal : Progress::Show::kOff);
  const eval::Progress show = [&progress](std::int64_t done) {
    progress.update(done);
    return stop_signal() == 0;
  };
  return work(show);
}

std::string label(const eval::Candidate& candidate) {
  return candidate.budget.empty() ? candidate.cache : candidate.cache + " " + candidate.budget;
}

/// The candidates; behind them, when it is not among them, the window that tells where distant
/// tokens matter. Each is made once, so that what it refuses is known before anything is read.
struct Field {
  std::vector<eval::Candidate> candidates;
  std::size_t rows = 0;  // of them in the tables
  std::string smallest;  // budget: the window's

  /// The place of that window.
  std::size_t window() const {
    const auto found =
        std::find_if(candidates.begin(), candidates.end(), [&](const eval::Candidate& candidate) {
          return candidate.cache == "window" && candidate.budget == smallest;
        });
    return static_cast<std::size_t>(found - candidates.begin());
  }
};

Field make_field(const model::Model& model, const Plan& plan, std::int64_t document, DType kv) {
  Field field;
  field.candidates = make_candidates(model, plan.caches, plan.budgets, kv);
  field.rows = field.candidates.size();
  NamedBudget smallest{"5%", {.fraction = 0.05}};
  std::int64_t least = document + 1;
  for (const NamedBudget& budget : plan.budgets) {
    const bool of_mass = budget.search && budget.budget.read == 0;
    if (of_mass || budget.budget.of(document) >= least) continue;
    smallest = budget;
    least = budget.budget.of(document);
  }
  field.smallest = smallest.text;
  if (field.window() == field.rows)
    field.candidates.push_back(make_candidate(model, "window", smallest, kv));
  for (const eval::Candidate& candidate : field.candidates) {
    candidate.make(document, document + 1);
    if (!plan.tasks.empty()) candidate.make(plan.task.tokens, plan.task.tokens + 1);
  }
  return field;
}

std::int64_t first_query(const EvalArguments& a, const Field& field, std::int64_t document) {
  std::int64_t first = a.dump ? 0 : document;
  for (const eval::Candidate& candidate : field.candidates) {
    const auto cache = candidate.make(document, document + 1);
    first = std::min(first, eval::first_query_wanted(*cache, document));
  }
  return first;
}

std::string labels(std::span<const eval::Candidate> candidates) {
  std::string out;
  for (const eval::Candidate& candidate : candidates)
    out += (out.empty() ? "" : ", ") + label(candidate);
  return out;
}

/// What levels A and B find.
struct Measured {
  std::vector<eval::Candidate> candidates;  // without those that were left out
  std::vector<eval::Comparison> comparisons;
  std::vector<eval::Fidelity> fidelities;
  std::vector<LeftOut> left_out;
};

/// Gives the document to a few candidates. A budget of bytes that a policy cannot do with leaves it
/// out: what an index takes is known now. False when it was stopped.
bool give(const EvalArguments& a, std::int64_t document, const eval::SharedReading& shared,
          std::span<const eval::Candidate> candidates,
          std::vector<std::unique_ptr<cache::KvCache>>& caches, Measured& out) {
  for (const eval::Candidate& candidate : candidates) {
    try {
      caches.push_back(
          with_progress(a, label(candidate) + ", document", document,
                        [&](const eval::Progress& show) { return shared.give(candidate, show); }));
    } catch (const ArgumentError& error) {
      if (candidate.budget.find(':') == std::string::npos) throw;
      out.left_out.push_back({candidate.cache, candidate.budget, error.what()});
      continue;
    }
    if (!caches.back()) return false;
    out.candidates.push_back(candidate);
  }
  return true;
}

/// Levels A and B of a few candidates. False when it was stopped.
bool measure_together(const EvalArguments& a, const model::Model& model,
                      const eval::Reading& reading, const eval::SharedReading& shared,
                      std::span<const eval::Candidate> candidates, DType kv, Measured& out) {
  std::vector<std::unique_ptr<cache::KvCache>> owned;
  if (!give(a, reading.document, shared, candidates, owned, out)) return false;
  if (owned.empty()) return true;
  std::vector<cache::KvCache*> caches;
  for (const auto& one : owned) caches.push_back(one.get());
  const std::string names = labels(std::span(out.candidates).last(caches.size()));
  auto compared = with_progress(a, names, reading.positions, [&](const eval::Progress& show) {
    return eval::compare(model, reading, caches, show);
  });
  if (!compared) return false;
  for (eval::Comparison& one : *compared) out.comparisons.push_back(std::move(one));
  const auto found = with_progress(
      a, names + ", attention", reading.positions,
      [&](const eval::Progress& show) { return eval::fidelity(reading, kv, caches, 8, show); });
  if (!found) return false;
  out.fidelities.insert(out.fidelities.end(), found->begin(), found->end());
  return true;
}

/// Levels A and B; the field loses what was left out. False when it was stopped.
bool measure(const EvalArguments& a, const model::Model& model, const eval::Reading& reading,
             Field& field, DType kv, EvalReport& report) {
  const auto candidates = std::span(field.candidates);
  eval::SharedReading shared(*reading.recording, candidates, reading.document + reading.positions);
  const bool read = with_progress(
      a, "what policies observe", reading.document,
      [&](const eval::Progress& show) { return shared.read(reading.document, 0, show); });
  if (!read) return false;
  Measured out;
  for (std::size_t first = 0; first < candidates.size(); first += eval::kTogether) {
    const std::size_t count = std::min(eval::kTogether, candidates.size() - first);
    if (!measure_together(a, model, reading, shared, candidates.subspan(first, count), kv, out))
      return false;
  }
  field.rows -= out.left_out.size();
  field.candidates = std::move(out.candidates);
  report.left_out = std::move(out.left_out);
  const std::vector<std::size_t> far = eval::far_positions(out.comparisons[field.window()]);
  const eval::BootstrapSpec bootstrap{2000, 0.95, a.seed};
  std::vector<eval::Row> rows;
  for (std::size_t i = 0; i < field.rows; ++i) {
    rows.push_back(eval::summarise(field.candidates[i], out.comparisons[i], far, bootstrap));
    const double seen = out.fidelities[i].mass_mean;
    report.rows.push_back(
        {rows.back(), out.fidelities[i], seen == seen ? seen : out.comparisons[i].mass});
  }
  out.comparisons.resize(field.rows);
  report.differences = differences(rows, out.comparisons, bootstrap);
  return true;
}

/// Level C. False when it was stopped.
bool run_tasks(const EvalArguments& a, const Plan& plan, const model::Model& model,
               const text::Tokenizer& tokenizer, std::span<const std::int32_t> ids,
               const Field& field, DType kv, EvalReport& report) {
  for (const std::string& name : plan.tasks) {
    const eval::Task task = name == "passkey" ? eval::passkey_task(tokenizer, ids, plan.task)
                                              : eval::copy_task(tokenizer, ids, plan.task);
    const auto candidates = std::span(field.candidates).first(field.rows);
    const auto scores = with_progress(a, name, eval::task_work(task, candidates.size()),
                                      [&](const eval::Progress& show) {
                                        return eval::run_task(model, task, kv, candidates, show);
                                      });
    if (!scores) return false;
    report.tasks.insert(report.tasks.end(), scores->begin(), scores->end());
  }
  return true;
}

void check_memory(const model::ModelFile& file, const model::Model& model, const Plan& asked,
                  const Field& field, std::int64_t tokens, std::int64_t queries,
                  std::int64_t reread, DType kv) {
  const model::MemoryPlan plan = file.plan(tokens, kv);
  const auto layers = model.paged_spec(kv).layers;
  const auto caches = [&](std::size_t most) {
    return static_cast<std::int64_t>(std::min(most, field.candidates.size()));
  };
  // The full cache, those that are measured together, what policies share, and a full one that all
  // are compared with; and the same of a task.
  const std::int64_t needed =
      plan.cache * (3 + caches(eval::kTogether)) + plan.work +
      eval::recording_bytes(layers, tokens, queries, reread > 0 ? tokens : 0);
  const std::int64_t task = asked.tasks.empty() ? 0
                                                : plan.cache_per_token * asked.task.tokens *
                                                      (3 + caches(eval::kAskedTogether));
  const std::int64_t most = std::max(needed, plan.cache + task + plan.work);
  if (plan.available <= 0 || most <= plan.available) return;
  throw OutOfMemory(
      fmt::format("measuring {} tokens needs {}, and {} of memory are free; --tokens "
                  "takes fewer",
                  grouped(tokens), bytes_text(most), bytes_text(plan.available)));
}

void print_result(const EvalArguments& a, const EvalReport& report, DType kv) {
  if (!a.common.json) {
    print(to_text(report));
    return;
  }
  Json out = to_json(report);
  out["mode"] = a.common.mode;
  out["kv"] = kv_name(kv);
  out["seed"] = a.seed;
  out["threads"] = thread_pool().threads();
  out["isa"] = to_string(isa());
  print_json(out);
}

}  // namespace

int evaluate(Arguments arguments) {
  EvalArguments a;
  // Fast mode rounds activations to 8 bits: what a cache changes in the last digit comes out of its
  // roundings as a KL of about 0.002, more than an int8 cache loses.
  a.common.mode = "exact";
  a.common.kv = "f16";
  Options options("eval", "MODEL --file TEXT --cache A,B --budget N%,N",
                  "What each cache loses beside the full one, and what it costs.");
  declare(options, a);
  if (!options.parse(arguments)) return kOk;
  const std::string& name = options.need(a.model, "MODEL");
  options.need(a.file, "--file");
  const Plan plan = make_plan(a);
  const DType kv = kv_type(a.common);
  if (a.plot) check_output("--plot", *a.plot, FileKind::kSvg);
  if (a.dump) check_output("--dump-qkv", *a.dump, FileKind::kSafetensors);
  const auto file = open_model(name);
  catch_signals();
  const auto tokenizer = text::Tokenizer::make(file->tokenizer_spec());
  const TextIds text = read_ids(a, plan, *tokenizer, file->config().context);
  const std::vector<std::int32_t>& ids = text.ids;
  for (const std::int64_t layer : a.layers.value_or(std::vector<std::int64_t>())) {
    QUIRE_CHECK(layer < file->config().L, "--layers has ", layer, ", but the model has ",
                file->config().L);
  }
  const auto tokens = static_cast<std::int64_t>(ids.size());
  check_fits(*file, tokens, kv);
  apply(a.common);
  const Stopwatch watch;
  const Loaded loaded = load_model(file, a.common);
  const std::int64_t document = tokens - 1 - plan.positions;
  Field field = make_field(*loaded.model, plan, document, kv);
  const std::int64_t queries_from = first_query(a, field, document);
  const std::int64_t reread = eval::reread_wanted(field.candidates, document);
  check_memory(*file, *loaded.model, plan, field, tokens, tokens - queries_from, reread, kv);

  const auto stopped = [] {
    note("quire: stopped; nothing was measured to the end");
    return signal_exit_code();
  };
  const std::int64_t twice = reread > 0 ? document : 0;
  const auto reading =
      with_progress(a, "reading", tokens - 1 + twice, [&](const eval::Progress& show) {
        return eval::read_text(*loaded.model, ids, plan.positions, kv, queries_from, show, reread);
      });
  if (!reading) return stopped();
  if (a.dump) dump_qkv(*a.dump, *reading, a.layers);
  EvalReport report{name, *a.file, text.in_text, tokens, document, plan.positions,
                    {},   {},      {},           {},     0};
  if (!measure(a, *loaded.model, *reading, field, kv, report)) return stopped();
  if (!run_tasks(a, plan, *loaded.model, *tokenizer, ids, field, kv, report)) return stopped();
  report.seconds = watch.seconds();
  if (a.plot) write_text(*a.plot, to_svg(report));
  print_result(a, report, kv);
  if (wants_table(a.common))
    note(fmt::format("  {} tokens, {}", grouped(tokens), seconds_text(report.seconds)));
  return kOk;
}

}  // namespace quire::cli

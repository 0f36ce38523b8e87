// quire run: reads a prompt and documents, writes an answer.

#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/input.h"
#include "cli/model_name.h"
#include "cli/output.h"
#include "cli/prompt.h"
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
  std::optional<std::string> model, prompt, system, ids;
  std::vector<std::string> files;
  bool raw = false;
  std::string cache = "full";
};

void declare(Options& options, RunArguments& a) {
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.argument("PROMPT", a.prompt, "What to answer or to continue; - reads standard input");
  options.group("Reading");
  options.texts("--file", "PATH", a.files, "A document before the prompt; may be repeated; - too");
  options.text("--system", "S", a.system, "The system message");
  options.flag("--raw", a.raw, "Continue the text, without the chat template");
  options.text("--ids", "FILE", a.ids, "Token ids instead of text");
  options.choice("--cache", a.cache, {"full"}, "What the cache keeps [full]");
  add_cache(options, a.common);
  add_sampling(options, a.sampling);
  add_compute(options, a.common);
  add_output(options, a.common);
}

void check_sources(const RunArguments& a) {
  const auto dashes = std::count(a.files.begin(), a.files.end(), "-") + (a.prompt == "-" ? 1 : 0) +
                      (a.ids == "-" ? 1 : 0);
  QUIRE_CHECK(dashes <= 1, "standard input (-) can be read only once, not ", dashes, " times");
  QUIRE_CHECK(!a.raw || !a.system, "--raw and --system: raw text has no system message");
  QUIRE_CHECK(!a.ids || (!a.prompt && a.files.empty() && !a.system && !a.raw),
              "--ids is the whole prompt; leave PROMPT, --file, --system and --raw out");
  QUIRE_CHECK(a.ids || a.prompt || !a.files.empty(),
              "nothing to read; give a PROMPT, --file or "
              "--ids (quire run --help)");
}

struct Prompt {
  std::vector<std::int32_t> ids;
  std::shared_ptr<const text::Tokenizer> tokenizer;
};

Prompt make_prompt(const RunArguments& a, const model::ModelFile& file) {
  Prompt out;
  text::TokenizerSpec spec = file.tokenizer_spec();
  if (a.ids) {
    out.ids = parse_ids(read_input(*a.ids), *a.ids, file.config().V);
    out.tokenizer = text::Tokenizer::make(std::move(spec));
    return out;
  }
  std::vector<text::Piece> pieces;
  Document document;
  for (const std::string& path : a.files) document.files.push_back(read_input(path));
  if (a.prompt) document.prompt = *a.prompt == "-" ? read_input("-") : *a.prompt;
  if (a.raw) {
    pieces = raw_pieces(document);
  } else {
    pieces = chat_pieces(document, a.system.value_or(""),
                         chat_template_of(file, "--raw continues the text without one"), spec);
  }
  out.tokenizer = text::Tokenizer::make(std::move(spec));
  out.ids = encode(*out.tokenizer, pieces);
  return out;
}

struct Times {
  double load = 0, read = 0, write = 0;
};

struct Report {
  generate::GenerateResult result;
  std::int64_t prompt_tokens = 0, read_tokens = 0, weight_bytes = 0, cache_bytes = 0;
  Times times;
};

Json to_json(const RunArguments& a, const Report& r) {
  const auto written = static_cast<std::int64_t>(r.result.ids.size());
  Json::Array ids(r.result.ids.begin(), r.result.ids.end());
  Json cache;
  cache["policy"] = a.cache;
  cache["type"] = kv_name(kv_type(a.common));
  cache["tokens"] = r.read_tokens + written;
  Json out;
  out["text"] = r.result.text;
  out["ids"] = std::move(ids);
  out["prompt_tokens"] = r.prompt_tokens;
  out["generated_tokens"] = written;
  out["finish_reason"] = generate::to_string(r.result.finish_reason);
  out["read_tok_s"] = rate(r.read_tokens, r.times.read);
  out["write_tok_s"] = rate(written, r.times.write);
  out["load_s"] = r.times.load;
  out["bytes"] = bytes_json(r.weight_bytes, r.cache_bytes);
  out["cache"] = std::move(cache);
  out["mode"] = a.common.mode;
  out["seed"] = a.sampling.seed;
  out["threads"] = thread_pool().threads();
  out["isa"] = to_string(isa());
  return out;
}

void print_table(const RunArguments& a, const Report& r) {
  const auto written = static_cast<std::int64_t>(r.result.ids.size());
  const auto phase = [](const char* name, std::int64_t tokens, double seconds) {
    return fmt::format("  {:<8}{:>8} tokens  {:>8.1f} tok/s  {:>10}\n", name, grouped(tokens),
                       rate(tokens, seconds), seconds_text(seconds));
  };
  std::string text = phase("read", r.read_tokens, r.times.read);
  text += phase("wrote", written, r.times.write);
  text += fmt::format("  {:<8}{:>15}\n", "loaded", "in " + seconds_text(r.times.load));
  text += fmt::format("  {:<8}{:>15}\n", "weights", bytes_text(r.weight_bytes));
  text += fmt::format("  {:<8}{:>15}  {}\n", "cache", bytes_text(r.cache_bytes),
                      kv_name(kv_type(a.common)));
  text += fmt::format("  {:<8}{:>15}  memory\n", "peak", bytes_text(peak_memory_bytes()));
  write_error(text);
}

/// Reads the prompt, then writes the answer; a signal ends either.
Report answer(const RunArguments& a, const model::Model& model, const Prompt& prompt,
              std::int64_t context) {
  Report report;
  report.weight_bytes = model.weight_bytes();
  report.prompt_tokens = static_cast<std::int64_t>(prompt.ids.size());
  const generate::GenerateSpec spec = generate_spec(a.sampling, model.file());
  generate::Session session(model, prompt.tokenizer, context, kv_type(a.common));
  const Stopwatch reading;
  const bool finished = read_with_progress(session, prompt.ids, a.common);
  report.times.read = reading.seconds();
  report.read_tokens = static_cast<std::int64_t>(session.ids().size());
  if (finished) {
    const Stopwatch writing;
    bool line_open = false;
    report.result = session.generate(spec, [&](std::string_view text) {
      if (!a.common.json && !text.empty()) {
        print(text);
        line_open = text.back() != '\n';
      }
      return stop_signal() == 0;
    });
    report.times.write = writing.seconds();
    if (line_open) print("\n");
  } else {
    report.result.finish_reason = generate::FinishReason::kInterrupted;
  }
  report.cache_bytes = session.cache().bytes();
  return report;
}

}  // namespace

int run(Arguments arguments) {
  RunArguments a;
  Options options("run", "MODEL [PROMPT] [--file PATH]…",
                  "Reads a prompt and documents, writes an answer.");
  declare(options, a);
  if (!options.parse(arguments)) return kOk;
  const std::string& name = options.need(a.model, "MODEL");
  check_sources(a);
  const DType kv = kv_type(a.common);
  const auto file = open_model(name);
  const std::int64_t context = context_of(a.common, *file);
  static_cast<void>(generate_spec(a.sampling, *file));  // refuse early what would be refused late
  catch_signals();
  const Prompt prompt = make_prompt(a, *file);
  if (stop_signal() != 0) return signal_exit_code();
  const auto count = static_cast<std::int64_t>(prompt.ids.size());
  check_prompt(count, context);
  const std::int64_t room = context - count;
  check_fits(*file, count + std::min(a.sampling.max_tokens.value_or(room), room), kv);
  apply(a.common);
  const Loaded loaded = load_model(file, a.common);
  if (stop_signal() != 0) return signal_exit_code();

  Report report = answer(a, *loaded.model, prompt, context);
  report.times.load = loaded.seconds;
  if (a.common.json) print_json(to_json(a, report));
  if (wants_table(a.common)) print_table(a, report);
  return stop_signal() != 0 ? signal_exit_code() : kOk;
}

}  // namespace quire::cli

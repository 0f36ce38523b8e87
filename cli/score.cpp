// quire score: how likely a model finds a text.

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/common.h"
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
#include "quire/generate/session.h"
#include "quire/io/safetensors.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

struct ScoreArguments {
  Common common;
  std::optional<std::string> model, file, ids, out;
  std::optional<std::int64_t> chunk;
  std::optional<std::vector<std::int64_t>> at;
  bool nll = false;
};

void declare(Options& options, ScoreArguments& a) {
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.group("Reading");
  options.text("--file", "TEXT", a.file, "The text; - reads standard input");
  options.text("--ids", "FILE", a.ids, "Token ids instead of text");
  options.integer("--chunk", a.chunk, {1, kMostTokens}, "Tokens fed at once [256]");
  add_kv(options, a.common);
  options.group("Results");
  options.flag("--nll", a.nll, "The negative log-likelihood of each token");
  options.integers("--at", a.at, {0, kMostTokens}, "Positions whose logits --out gets");
  options.text("--out", "FILE", a.out, "A safetensors file: ids, nll, at, logits");
  add_compute(options, a.common);
  add_output(options, a.common);
}

std::vector<std::int32_t> read_ids(const ScoreArguments& a, const model::ModelFile& file) {
  if (a.ids) return parse_ids(read_input(*a.ids), *a.ids, file.config().V);
  const auto tokenizer = text::Tokenizer::make(file.tokenizer_spec());
  return encode(*tokenizer, {{read_input(*a.file), text::Origin::kData, false}});
}

void check_positions(const std::vector<std::int64_t>& at, std::int64_t tokens) {
  for (std::size_t i = 0; i < at.size(); ++i) {
    QUIRE_CHECK(at[i] < tokens, "--at has ", at[i], ", but there are ", tokens,
                " tokens: positions 0 to ", tokens - 1);
    QUIRE_CHECK(i == 0 || at[i - 1] < at[i], "--at has ", at[i], " after ", at[i - 1],
                "; positions must ascend");
  }
}

void write(const std::string& path, std::span<const std::int32_t> ids,
           const std::vector<std::int64_t>& at, const generate::Score& score) {
  const auto size = [](const auto& values) { return static_cast<std::int64_t>(values.size()); };
  const std::vector<std::int32_t> positions(at.begin(), at.end());
  io::write_safetensors(
      path, {{"ids", Tensor::of(ids, {size(ids)})},
             {"nll", Tensor::of(std::span<const double>(score.nll), {size(score.nll)})},
             {"at", Tensor::of(std::span<const std::int32_t>(positions), {size(positions)})},
             {"logits", score.logits_PV}});
}

Json to_json(const ScoreArguments& a, const generate::Score& score, std::int64_t tokens,
             double seconds) {
  Json out;
  out["tokens"] = tokens;
  out["perplexity"] = score.perplexity;
  out["nll_mean"] = score.nll_mean;
  out["seconds"] = seconds;
  out["mode"] = a.common.mode;
  out["kv"] = kv_name(kv_type(a.common));
  out["threads"] = thread_pool().threads();
  out["isa"] = to_string(isa());
  if (a.nll) out["nll"] = Json::Array(score.nll.begin(), score.nll.end());
  return out;
}

void print_text(const ScoreArguments& a, const generate::Score& score, std::int64_t tokens) {
  std::string text;
  if (a.nll) {
    for (const double nll : score.nll) text += fmt::format("{:.6f}\n", nll);
  }
  print(text + fmt::format("perplexity {:.5f}, mean {:.7f} over {} tokens\n", score.perplexity,
                           score.nll_mean, grouped(tokens)));
}

}  // namespace

int score(Arguments arguments) {
  ScoreArguments a;
  Options options("score", "MODEL (--file TEXT | --ids FILE)",
                  "How likely the model finds a text.");
  declare(options, a);
  if (!options.parse(arguments)) return kOk;
  const std::string& name = options.need(a.model, "MODEL");
  QUIRE_CHECK(a.file.has_value() != a.ids.has_value(),
              a.file ? "--file and --ids: give one" : "nothing to read; give --file or --ids",
              " (quire score --help)");
  QUIRE_CHECK(!a.at || a.out, "--at needs --out FILE for the logits");
  if (a.out) check_output("--out", *a.out, FileKind::kSafetensors);
  const DType kv = kv_type(a.common);
  const auto file = open_model(name);
  catch_signals();
  const std::vector<std::int32_t> ids = read_ids(a, *file);
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const std::vector<std::int64_t> at = a.at.value_or(std::vector<std::int64_t>());
  QUIRE_CHECK(tokens >= 2, "the text has ", tokens, " tokens; a score needs at least 2");
  QUIRE_CHECK(tokens <= file->config().context, "the text has ", tokens,
              " tokens, the context has room for ", file->config().context);
  check_positions(at, tokens);
  check_fits(*file, tokens, kv);
  apply(a.common);
  const Loaded loaded = load_model(file, a.common);

  const Stopwatch watch;
  generate::Score score;
  {
    Progress progress(
        "scoring", tokens,
        wants_progress(a.common) ? Progress::Show::kOnTerminal : Progress::Show::kOff);
    const auto show = [&progress](std::int64_t done) {
      progress.update(done);
      return stop_signal() == 0;
    };
    score = generate::score(*loaded.model, ids, kv, at, a.chunk.value_or(256), show);
  }
  if (stop_signal() != 0) {
    note(fmt::format("quire: stopped after {} of {} tokens", score.nll.size(), tokens));
    return signal_exit_code();
  }
  const double seconds = watch.seconds();
  if (a.out) write(*a.out, ids, at, score);
  if (a.common.json) {
    print_json(to_json(a, score, tokens, seconds));
  } else {
    print_text(a, score, tokens);
  }
  if (wants_table(a.common)) {
    note(fmt::format("  {} tokens, {:.1f} tok/s, {}; loaded in {}", grouped(tokens),
                     rate(tokens, seconds), seconds_text(seconds), seconds_text(loaded.seconds)));
  }
  return kOk;
}

}  // namespace quire::cli

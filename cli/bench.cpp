// quire bench model: tokens a second, and the share of this machine's ceilings that they reach;
// quire bench ops stands in bench_ops.cpp.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/bench_ops.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/model_name.h"
#include "cli/output.h"
#include "cli/session_setup.h"
#include "cli/signals.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/sample/sample.h"
#include "quire/ops/tile/ceilings.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;
constexpr std::int64_t kMostRounds = 1000;
constexpr std::uint64_t kIdSeed = 1;
constexpr std::int32_t kNormalToken = 1;  // of TokenizerSpec::types

struct BenchArguments {
  Common common;
  std::optional<std::string> what, model;
  std::optional<std::vector<std::int64_t>> prefill, decode;
  std::optional<std::int64_t> rounds;
  bool smoke = false;
};

/// A signal came: what was measured so far is of no use.
struct Stopped {};

void stop_if_asked() {
  if (stop_signal() != 0) throw Stopped{};
}

/// The same ids on every machine: ordinary tokens, in no order.
std::vector<std::int32_t> make_ids(const model::ModelFile& file, std::int64_t count) {
  const text::TokenizerSpec spec = file.tokenizer_spec();
  std::vector<std::int32_t> normal;
  for (std::int32_t id = 0; id < file.config().V; ++id) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= spec.types.size() || spec.types[at] == kNormalToken) normal.push_back(id);
  }
  if (normal.empty()) normal.push_back(0);
  Rng rng(kIdSeed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids) id = normal[rng.below(normal.size())];
  return ids;
}

/// One model and one cache, read and written as `quire run` does.
class Bench {
 public:
  Bench(const model::Model& model, std::vector<std::int32_t> ids, DType kv)
      : model_(model),
        ids_(std::move(ids)),
        cache_(model.make_cache(static_cast<std::int64_t>(ids_.size()), kv)) {}

  /// Tokens a second of reading `tokens` from nothing, and choosing the next one.
  double prefill(std::int64_t tokens, std::int64_t rounds) {
    std::vector<double> rates;
    for (std::int64_t round = 0; round < rounds; ++round) {
      cache_->truncate(0);
      const Stopwatch watch;
      read_to(tokens);
      rates.push_back(rate(tokens, watch.seconds()));
    }
    return median(rates);
  }

  /// Tokens a second of `steps` greedy steps after `context` tokens.
  double decode(std::int64_t context, std::int64_t steps, std::int64_t rounds) {
    if (cache_->length() > context) cache_->truncate(context);
    std::int32_t first = ids_[static_cast<std::size_t>(context)];
    if (cache_->length() < context) first = read_to(context);
    std::vector<double> rates;
    for (std::int64_t round = 0; round < rounds; ++round) {
      std::int32_t id = first;
      const Stopwatch watch;
      for (std::int64_t step = 0; step < steps; ++step) {
        stop_if_asked();
        id = likeliest(model_.forward({&id, 1}, *cache_));
      }
      rates.push_back(rate(steps, watch.seconds()));
      cache_->truncate(context);
    }
    return median(rates);
  }

  std::int64_t cache_bytes_per_token() const { return cache_->bytes_per_token(); }

 private:
  std::int32_t read_to(std::int64_t tokens) {
    Tensor hidden_ND;
    while (cache_->length() < tokens) {
      stop_if_asked();
      const std::int64_t begin = cache_->length();
      const std::int64_t size = std::min(tokens - begin, model_.max_chunk());
      hidden_ND = model_.forward(
          std::span(ids_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)),
          *cache_);
    }
    return likeliest(hidden_ND.slice(0, hidden_ND.size(0) - 1, hidden_ND.size(0)));
  }

  std::int32_t likeliest(const Tensor& hidden_1D) {
    const Tensor logits_1V = model_.logits(hidden_1D);
    const std::span<const float> logits(logits_1V.data<float>(),
                                        static_cast<std::size_t>(logits_1V.elements()));
    return sample(logits, SampleSpec{}, {}, rng_);
  }

  const model::Model& model_;
  std::vector<std::int32_t> ids_;
  std::unique_ptr<cache::KvCache> cache_;
  Rng rng_{0};
};

struct Result {
  std::vector<std::pair<std::int64_t, double>> prefill, decode;
  Ceilings ceilings;
  std::int64_t weight_bytes = 0, cache_bytes_per_token = 0, parameters = 0;
};

Json to_json(const BenchArguments& a, const Result& r, std::int64_t longest) {
  const auto rates = [](const auto& rows) {
    Json out{Json::Object()};
    for (const auto& [tokens, tok_s] : rows) out[std::to_string(tokens)] = tok_s;
    return out;
  };
  Json ceilings;
  ceilings["stream_gb_s"] = r.ceilings.stream_gb_s;
  ceilings["fma_gflop_s"] = r.ceilings.fma_gflop_s;
  ceilings["int8_gop_s"] = r.ceilings.int8_gop_s;
  Json out;
  out["prefill"] = rates(r.prefill);
  out["decode"] = rates(r.decode);
  out["threads"] = thread_pool().threads();
  out["ceilings"] = std::move(ceilings);
  out["bytes"] = bytes_json(r.weight_bytes, longest * r.cache_bytes_per_token);
  out["mode"] = a.common.mode;
  out["kv"] = kv_name(kv_type(a.common));
  out["isa"] = to_string(isa());
  return out;
}

std::string table(const BenchArguments& a, const Result& r) {
  const bool exact = mode(a.common) == model::Mode::kExact;
  const double compute = exact ? r.ceilings.fma_gflop_s : r.ceilings.int8_gop_s;
  std::string out = fmt::format("{:<14}{:>12}  share of the ceiling\n", "", "tok/s");
  for (const auto& [tokens, tok_s] : r.prefill) {
    // Each weight is one multiplication and one addition a token; attention is not counted.
    const double giga = 2e-9 * static_cast<double>(r.parameters) * tok_s;
    out += fmt::format("prefill {:<6}{:>12.1f}  {:.0f} % of {:.0f} {}\n", tokens, tok_s,
                       100 * giga / compute, compute, exact ? "GFLOP/s f32" : "GOP/s int8");
  }
  for (const auto& [tokens, tok_s] : r.decode) {
    const auto bytes = static_cast<double>(r.weight_bytes + tokens * r.cache_bytes_per_token);
    out += fmt::format("decode @{:<6}{:>12.1f}  {:.0f} % of {:.1f} GB/s\n", tokens, tok_s,
                       100 * 1e-9 * bytes * tok_s / r.ceilings.stream_gb_s, r.ceilings.stream_gb_s);
  }
  return out + fmt::format("{} threads, {}, {} mode, cache in {}\n", thread_pool().threads(),
                           to_string(isa()), a.common.mode, kv_name(kv_type(a.common)));
}

Result measure(const BenchArguments& a, const model::Model& model, std::int64_t longest,
               std::int64_t steps) {
  const std::int64_t rounds = a.rounds.value_or(a.smoke ? 1 : 3);
  Result out;
  out.weight_bytes = model.weight_bytes();
  out.parameters = model.file().parameters();
  out.ceilings = measure_ceilings(a.smoke ? Effort::kQuick : Effort::kFull);
  Bench bench(model, make_ids(model.file(), longest), kv_type(a.common));
  out.cache_bytes_per_token = bench.cache_bytes_per_token();
  bench.prefill(std::min<std::int64_t>(32, longest - 1), 1);  // warms up
  bench.decode(0, 1, 1);
  const auto say = [&](const char* phase, std::int64_t tokens) {
    if (wants_progress(a.common) && error_terminal().present) {
      note(fmt::format("quire: {} {}", phase, tokens));
    }
  };
  for (const std::int64_t tokens : *a.prefill) {
    say("prefill", tokens);
    out.prefill.emplace_back(tokens, bench.prefill(tokens, rounds));
  }
  for (const std::int64_t tokens : *a.decode) {
    say("decode", tokens);
    out.decode.emplace_back(tokens, bench.decode(tokens, steps, rounds));
  }
  return out;
}

/// Both phases at their usual sizes, unless some were named: then only those.
void complete(BenchArguments& a) {
  using Sizes = std::vector<std::int64_t>;
  const bool named = a.prefill || a.decode;
  if (!a.prefill) a.prefill = named ? Sizes{} : a.smoke ? Sizes{32} : Sizes{512, 4096};
  if (!a.decode) a.decode = named ? Sizes{} : a.smoke ? Sizes{0} : Sizes{0, 512, 4000, 7000};
}

}  // namespace

int bench(Arguments arguments) {
  if (!arguments.empty() && arguments.front() == "ops") return bench_ops(arguments.subspan(1));
  BenchArguments a;
  Options options(
      "bench", "model MODEL",
      "Speed of a model, and the share of this machine's ceiling. Of single operations:\n"
      "quire bench ops [FAMILY], see quire bench ops --help.");
  options.argument("WHAT", a.what, "model");
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.group("Measurement");
  options.integers("--prefill", a.prefill, {1, kMostTokens}, "Tokens to read [512,4096]");
  options.integers("--decode", a.decode, {0, kMostTokens},
                   "Contexts to write at [0,512,4000,7000]");
  options.integer("--rounds", a.rounds, {1, kMostRounds}, "Medians of so many [3]");
  options.flag("--smoke", a.smoke, "Tiny sizes, one round: only whether it works");
  add_kv(options, a.common);
  add_compute(options, a.common);
  add_output(options, a.common);
  if (!options.parse(arguments)) return kOk;
  const std::string& what = options.need(a.what, "WHAT");
  QUIRE_CHECK(what != "ops", "ops must be the first word after bench (quire bench ops --help)");
  QUIRE_CHECK(what == "model", "bench '", what,
              "'; in this version: model, ops (quire bench --help)");
  const std::string& name = options.need(a.model, "MODEL");
  const DType kv = kv_type(a.common);
  complete(a);
  const std::int64_t steps = a.smoke ? 4 : 64;
  std::int64_t longest = 33;
  for (const std::int64_t tokens : *a.prefill) longest = std::max(longest, tokens);
  for (const std::int64_t tokens : *a.decode) longest = std::max(longest, tokens + steps);
  const auto file = open_model(name);
  QUIRE_CHECK(longest <= file->config().context, "this needs ", longest,
              " tokens of context, the model has ", file->config().context,
              "; --prefill and --decode take smaller sizes");
  check_fits(*file, longest, kv);
  catch_signals();
  apply(a.common);
  const Loaded loaded = load_model(file, a.common);
  try {
    const Result result = measure(a, *loaded.model, longest, steps);
    if (a.common.json) {
      print_json(to_json(a, result, longest));
    } else {
      print(table(a, result));
    }
  } catch (const Stopped&) {
    return signal_exit_code();
  }
  return kOk;
}

}  // namespace quire::cli

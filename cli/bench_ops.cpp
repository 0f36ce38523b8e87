// quire bench ops: times of single operations, and the share of this machine's ceilings.

#include "cli/bench_ops.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/common.h"
#include "cli/failure.h"
#include "cli/figures.h"
#include "cli/output.h"
#include "cli/session_setup.h"
#include "cli/signals.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/ops/tile/ceilings.h"

namespace quire::cli {
namespace {

constexpr std::int64_t kMostRounds = 1000;
constexpr std::int64_t kMostRows = std::int64_t{1} << 32;
constexpr std::int64_t kMostFloats = 1 << 16;

/// A signal came: what was measured so far is of no use.
struct Stopped {};

struct Family {
  const char* name;
  OpBenchResult (*run)(const OpBenchArguments&);
};
constexpr Family kFamilies[] = {{"index", bench_index}};

struct OpsCommand {
  Common common;
  std::optional<std::string> family;
  std::optional<std::int64_t> rounds;
  OpBenchArguments ops;
};

std::vector<Family> families_of(const std::optional<std::string>& name) {
  std::vector<Family> out;
  std::string known;
  for (const Family& family : kFamilies) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", family.name);
    if (!name || *name == family.name) out.push_back(family);
  }
  QUIRE_CHECK(!out.empty(), "FAMILY is '", *name, "'; in this version: ", known);
  return out;
}

Json to_json(const OpBenchResult& result) {
  Json::Array rows;
  for (const OpRow& row : result.rows) {
    Json out;
    out["op"] = row.op;
    out["shape"] = Json::Array(row.shape.begin(), row.shape.end());
    out["dtype"] = row.dtype;
    for (const auto& [key, value] : row.details) out[key] = value;
    out["seconds"] = row.seconds;
    if (row.gb_s > 0) out["gb_s"] = row.gb_s;
    if (row.gflop_s > 0) out["gflop_s"] = row.gflop_s;
    out["share"] = (row.gb_s + row.gflop_s) / row.ceiling;
    rows.push_back(std::move(out));
  }
  Json out;
  out["rows"] = std::move(rows);
  out["ceilings"] = result.ceilings;
  out["threads"] = thread_pool().threads();
  out["isa"] = to_string(isa());
  return out;
}

std::string details_text(const Json::Object& details) {
  std::string out;
  for (const auto& [key, value] : details)
    out += fmt::format("{}{}", out.empty() ? "" : " ",
                       value.is_string() ? value.as_string() : value.dump());
  return out;
}

std::string table(const OpBenchResult& result) {
  std::string out = fmt::format("{:<21}{:<15}{:<24}{:>10}{:>9}  share\n", "", "", "", "ms", "");
  for (const OpRow& row : result.rows) {
    const bool bytes = row.gb_s > 0;
    const double rate = bytes ? row.gb_s : row.gflop_s;
    out +=
        fmt::format("{:<21}{:<15}{:<24}{:>10.2f}{:>9.1f} {} {:>3.0f} %\n", row.op,
                    fmt::format("{}", fmt::join(row.shape, "x")), details_text(row.details),
                    1e3 * row.seconds, rate, bytes ? "GB/s" : "GFLOP/s", 100 * rate / row.ceiling);
  }
  out += fmt::format("{} threads, {}; ceilings:", thread_pool().threads(), to_string(isa()));
  for (const auto& [key, value] : result.ceilings) out += fmt::format(" {} {}", key, value.dump());
  return out + "\n";
}

OpBenchResult measure(const std::vector<Family>& families, const OpBenchArguments& arguments) {
  const Ceilings machine = measure_ceilings(arguments.smoke ? Effort::kQuick : Effort::kFull);
  OpBenchResult out;
  out.ceilings.emplace_back("stream_gb_s", machine.stream_gb_s);
  for (const Family& family : families) {
    OpBenchResult part = family.run(arguments);
    out.rows.insert(out.rows.end(), part.rows.begin(), part.rows.end());
    out.ceilings.insert(out.ceilings.end(), part.ceilings.begin(), part.ceilings.end());
  }
  return out;
}

}  // namespace

double median_seconds(std::int64_t rounds, const std::function<void()>& body) {
  std::vector<double> seconds;
  body();
  for (std::int64_t round = 0; round < rounds; ++round) {
    const Stopwatch watch;
    body();
    seconds.push_back(watch.seconds());
  }
  return median(std::move(seconds));
}

int bench_ops(Arguments arguments) {
  OpsCommand a;
  Options options("bench ops", "[FAMILY]",
                  "Times of single operations, and the share of this machine's ceilings.");
  options.argument("FAMILY", a.family, "index; all without it");
  options.group("Measurement");
  options.integer("--rounds", a.rounds, {1, kMostRounds}, "Medians of so many [9]");
  options.flag("--smoke", a.ops.smoke, "Tiny sizes, one round: only whether it works");
  options.group("Family index");
  options.integer("--rows", a.ops.rows, {1, kMostRows}, "Rows gathered or scattered [1Mi]",
                  Suffix::kSize);
  options.integer("--places", a.ops.places, {1, kMostRows}, "Rows on the other side [64Ki]",
                  Suffix::kSize);
  options.integers("--floats", a.ops.floats, {1, kMostFloats}, "Floats in a row [1,64,128]");
  options.group("Computation");
  options.integer("--threads", a.common.threads, {1, 1024}, "Threads [all cores]");
  add_output(options, a.common);
  if (!options.parse(arguments)) return kOk;
  const std::vector<Family> families = families_of(a.family);
  a.ops.rounds = a.rounds.value_or(a.ops.smoke ? 1 : 9);
  a.ops.say = [&](const std::string& op) {
    if (stop_signal() != 0) throw Stopped{};
    if (wants_progress(a.common) && error_terminal().present) note("quire: " + op);
  };
  catch_signals();
  apply(a.common);
  try {
    const OpBenchResult result = measure(families, a.ops);
    if (a.common.json) {
      print_json(to_json(result));
    } else {
      print(table(result));
    }
  } catch (const Stopped&) {
    return signal_exit_code();
  }
  return kOk;
}

}  // namespace quire::cli

#include "cli/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/figures.h"
#include "quire/base/error.h"
#include "quire/eval/plot.h"

namespace quire::cli {
namespace {

Json to_json(const eval::Interval& interval) { return Json::Array{interval.low, interval.high}; }

Json budget_json(const std::string& budget) {
  return budget.empty() ? Json(nullptr) : Json(budget);
}

std::string budget_text(const std::string& budget) { return budget.empty() ? "-" : budget; }

Json to_json(const EvalRow& row) {
  const eval::Row& f = row.figures;
  Json out;
  out["cache"] = f.cache;
  out["budget"] = budget_json(f.budget);
  out["bytes_read"] = static_cast<std::int64_t>(std::llround(f.bytes_read));
  out["bytes_stored"] = f.bytes_stored;
  if (f.reread > 0) out["reread_tokens"] = f.reread;
  out["kl_mean"] = f.kl_mean;
  out["kl_median"] = f.kl_median;
  out["kl_p99"] = f.kl_p99;
  out["kl_interval"] = to_json(f.kl_interval);
  out["top1"] = f.top1;
  out["dnll"] = f.dnll;
  out["dnll_interval"] = to_json(f.dnll_interval);
  out["dnll_far"] = f.dnll_far;
  out["mass"] = row.mass;
  out["mass_p5"] = row.fidelity.mass_p5;
  out["mass_worst_head"] = row.fidelity.mass_worst_head;
  out["error"] = row.fidelity.error_mean;
  out["error_p95"] = row.fidelity.error_p95;
  out["error_worst_head"] = row.fidelity.error_worst_head;
  out["worst_head"] = Json::Array{row.fidelity.worst_layer, row.fidelity.worst_head};
  out["tok_s"] = f.tok_s;
  return out;
}

/// "0.0123", "1.2e-04", "0"
std::string small(double value) {
  if (value == 0) return "0";
  if (!std::isfinite(value)) return "-";
  return std::abs(value) < 0.001 ? fmt::format("{:.1e}", value) : fmt::format("{:.4f}", value);
}

std::string interval_text(const eval::Interval& interval) {
  return fmt::format("[{}, {}]", small(interval.low), small(interval.high));
}

std::string percent(double part) {
  return std::isfinite(part) ? fmt::format("{:.2f}%", 100 * part) : std::string("-");
}

/// The widest cache and budget: the first columns of all tables.
struct Widths {
  int cache = 19, budget = 7;
};

Widths widths_of(const EvalReport& report) {
  Widths out;
  const auto fit = [&](const std::string& cache, const std::string& budget) {
    out.cache = std::max(out.cache, static_cast<int>(cache.size()) + 1);
    out.budget = std::max(out.budget, static_cast<int>(budget.size()));
  };
  for (const EvalRow& row : report.rows) fit(row.figures.cache, row.figures.budget);
  for (const LeftOut& one : report.left_out) fit(one.cache, one.budget);
  return out;
}

std::string differences_text(const EvalReport& report) {
  const Widths w = widths_of(report);
  std::string out;
  for (const EvalDifference& d : report.differences) {
    if (d.cache != "window" && d.other != "window") continue;
    const bool turned = d.cache == "window";
    const double sign = turned ? -1 : 1;
    const eval::Interval interval =
        turned ? eval::Interval{-d.interval.high, -d.interval.low} : d.interval;
    out += fmt::format("  {:<{}}{:>{}}  {:>9}  {}\n", turned ? d.other : d.cache, w.cache, d.budget,
                       w.budget + 1, small(sign * d.kl), interval_text(interval));
  }
  return out.empty() ? out : "\nKL beside window's at the same budget (paired, 95 %)\n" + out;
}

std::string left_out_text(const EvalReport& report) {
  const Widths w = widths_of(report);
  std::string out;
  for (const LeftOut& one : report.left_out)
    out += fmt::format("  {:<{}}{:>{}}  {}\n", one.cache, w.cache, one.budget, w.budget + 1,
                       one.reason);
  return out.empty() ? out : "\nLeft out\n" + out;
}

std::string tasks_text(const EvalReport& report) {
  if (report.tasks.empty()) return "";
  const Widths w = widths_of(report);
  std::string out = fmt::format("\n{:<10}{:<{}}{:>{}}  {:>9}  dropped\n", "task", "cache", w.cache,
                                "budget", w.budget + 1, "passed");
  for (const eval::TaskScore& score : report.tasks) {
    const bool claim = score.cells >= eval::kFewestCells;
    const std::string passed =
        claim ? fmt::format("{} / {}", score.passed, score.cells) : std::string("no claim");
    out += fmt::format("{:<10}{:<{}}{:>{}}  {:>9}  {}", score.task, score.cache, w.cache,
                       budget_text(score.budget), w.budget + 1, passed, score.dropped);
    if (score.known > 0) out += fmt::format(" ({} known without the document)", score.known);
    if (!claim)
      out += fmt::format("; {} cells count, fewer than {}", score.cells, eval::kFewestCells);
    out += '\n';
  }
  return out;
}

}  // namespace

std::vector<EvalDifference> differences(const std::vector<eval::Row>& rows,
                                        const std::vector<eval::Comparison>& comparisons,
                                        const eval::BootstrapSpec& bootstrap) {
  QUIRE_CHECK(rows.size() == comparisons.size(), "rows and comparisons are not equally many");
  std::vector<EvalDifference> out;
  for (std::size_t a = 0; a < rows.size(); ++a) {
    for (std::size_t b = a + 1; b < rows.size(); ++b) {
      if (rows[a].budget != rows[b].budget || rows[a].budget.empty()) continue;
      const std::vector<double> kl = eval::difference(comparisons[a].kl, comparisons[b].kl);
      out.push_back({rows[a].cache, rows[b].cache, rows[a].budget, eval::mean(kl),
                     eval::bootstrap_mean(kl, bootstrap)});
    }
  }
  return out;
}

Json to_json(const EvalReport& report) {
  Json out;
  out["model"] = report.model;
  out["text"] = report.text;
  out["in_text"] = report.in_text;
  out["tokens"] = report.tokens;
  out["document"] = report.document;
  out["positions"] = report.positions;
  Json::Array rows, differences, tasks, left_out;
  for (const EvalRow& row : report.rows) rows.push_back(to_json(row));
  for (const EvalDifference& d : report.differences) {
    Json item;
    item["cache"] = d.cache;
    item["other"] = d.other;
    item["budget"] = budget_json(d.budget);
    item["kl"] = d.kl;
    item["interval"] = to_json(d.interval);
    differences.push_back(std::move(item));
  }
  for (const eval::TaskScore& score : report.tasks) {
    Json item;
    item["task"] = score.task;
    item["cache"] = score.cache;
    item["budget"] = budget_json(score.budget);
    item["passed"] = score.passed;
    item["cells"] = score.cells;
    item["dropped"] = score.dropped;
    item["known"] = score.known;
    item["claim"] = score.cells >= eval::kFewestCells;
    tasks.push_back(std::move(item));
  }
  for (const LeftOut& one : report.left_out) {
    Json item;
    item["cache"] = one.cache;
    item["budget"] = one.budget;
    item["reason"] = one.reason;
    left_out.push_back(std::move(item));
  }
  out["rows"] = std::move(rows);
  out["differences"] = std::move(differences);
  out["tasks"] = std::move(tasks);
  out["left_out"] = std::move(left_out);
  out["seconds"] = report.seconds;
  return out;
}

std::string to_text(const EvalReport& report) {
  std::string out = fmt::format("{} tokens read exactly, then {} positions one by one",
                                grouped(report.document), report.positions);
  if (report.tokens < report.in_text)
    out += fmt::format("; the text has {} tokens", grouped(report.in_text));
  out += "\n\n";
  const Widths w = widths_of(report);
  out += fmt::format("{:<{}}{:>{}} {:>9} {:>9} {:>8} {:>19} {:>8} {:>7} {:>7} {:>8} {:>8} {:>6}\n",
                     "cache", w.cache, "budget", w.budget, "R read", "S stored", "KL", "95 %",
                     "median", "p99", "top-1", "dNLL", "far", "tok/s");
  for (const EvalRow& row : report.rows) {
    const eval::Row& f = row.figures;
    out += fmt::format(
        "{:<{}}{:>{}} {:>9} {:>9} {:>8} {:>19} {:>8} {:>7} {:>7} {:>8} {:>8} {:>6.1f}\n", f.cache,
        w.cache, budget_text(f.budget), w.budget,
        bytes_text(static_cast<std::int64_t>(std::llround(f.bytes_read))),
        bytes_text(f.bytes_stored), small(f.kl_mean), interval_text(f.kl_interval),
        small(f.kl_median), small(f.kl_p99), percent(f.top1), small(f.dnll), small(f.dnll_far),
        f.tok_s);
  }
  out += fmt::format("\n{:<{}}{:>{}}  {:>8} {:>8} {:>10}  {:>8} {:>8} {:>10}\n", "attention alone",
                     w.cache, "budget", w.budget, "error", "p95", "worst head", "mass", "p5",
                     "worst head");
  for (const EvalRow& row : report.rows) {
    const eval::Fidelity& f = row.fidelity;
    out += fmt::format("{:<{}}{:>{}}  {:>8} {:>8} {:>10}  {:>8} {:>8} {:>10}\n", row.figures.cache,
                       w.cache, budget_text(row.figures.budget), w.budget, small(f.error_mean),
                       small(f.error_p95), small(f.error_worst_head), percent(row.mass),
                       percent(f.mass_p5), percent(f.mass_worst_head));
  }
  return out + left_out_text(report) + differences_text(report) + tasks_text(report);
}

std::string to_svg(const EvalReport& report) {
  eval::PlotPanel read{"R: bytes read", "bytes read per decode step", "KL to the full cache", {}};
  eval::PlotPanel stored{
      "S: bytes stored", "bytes stored in all tiers", "KL to the full cache", {}};
  for (const EvalRow& row : report.rows) {
    const eval::Row& f = row.figures;
    if (read.curves.empty() || read.curves.back().name != f.cache) {
      read.curves.push_back({f.cache, {}});
      stored.curves.push_back({f.cache, {}});
    }
    read.curves.back().points.push_back({f.bytes_read, f.kl_mean, f.budget});
    stored.curves.back().points.push_back(
        {static_cast<double>(f.bytes_stored), f.kl_mean, f.budget});
  }
  return eval::plot_svg({read, stored});
}

}  // namespace quire::cli

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "quire/base/json.h"

namespace quire::cli {

/// quire bench ops; `arguments` follow the word "ops".
int bench_ops(Arguments arguments);

/// One measured operation: a line of the table, an element of `rows` in docs/json.md.
struct OpRow {
  std::string op;                   // "scatter_reduce sum"
  std::vector<std::int64_t> shape;  // of the larger operand
  std::string dtype = "f32";
  Json::Object details;  // what else tells this case from the others, by key
  double seconds = 0;    // the median
  double gb_s = 0;       // 1e9 bytes a second, or
  double gflop_s = 0;    // 1e9 operations a second; the other is 0
  double ceiling = 0;    // that rate at most, on this machine: the share's denominator
};

/// What a family of operations needs to know.
struct OpBenchArguments {
  std::int64_t rounds = 9;  // medians of so many
  bool smoke = false;       // tiny sizes: only whether it works
  std::optional<std::int64_t> rows, places;
  std::optional<std::vector<std::int64_t>> floats;
  std::function<void(const std::string& op)> say;  // before each measurement; may throw to stop
};

struct OpBenchResult {
  std::vector<OpRow> rows;
  Json::Object ceilings;  // those of this family
};

/// gather, index_select and scatter_reduce over rows of floats (index_bench.cpp).
OpBenchResult bench_index(const OpBenchArguments& arguments);

/// Seconds of one call, the median of `rounds` after one that does not count.
double median_seconds(std::int64_t rounds, const std::function<void()>& body);

}  // namespace quire::cli

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/options.h"
#include "quire/base/dtype.h"
#include "quire/model/model.h"

namespace quire::cli {

/// What most commands take.
struct Common {
  bool json = false, quiet = false, verbose = false;
  std::string mode = "fast";
  std::optional<std::int64_t> threads;
  std::optional<std::string> kv;
  std::optional<std::int64_t> context;
};

void add_output(Options& options, Common& common);   // --json --quiet --verbose
void add_compute(Options& options, Common& common);  // --mode --threads
void add_cache(Options& options, Common& common);    // --context --kv
void add_kv(Options& options, Common& common);       // --kv

/// Gives the thread pool its size.
void apply(const Common& common);

model::Mode mode(const Common& common);
/// The cache's storage type: --kv, else what the mode takes.
DType kv_type(const Common& common);

/// "f16"
std::string kv_name(DType kv);

}  // namespace quire::cli

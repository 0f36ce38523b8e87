// How far a policy moves a model: reads a document, applies the budget, then feeds the tokens that
// follow one by one and compares the logits with those of the full cache: mean KL(full ‖ policy).
//
//   policies_bench MODEL.gguf IDS DOCUMENT TOKENS BUDGET,… NAME,… [exact|fast]
//
// IDS is a file of token ids; the first DOCUMENT are read, the TOKENS behind them are fed. Prints a
// JSON object a line. bench/peers/policies sets other programs beside it.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "quire/cache/policies/policies.h"
#include "quire/model/model.h"

namespace {

using quire::cache::KvCache;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out{""};
  for (const char c : text) {
    if (c == ',') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

/// Log-probabilities after each of the fed tokens.
struct Run {
  std::vector<std::vector<float>> log_p;
  quire::cache::CacheReport report;
  double mass = 0, seconds = 0;
};

std::vector<float> log_softmax(const quire::Tensor& logits_1V) {
  const std::int64_t V = logits_1V.elements();
  const float* x = logits_1V.data<float>();
  double largest = -INFINITY, sum = 0;
  for (std::int64_t i = 0; i < V; ++i) largest = std::max(largest, double{x[i]});
  for (std::int64_t i = 0; i < V; ++i) sum += std::exp(double{x[i]} - largest);
  std::vector<float> out(static_cast<std::size_t>(V));
  for (std::int64_t i = 0; i < V; ++i)
    out[static_cast<std::size_t>(i)] = static_cast<float>(double{x[i]} - largest - std::log(sum));
  return out;
}

void read(const quire::model::Model& model, std::span<const std::int32_t> ids, KvCache& cache) {
  for (std::size_t at = 0; at < ids.size(); at += 256)
    (void)model.forward(ids.subspan(at, std::min<std::size_t>(256, ids.size() - at)), cache);
}

Run feed(const quire::model::Model& model, std::span<const std::int32_t> ids, std::size_t document,
         KvCache& cache) {
  cache.end_reading();
  Run out;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t at = document; at < ids.size(); ++at) {
    out.log_p.push_back(log_softmax(model.logits(model.forward(ids.subspan(at, 1), cache))));
    out.mass += cache.report().mass / static_cast<double>(ids.size() - document);
  }
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out.report = cache.report();
  return out;
}

double mean_kl(const Run& truth, const Run& run) {
  double sum = 0;
  for (std::size_t n = 0; n < truth.log_p.size(); ++n)
    for (std::size_t i = 0; i < truth.log_p[n].size(); ++i) {
      const double p = double{truth.log_p[n][i]};
      sum += std::exp(p) * (p - double{run.log_p[n][i]});
    }
  return sum / static_cast<double>(truth.log_p.size());
}

int run(const std::vector<std::string>& a) {
  std::ifstream file(a[1]);
  std::vector<std::int32_t> ids{std::istream_iterator<std::int32_t>(file), {}};
  const std::size_t document = std::stoul(a[2]), tokens = std::stoul(a[3]);
  if (ids.size() < document + tokens || tokens == 0) {
    fmt::print(stderr, "{} holds {} ids, not {} and {} more\n", a[1], ids.size(), document, tokens);
    return 2;
  }
  ids.resize(document + tokens);
  const auto model = quire::model::Model::load(
      quire::model::ModelFile::open(a[0]),
      {a.size() > 6 && a[6] == "fast" ? quire::model::Mode::kFast : quire::model::Mode::kExact,
       {}});
  const auto specs = model->paged_spec(model->default_kv()).layers;
  const auto capacity = static_cast<std::int64_t>(ids.size());
  using quire::cache::make_policy, quire::cache::PolicyCache;
  const auto reader = [&](quire::DType kv) {
    auto cache = std::make_unique<PolicyCache>(specs, quire::cache::all_observing_policy(),
                                               quire::cache::Budget{}, capacity, kv);
    read(*model, std::span(ids).first(document), *cache);
    return cache;
  };
  const std::unique_ptr<PolicyCache> once = reader(model->default_kv());
  const auto full = once->with(make_policy("full"), {});
  const Run truth = feed(*model, ids, document, *full);
  for (const std::string& name : split(a[5])) {
    for (const std::string& budget : split(a[4])) {
      const auto cache = (name == "int8" ? reader(quire::DType::kI8) : nullptr);
      const auto compressed =
          (cache ? *cache : *once)
              .with(make_policy(name), {.tokens = std::stol(budget)}, quire::cache::Measure::kMass);
      const Run result = feed(*model, ids, document, *compressed);
      fmt::print(R"({{"cache": "{}", "budget": {}, "kl_mean": {:.6g}, "mass": {:.6g}, )"
                 R"("bytes_read": {}, "bytes_stored": {}, "tok_s": {:.4g}}})"
                 "\n",
                 name, budget, mean_kl(truth, result), result.mass, result.report.bytes_read,
                 result.report.bytes_stored, static_cast<double>(tokens) / result.seconds);
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 6) {
    fmt::print(stderr, "usage: {} MODEL.gguf IDS DOCUMENT TOKENS BUDGET,… NAME,… [exact|fast]\n",
               argv[0]);
    return 2;
  }
  try {
    return run(arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}

#include "quire/eval/compare.h"

#include <algorithm>
#include <chrono>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"

namespace quire::eval {
namespace {

constexpr std::int64_t kSlice = 32;  // positions whose logits are in memory at once

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Feeds the positions [begin, end) one by one; returns their logits and adds to the ledgers.
Tensor step(const model::Model& model, const Reading& reading, std::int64_t begin, std::int64_t end,
            cache::KvCache& cache, Comparison& out) {
  std::vector<Tensor> rows;
  for (std::int64_t i = begin; i < end; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::int32_t id = reading.ids[static_cast<std::size_t>(reading.document + i)];
    rows.push_back(model.logits(model.forward({&id, 1}, cache)));
    out.seconds += seconds_since(start);
    const cache::CacheReport report = cache.report();
    out.bytes_read += static_cast<double>(report.bytes_read);
    out.mass += report.mass;
  }
  const std::int64_t V = rows.front().size(1);
  Tensor logits_NV = Tensor::empty({end - begin, V}, DType::kF32);
  for (std::size_t n = 0; n < rows.size(); ++n) {
    std::copy_n(rows[n].data<float>(), V,
                logits_NV.mutable_data<float>() + static_cast<std::int64_t>(n) * V);
  }
  return logits_NV;
}

/// Compares the positions first, first + 1, … with the full cache's logits.
void compare_rows(const Tensor& full_NV, const Tensor& other_NV, const Reading& reading,
                  std::int64_t first, Comparison& out) {
  const auto V = static_cast<std::size_t>(full_NV.size(1));
  const float* full = full_NV.data<float>();
  const float* other = other_NV.data<float>();
  thread_pool().run(full_NV.size(0), [&](std::int64_t n) {
    const std::int64_t row = n * full_NV.size(1);
    const Divergence d =
        divergence({full + row, V}, {other + row, V},
                   reading.ids[static_cast<std::size_t>(reading.document + first + n + 1)]);
    const auto at = static_cast<std::size_t>(first + n);
    out.kl[at] = d.kl;
    out.nll[at] = d.nll;
    out.nll_full[at] = d.nll_full;
    out.same_top[at] = d.same_top ? 1 : 0;
  });
}

}  // namespace

std::optional<Comparison> compare(const model::Model& model, const Reading& reading,
                                  const Candidate& candidate, const Progress& progress) {
  const std::int64_t document = reading.document, n = reading.positions;
  const auto cache = candidate.make(document, document + n);
  if (!replay(*reading.recording, document, *cache, first_query_wanted(*cache, document), 256,
              progress))
    return std::nullopt;
  cache->end_reading();
  Comparison out;
  out.mass = 0;
  for (std::vector<double>* values : {&out.kl, &out.nll, &out.nll_full})
    values->resize(static_cast<std::size_t>(n));
  out.same_top.resize(static_cast<std::size_t>(n));
  for (std::int64_t begin = 0; begin < n; begin += kSlice) {
    const std::int64_t end = std::min(n, begin + kSlice);
    const Tensor other_NV = step(model, reading, begin, end, *cache, out);
    compare_rows(model.logits(reading.hidden_ND.slice(0, begin, end)), other_NV, reading, begin,
                 out);
    if (progress && !progress(document + end)) return std::nullopt;
  }
  out.bytes_read /= static_cast<double>(n);
  out.mass /= static_cast<double>(n);
  out.bytes_stored = cache->report().bytes_stored;
  return out;
}

Row summarise(const Candidate& candidate, const Comparison& comparison,
              const std::vector<std::size_t>& far, const BootstrapSpec& bootstrap) {
  const std::vector<double> dnll = difference(comparison.nll, comparison.nll_full);
  std::vector<double> dnll_far;
  for (const std::size_t at : far) {
    QUIRE_CHECK(at < dnll.size(), "far names position ", static_cast<std::int64_t>(at), " of ",
                static_cast<std::int64_t>(dnll.size()));
    dnll_far.push_back(dnll[at]);
  }
  Row row;
  row.cache = candidate.cache;
  row.budget = candidate.budget;
  row.bytes_read = comparison.bytes_read;
  row.bytes_stored = comparison.bytes_stored;
  row.kl_mean = mean(comparison.kl);
  row.kl_median = quantile(comparison.kl, 0.5);
  row.kl_p99 = quantile(comparison.kl, 0.99);
  row.kl_interval = bootstrap_mean(comparison.kl, bootstrap);
  const std::vector<double> same(comparison.same_top.begin(), comparison.same_top.end());
  row.top1 = mean(same);
  row.dnll = mean(dnll);
  row.dnll_interval = bootstrap_mean(dnll, bootstrap);
  row.dnll_far = mean(dnll_far);
  row.tok_s =
      comparison.seconds > 0 ? static_cast<double>(comparison.kl.size()) / comparison.seconds : 0;
  return row;
}

std::vector<std::size_t> far_positions(const Comparison& window) {
  return largest_tenth(difference(window.nll, window.nll_full));
}

}  // namespace quire::eval

#include "quire/eval/compare.h"

#include <algorithm>
#include <chrono>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/eval/lockstep.h"

namespace quire::eval {
namespace {

constexpr std::int64_t kSlice = 16;  // positions whose logits are in memory at once

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void take_report(const cache::KvCache& cache, Comparison& out) {
  const cache::CacheReport report = cache.report();
  out.bytes_read += static_cast<double>(report.bytes_read);
  out.mass += report.mass;
}

/// Feeds the positions [begin, end) one by one to each cache by itself; adds to the ledgers.
/// Returns the hidden states of each cache.
std::vector<Tensor> step_alone(const model::Model& model, const Reading& reading,
                               std::int64_t begin, std::int64_t end,
                               std::span<cache::KvCache* const> caches, std::span<Comparison> out) {
  std::vector<Tensor> hidden_CND;
  for (std::size_t c = 0; c < caches.size(); ++c) {
    Tensor hidden_ND = Tensor::empty({end - begin, model.config().D}, DType::kF32);
    for (std::int64_t i = begin; i < end; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const std::int32_t id = reading.ids[static_cast<std::size_t>(reading.document + i)];
      const Tensor one_1D = model.forward({&id, 1}, *caches[c]);
      static_cast<void>(model.logits(one_1D));  // a part of the time that a token takes
      out[c].seconds += seconds_since(start);
      take_report(*caches[c], out[c]);
      std::copy_n(one_1D.data<float>(), one_1D.elements(),
                  hidden_ND.mutable_data<float>() + (i - begin) * one_1D.elements());
    }
    out[c].timed += end - begin;
    hidden_CND.push_back(hidden_ND);
  }
  return hidden_CND;
}

/// The same in lockstep, without times.
std::vector<Tensor> step_together(const model::Model& model, const Reading& reading,
                                  std::int64_t begin, std::int64_t end,
                                  std::span<cache::KvCache* const> caches,
                                  std::span<Comparison> out) {
  Lockstep lockstep({caches.begin(), caches.end()});
  const std::int64_t D = model.config().D;
  std::vector<Tensor> hidden_CND;
  for (std::size_t c = 0; c < caches.size(); ++c)
    hidden_CND.push_back(Tensor::empty({end - begin, D}, DType::kF32));
  for (std::int64_t i = begin; i < end; ++i) {
    const std::vector<std::int32_t> ids(
        caches.size(), reading.ids[static_cast<std::size_t>(reading.document + i)]);
    const Tensor hidden_CD = model.forward(ids, lockstep);
    for (std::size_t c = 0; c < caches.size(); ++c) {
      std::copy_n(hidden_CD.data<float>() + static_cast<std::int64_t>(c) * D, D,
                  hidden_CND[c].mutable_data<float>() + (i - begin) * D);
      take_report(*caches[c], out[c]);
    }
  }
  return hidden_CND;
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

std::optional<std::vector<Comparison>> compare(const model::Model& model, const Reading& reading,
                                               std::span<cache::KvCache* const> caches,
                                               const Progress& progress) {
  const std::int64_t n = reading.positions;
  Comparison empty;
  empty.mass = 0;
  for (std::vector<double>* values : {&empty.kl, &empty.nll, &empty.nll_full})
    values->resize(static_cast<std::size_t>(n));
  empty.same_top.resize(static_cast<std::size_t>(n));
  std::vector<Comparison> out(caches.size(), empty);
  for (std::int64_t begin = 0; begin < n; begin += kSlice) {
    const std::int64_t end = std::min(n, begin + kSlice);
    const bool alone = begin == 0 || caches.size() == 1;
    const auto& step = alone ? step_alone : step_together;
    const std::vector<Tensor> hidden_CND = step(model, reading, begin, end, caches, out);
    const Tensor full_NV = model.logits(reading.hidden_ND.slice(0, begin, end));
    for (std::size_t c = 0; c < caches.size(); ++c)
      compare_rows(full_NV, model.logits(hidden_CND[c]), reading, begin, out[c]);
    if (progress && !progress(end)) return std::nullopt;
  }
  for (std::size_t c = 0; c < caches.size(); ++c) {
    out[c].bytes_read /= static_cast<double>(n);
    out[c].mass /= static_cast<double>(n);
    out[c].bytes_stored = caches[c]->report().bytes_stored;
    out[c].reread = caches[c]->report().reread;
    caches[c]->truncate(reading.document);
  }
  return out;
}

std::optional<Comparison> compare(const model::Model& model, const Reading& reading,
                                  const Candidate& candidate, const Progress& progress) {
  const std::int64_t document = reading.document;
  const auto cache = candidate.make(document, document + reading.positions);
  if (!replay(*reading.recording, document, *cache, first_query_wanted(*cache, document), 256,
              progress))
    return std::nullopt;
  cache->end_reading();
  cache::KvCache* const caches[] = {cache.get()};
  const Progress behind = [&](std::int64_t done) { return progress(document + done); };
  auto out = compare(model, reading, caches, progress ? behind : Progress());
  if (!out) return std::nullopt;
  return std::move(out->front());
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
  row.reread = comparison.reread;
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
      comparison.seconds > 0 ? static_cast<double>(comparison.timed) / comparison.seconds : 0;
  return row;
}

std::vector<std::size_t> far_positions(const Comparison& window) {
  return largest_tenth(difference(window.nll, window.nll_full));
}

}  // namespace quire::eval

#include "quire/eval/fidelity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"
#include "quire/cache/policy_cache.h"
#include "quire/eval/statistics.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/attention_mass.h"

namespace quire::eval {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// ‖other − full‖ / ‖full‖ of head h of one row.
double relative_error(const Tensor& other_1HU, const Tensor& full_1HU, std::int64_t h) {
  const std::int64_t U = full_1HU.size(2);
  const float* other = other_1HU.data<float>() + h * U;
  const float* full = full_1HU.data<float>() + h * U;
  double distance = 0, norm = 0;
  for (std::int64_t u = 0; u < U; ++u) {
    const double d = double{other[u]} - double{full[u]};
    distance += d * d;
    norm += double{full[u]} * double{full[u]};
  }
  return distance == 0 ? 0 : std::sqrt(distance / norm);
}

/// What was found of one cache, by position.
struct Found {
  std::vector<std::vector<std::vector<double>>> errors_LH, masses_LG;

  Fidelity summary() const {
    Fidelity out;
    std::vector<double> errors, masses;
    for (std::size_t layer = 0; layer < errors_LH.size(); ++layer) {
      for (std::size_t h = 0; h < errors_LH[layer].size(); ++h) {
        const std::vector<double>& of_head = errors_LH[layer][h];
        errors.insert(errors.end(), of_head.begin(), of_head.end());
        if (mean(of_head) > out.error_worst_head) {
          out.error_worst_head = mean(of_head);
          out.worst_layer = static_cast<std::int64_t>(layer);
          out.worst_head = static_cast<std::int64_t>(h);
        }
      }
      for (const std::vector<double>& of_head : masses_LG[layer]) {
        masses.insert(masses.end(), of_head.begin(), of_head.end());
        if (!of_head.empty()) out.mass_worst_head = std::min(out.mass_worst_head, mean(of_head));
      }
    }
    out.error_mean = mean(errors);
    out.error_p95 = quantile(errors, 0.95);
    out.mass_mean = mean(masses);
    out.mass_p5 = quantile(masses, 0.05);
    if (masses.empty()) out.mass_worst_head = kUnknown;
    return out;
  }
};

/// The measurement over one run of positions.
class Meter {
 public:
  Meter(const RecordingCache& recording, DType kv, std::span<cache::KvCache* const> caches)
      : recording_(recording), full_(specs(), recording.capacity(), kv), caches_(caches) {
    Found empty;
    for (std::int64_t layer = 0; layer < recording.layers(); ++layer) {
      empty.errors_LH.emplace_back(static_cast<std::size_t>(recording.spec(layer).H));
      empty.masses_LG.emplace_back(static_cast<std::size_t>(recording.spec(layer).G));
    }
    found_C_.assign(caches.size(), empty);
  }

  cache::KvCache& full() { return full_; }

  /// One token behind what all caches hold.
  void take(bool takes_mass) {
    const std::int64_t at = full_.length();
    const auto ids = recording_.ids().subspan(static_cast<std::size_t>(at), 1);
    for (cache::KvCache* cache : caches_) cache->begin_step(ids);
    for (std::int64_t layer = 0; layer < recording_.layers(); ++layer) {
      const Tensor k_NGK = recording_.k_NGK(layer, at, at + 1);
      const Tensor v_NGU = recording_.v_NGU(layer, at, at + 1);
      const Tensor q_NHK = recording_.q_NHK(layer, at, at + 1);
      full_.append(layer, k_NGK, v_NGU);
      const Tensor full_NHU = full_.attend(layer, q_NHK);
      for (std::size_t c = 0; c < caches_.size(); ++c) {
        caches_[c]->append(layer, k_NGK, v_NGU);
        const Tensor out_NHU = caches_[c]->attend(layer, q_NHK);
        auto& errors_H = found_C_[c].errors_LH[static_cast<std::size_t>(layer)];
        for (std::size_t h = 0; h < errors_H.size(); ++h)
          errors_H[h].push_back(relative_error(out_NHU, full_NHU, static_cast<std::int64_t>(h)));
      }
      if (takes_mass) take_mass(layer, q_NHK);
    }
    for (cache::KvCache* cache : caches_) cache->advance(1);
    full_.advance(1);
  }

  std::vector<Fidelity> results() const {
    std::vector<Fidelity> out;
    for (const Found& found : found_C_) out.push_back(found.summary());
    return out;
  }

 private:
  std::vector<cache::LayerSpec> specs() const {
    std::vector<cache::LayerSpec> out;
    for (std::int64_t layer = 0; layer < recording_.layers(); ++layer)
      out.push_back(recording_.spec(layer));
    return out;
  }

  /// What the full attention of one query gave to the keys that each cache attended to.
  void take_mass(std::int64_t layer, const Tensor& q_NHK) {
    const cache::LayerSpec& spec = recording_.spec(layer);
    Tensor mass_PZG;
    for (std::size_t c = 0; c < caches_.size(); ++c) {
      auto& masses_G = found_C_[c].masses_LG[static_cast<std::size_t>(layer)];
      if (dynamic_cast<const cache::ContiguousCache*>(caches_[c]) != nullptr) {
        for (std::vector<double>& of_head : masses_G) of_head.push_back(1);
        continue;
      }
      const auto* policy = dynamic_cast<const cache::PolicyCache*>(caches_[c]);
      if (policy == nullptr) continue;
      if (mass_PZG.elements() == 0) mass_PZG = full_mass(layer, q_NHK);
      const float* mass_ZG = mass_PZG.data<float>();
      for (std::int64_t g = 0; g < spec.G; ++g) {
        double sum = 0;
        for (const std::int32_t key : policy->selected(layer, g)) sum += mass_ZG[key * spec.G + g];
        for (std::int64_t key = policy->context(); key <= full_.length(); ++key)
          sum += mass_ZG[key * spec.G + g];
        masses_G[static_cast<std::size_t>(g)].push_back(sum / static_cast<double>(spec.H / spec.G));
      }
    }
  }

  Tensor full_mass(std::int64_t layer, const Tensor& q_NHK) const {
    AttentionSpec spec = recording_.spec(layer).attention;
    spec.alignment = Alignment::kBottomRight;
    const std::int32_t start[] = {0, 1};
    const Tensor start_J = Tensor::of<std::int32_t>(start, {2});
    const KvView view = full_.view(layer);
    const AttentionResult full = attention(q_NHK, start_J, view, spec);
    return attention_mass(q_NHK, start_J, view, spec, full.lse_NH);
  }

  const RecordingCache& recording_;
  cache::ContiguousCache full_;
  std::span<cache::KvCache* const> caches_;
  std::vector<Found> found_C_;
};

}  // namespace

std::optional<std::vector<Fidelity>> fidelity(const Reading& reading, DType kv,
                                              std::span<cache::KvCache* const> caches,
                                              std::int64_t mass_stride, const Progress& progress) {
  QUIRE_CHECK(mass_stride >= 1, "mass_stride is ", mass_stride, "; it must be at least 1");
  const std::int64_t document = reading.document;
  Meter meter(*reading.recording, kv, caches);
  replay(*reading.recording, document, meter.full(), document);
  for (std::int64_t i = 0; i < reading.positions; ++i) {
    meter.take(i % mass_stride == 0);
    if (progress && !progress(i + 1)) return std::nullopt;
  }
  for (cache::KvCache* cache : caches) cache->truncate(document);
  return meter.results();
}

std::optional<Fidelity> fidelity(const Reading& reading, DType kv, const Candidate& candidate,
                                 std::int64_t mass_stride, const Progress& progress) {
  QUIRE_CHECK(mass_stride >= 1, "mass_stride is ", mass_stride, "; it must be at least 1");
  const std::int64_t document = reading.document;
  const auto cache = candidate.make(document, document + reading.positions);
  if (!replay(*reading.recording, document, *cache, first_query_wanted(*cache, document), 256,
              progress))
    return std::nullopt;
  cache->end_reading();
  cache::KvCache* const caches[] = {cache.get()};
  const Progress behind = [&](std::int64_t done) { return progress(document + done); };
  auto out = fidelity(reading, kv, caches, mass_stride, progress ? behind : Progress());
  if (!out) return std::nullopt;
  return out->front();
}

}  // namespace quire::eval

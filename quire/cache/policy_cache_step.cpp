#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/thread_pool.h"
#include "quire/cache/policy_cache_impl.h"
#include "quire/ops/attention/attention_mass.h"
#include "quire/ops/merge/sequence_view.h"

namespace quire::cache {
namespace {

/// Row n of a result.
void put_row(AttentionResult& to, std::int64_t n, const AttentionResult& one) {
  const std::int64_t out = one.out_NHU.elements(), H = one.lse_NH.elements();
  std::copy_n(one.out_NHU.data<float>(), out, to.out_NHU.mutable_data<float>() + n * out);
  std::copy_n(one.lse_NH.data<float>(), H, to.lse_NH.mutable_data<float>() + n * H);
}

void check_stand_ins(const StandIns& of, const LayerSpec& spec, const Policy& policy) {
  const auto E = static_cast<std::int64_t>(of.bias_E.size());
  QUIRE_CHECK(static_cast<std::int64_t>(of.k_EK.size()) == E * spec.K &&
                  static_cast<std::int64_t>(of.v_EU.size()) == E * spec.U,
              "the policy ", policy.name(), " has ", E, " biases of keys that stand for others, ",
              of.k_EK.size(), " numbers of their keys and ", of.v_EU.size(), " of their values");
}

}  // namespace

AttentionResult PolicyCache::Impl::over_all(PolicyLayer& layer, const Tensor& q_NHK) const {
  KvView view = layer.all->view(layer.length);
  view.length_BG = &layer.length;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, bottom_right(layer.spec));
}

AttentionResult PolicyCache::Impl::over_kept(PolicyLayer& layer, const Tensor& q_NHK,
                                             const float* bias) const {
  const std::int64_t tokens = layer.kept_tokens + layer.length - context;
  KvView view = layer.kept->view(tokens);
  view.length_BG = &tokens;
  view.bias = bias;
  view.bias_heads = layer.spec.G;
  return attention(q_NHK, one_sequence(q_NHK.size(0)), view, bottom_right(layer.spec));
}

Tensor PolicyCache::Impl::over_what_was_kept(PolicyLayer& layer, const Tensor& q_NHK) {
  const bool biased = !layer.bias.empty();
  layer.bytes_read = stored_bytes(layer);
  const AttentionResult out = over_kept(layer, q_NHK, biased ? layer.bias.data() : nullptr);
  if (measure == Measure::kMass) {
    const AttentionResult part = biased ? over_kept(layer, q_NHK, nullptr) : out;
    layer.mass = mass_of(part.lse_NH, over_all(layer, q_NHK).lse_NH);
  }
  return out.out_NHU;
}

/// The attention that each key of the context receives from one query, per kv head: [G, S].
std::vector<float> PolicyCache::Impl::query_mass(PolicyLayer& layer, const Tensor& q_1HK,
                                                 std::int64_t end) const {
  KvView view = layer.all->view(end);
  view.length_BG = &end;
  const Tensor start_J = one_sequence(1);
  const AttentionResult result = attention(q_1HK, start_J, view, bottom_right(layer.spec));
  const Tensor mass_PZG =
      attention_mass(q_1HK, start_J, view, bottom_right(layer.spec), result.lse_NH);
  const auto G = static_cast<std::size_t>(layer.spec.G), S = static_cast<std::size_t>(context);
  std::vector<float> mass_GS(G * S);
  const float* mass = mass_PZG.data<float>();
  for (std::size_t s = 0; s < S; ++s)
    for (std::size_t g = 0; g < G; ++g) mass_GS[g * S + s] = mass[s * G + g];
  return mass_GS;
}

/// What each query selects for each head.
Selected PolicyCache::Impl::select(PolicyLayer& layer, const Tensor& q_NHK) {
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G, S = context;
  const std::int64_t row = q_NHK.size(1) * layer.spec.K, part = row / G;
  const bool wants_mass = policy->observe().query_mass;
  Selected selected;
  selected.at_NG.resize(static_cast<std::size_t>(N * G));
  selected.stand_ins_NG.resize(static_cast<std::size_t>(N * G));
  std::vector<float> score(static_cast<std::size_t>(G * S)), bias(static_cast<std::size_t>(G * S));
  std::vector<std::uint8_t> biased(static_cast<std::size_t>(G));
  for (std::int64_t n = 0; n < N; ++n) {
    std::vector<float> mass_GS;
    if (wants_mass) mass_GS = query_mass(layer, q_NHK.slice(0, n, n + 1), layer.length - N + n + 1);
    thread_pool().run(G, [&](std::int64_t g) {
      HeadContext head;
      head.layer = index_of(layer);
      head.g = g;
      head.spec = &layer.spec;
      head.tokens = S;
      head.budget = budget_tokens;
      head.q_RK = {q_NHK.data<float>() + n * row + g * part, static_cast<std::size_t>(part)};
      const auto keys = static_cast<std::size_t>(S), from = static_cast<std::size_t>(g) * keys;
      if (wants_mass) head.query_mass_S = std::span(mass_GS).subspan(from, keys);
      const auto score_S = std::span(score).subspan(from, keys);
      policy->score(head, score_S);
      Positions& out = selected.at_NG[static_cast<std::size_t>(n * G + g)];
      out = policy->select(head, score_S);
      check_selection(out, S, *policy);
      StandIns& stand_ins = selected.stand_ins_NG[static_cast<std::size_t>(n * G + g)];
      stand_ins = policy->stand_ins(head, out);
      check_stand_ins(stand_ins, layer.spec, *policy);
      biased[static_cast<std::size_t>(g)] =
          policy->bias(head, out, std::span(bias).subspan(from, out.size()));
    });
    if (std::find(biased.begin(), biased.end(), 1) == biased.end()) continue;
    selected.bias_NGS.resize(static_cast<std::size_t>(N * G * S));
    for (std::int64_t g = 0; g < G; ++g) {
      const Positions& at = selected.at_NG[static_cast<std::size_t>(n * G + g)];
      for (std::size_t i = 0; i < at.size(); ++i)
        selected.bias_NGS[static_cast<std::size_t>((n * G + g) * S + at[i])] =
            bias[static_cast<std::size_t>(g * S) + i];
    }
  }
  const auto stands = [](const StandIns& of) { return !of.bias_E.empty(); };
  if (std::none_of(selected.stand_ins_NG.begin(), selected.stand_ins_NG.end(), stands))
    selected.stand_ins_NG.clear();
  return selected;
}

/// Rows [first_row, …) of the step, one sequence each: a table of single slots per kv head, the
/// selected ones and then those of all tokens after the context up to the row's own.
AttentionResult PolicyCache::Impl::attend_rows(PolicyLayer& layer, const Tensor& q_NHK,
                                               std::int64_t first_row,
                                               std::span<const Positions> selected,
                                               const float* bias, const float* sink_H) const {
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G;
  std::vector<std::int64_t> length_NG(static_cast<std::size_t>(N * G));
  std::int64_t widest = 1;
  for (std::int64_t i = 0; i < N * G; ++i) {
    const auto at = static_cast<std::size_t>(i);
    length_NG[at] =
        static_cast<std::int64_t>(selected[at].size()) + first_row + i / G + 1 - context;
    widest = std::max(widest, length_NG[at]);
  }
  std::vector<std::int32_t> table(static_cast<std::size_t>(N * G * widest), -1);
  for (std::int64_t i = 0; i < N * G; ++i) {
    std::int32_t* to = table.data() + i * widest;
    const Positions& from = selected[static_cast<std::size_t>(i)];
    to = std::copy(from.begin(), from.end(), to);
    std::iota(to, table.data() + i * widest + length_NG[static_cast<std::size_t>(i)],
              static_cast<std::int32_t>(context));
  }
  KvView view = layer.all->paged_view(1);
  view.table = table.data();
  view.W = view.table_head_stride = widest;
  view.length_BG = length_NG.data();
  view.length_stride_G = 1;
  view.bias = bias;
  view.bias_heads = G;
  Tensor start_J = Tensor::empty({N + 1}, DType::kI32);
  std::iota(start_J.mutable_data<std::int32_t>(), start_J.mutable_data<std::int32_t>() + N + 1, 0);
  AttentionSpec spec = bottom_right(layer.spec);
  spec.sink_H = sink_H;
  return attention(q_NHK, start_J, view, spec);
}

/// The same for one query at a time, since a bias belongs to a slot and not to a query.
AttentionResult PolicyCache::Impl::attend_biased(PolicyLayer& layer, const Tensor& q_NHK,
                                                 const Selected& selected) const {
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G, first = layer.length - N;
  AttentionResult out{Tensor::empty({N, layer.spec.H, layer.spec.U}, DType::kF32),
                      Tensor::empty({N, layer.spec.H}, DType::kF32)};
  layer.bias.assign(static_cast<std::size_t>(layer.all->slots() * G), 0.0f);
  for (std::int64_t n = 0; n < N; ++n) {
    for (std::int64_t g = 0; g < G; ++g)
      for (std::int64_t s = 0; s < context; ++s)
        layer.bias[static_cast<std::size_t>(s * G + g)] =
            selected.bias_NGS[static_cast<std::size_t>((n * G + g) * context + s)];
    const AttentionResult one =
        attend_rows(layer, q_NHK.slice(0, n, n + 1), first + n,
                    std::span(selected.at_NG)
                        .subspan(static_cast<std::size_t>(n * G), static_cast<std::size_t>(G)),
                    layer.bias.data(), layer.spec.attention.sink_H);
    put_row(out, n, one);
  }
  return out;
}

/// Merges attention over the keys that stand for others into `exact`, query by query.
AttentionResult PolicyCache::Impl::with_stand_ins(const PolicyLayer& layer, const Tensor& q_NHK,
                                                  const AttentionResult& exact,
                                                  std::span<const StandIns> stand_ins_NG) const {
  const auto G = static_cast<std::size_t>(layer.spec.G);
  const std::int64_t K = layer.spec.K, U = layer.spec.U;
  AttentionSpec spec = bottom_right(layer.spec);
  spec.sink_H = nullptr;  // it counts once, in the exact part
  AttentionResult part{Tensor::empty(exact.out_NHU.shape(), DType::kF32),
                       Tensor::empty(exact.lse_NH.shape(), DType::kF32)};
  for (std::int64_t n = 0; n < q_NHK.size(0); ++n) {
    const auto of_G = stand_ins_NG.subspan(static_cast<std::size_t>(n) * G, G);
    std::vector<std::int64_t> length_G;
    for (const StandIns& of : of_G) length_G.push_back(static_cast<std::int64_t>(of.bias_E.size()));
    const std::int64_t E = *std::max_element(length_G.begin(), length_G.end());
    Tensor k_GEK = Tensor::zeros({layer.spec.G, E, K}, DType::kF32),
           v_GEU = Tensor::zeros({layer.spec.G, E, U}, DType::kF32);
    std::vector<float> bias_EG(static_cast<std::size_t>(E) * G);
    for (std::size_t g = 0; g < G; ++g) {
      const StandIns& of = of_G[g];
      const auto head = static_cast<std::int64_t>(g) * E;
      std::copy(of.k_EK.begin(), of.k_EK.end(), k_GEK.mutable_data<float>() + head * K);
      std::copy(of.v_EU.begin(), of.v_EU.end(), v_GEU.mutable_data<float>() + head * U);
      for (std::size_t e = 0; e < of.bias_E.size(); ++e) bias_EG[e * G + g] = of.bias_E[e];
    }
    const SequenceView rows(k_GEK, v_GEU);
    KvView view = rows.kv();
    view.length_BG = length_G.data();
    view.length_stride_G = 1;
    view.bias = bias_EG.data();
    view.bias_heads = layer.spec.G;
    put_row(part, n, attention(q_NHK.slice(0, n, n + 1), one_sequence(1), view, spec));
  }
  return merge_attention(exact, part);
}

Tensor PolicyCache::Impl::over_selected(PolicyLayer& layer, const Tensor& q) {
  const Tensor q_NHK = q.contiguous_copy();
  if (!policy->shared_by_group()) return over_selected_by_heads(layer, q_NHK);
  const std::int64_t N = q_NHK.size(0), G = layer.spec.G, first = layer.length - N;
  const Selected selected = select(layer, q_NHK);
  const auto last = std::span(selected.at_NG).last(static_cast<std::size_t>(G));
  layer.selected.assign(last.begin(), last.end());
  std::int64_t keys = 0;
  for (const Positions& at : last)
    keys += static_cast<std::int64_t>(at.size()) + layer.length - context;
  layer.bytes_read = keys * per_head(layer) + policy->index_bytes_read(index_of(layer));

  const bool biased = !selected.bias_NGS.empty();
  AttentionResult out;
  if (!biased || measure == Measure::kMass)
    out = attend_rows(layer, q_NHK, first, selected.at_NG, nullptr, layer.spec.attention.sink_H);
  if (measure == Measure::kMass) layer.mass = mass_of(out.lse_NH, over_all(layer, q_NHK).lse_NH);
  if (biased) out = attend_biased(layer, q_NHK, selected);
  if (!selected.stand_ins_NG.empty())
    out = with_stand_ins(layer, q_NHK, out, selected.stand_ins_NG);
  return out.out_NHU;
}

}  // namespace quire::cache

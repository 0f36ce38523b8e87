// What a MergedCache does in a step after the merge: each kv head has keys of its own number.

#include <algorithm>

#include "quire/cache/merged_impl.h"
#include "quire/ops/attention/attention_mass.h"

namespace quire::cache {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Adds what the head's keys received.
void watch(MergedHead& head, const Tensor& q_NRK, const Tensor& lse_NR, const KvView& view,
           const AttentionSpec& spec) {
  const Tensor mass_PZ = attention_mass(q_NRK, one_sequence(q_NRK.size(0)), view, spec, lse_NR);
  const std::size_t keys = at(*view.length_BG);
  if (head.mass.size() < keys) head.mass.resize(keys);
  for (std::size_t i = 0; i < keys; ++i) head.mass[i] += double{mass_PZ.data<float>()[i]};
}

}  // namespace

void MergedCache::Impl::put_kept(MergedLayer& layer, const Tensor& k_NGK,
                                 const Tensor& v_NGU) const {
  for (std::int64_t g = 0; g < layer.spec.G; ++g) {
    MergedHead& head = layer.kept[at(g)];
    head.store.write(k_NGK.slice(1, g, g + 1), v_NGU.slice(1, g, g + 1),
                     head.count + length - context);
  }
}

Tensor MergedCache::Impl::attend_merged(MergedLayer& layer, const Tensor& q_NHK) const {
  const LayerSpec& s = layer.spec;
  const std::int64_t N = q_NHK.size(0), R = s.H / s.G;
  const bool goes_on = options.stream_tokens > 0 && N > 0;
  Tensor out_NHU = Tensor::empty({N, s.H, s.U}, DType::kF32);
  for (std::int64_t g = 0; g < s.G; ++g) {
    MergedHead& head = layer.kept[at(g)];
    const std::int64_t keys = keys_in(layer, g);
    KvView view = head.store.view(keys);
    view.length_BG = &keys;
    view.bias = head.bias.data();
    AttentionSpec spec = behind(s);
    if (spec.sink_H != nullptr) spec.sink_H += g * R;
    const Tensor q_NRK = q_NHK.slice(1, g * R, (g + 1) * R).contiguous_copy();
    const AttentionResult part = attention(q_NRK, one_sequence(N), view, spec);
    for (std::int64_t n = 0; n < N; ++n)
      std::copy_n(part.out_NHU.data<float>() + n * R * s.U, R * s.U,
                  out_NHU.mutable_data<float>() + (n * s.H + g * R) * s.U);
    if (goes_on) watch(head, q_NRK, part.lse_NH, view, spec);
  }
  if (!goes_on) return out_NHU;
  const Tensor q = q_NHK.contiguous_copy();
  std::vector<float>& all = layer.queries_NHK;
  all.insert(all.end(), q.data<float>(), q.data<float>() + q.elements());
  const std::size_t most = at(options.probes * s.H * s.K);
  if (all.size() > most) all.erase(all.begin(), all.end() - static_cast<std::ptrdiff_t>(most));
  return out_NHU;
}

}  // namespace quire::cache

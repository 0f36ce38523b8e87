#pragma once

// A mixture of experts as plain loops, slot by slot: nothing is sorted, nothing is grouped.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ref {

/// One linear layer of experts. Slot s reads row s / fan of x; with gates, output row n adds up
/// slots n · choices to (n + 1) · choices − 1. A slot of expert −1 is absent.
template <class T>
struct Experts {
  std::size_t D, F, fan = 1, choices = 1;
  std::vector<std::int64_t> expert;  // of each slot
  std::vector<T> x, w, bias, gates;  // bias and gates may be empty

  struct Gradients {
    std::vector<T> dx, dw, dbias, dgates;
  };

  std::vector<T> rows() const {
    std::vector<T> out(expert.size() * F, T{0});
    for (std::size_t s = 0; s < expert.size(); ++s) {
      if (expert[s] < 0) continue;
      const auto e = static_cast<std::size_t>(expert[s]);
      for (std::size_t d = 0; d < D; ++d)
        for (std::size_t f = 0; f < F; ++f)
          out[s * F + f] += x[s / fan * D + d] * w[(e * D + d) * F + f];
      for (std::size_t f = 0; f < F && !bias.empty(); ++f) out[s * F + f] += bias[e * F + f];
    }
    return out;
  }

  std::vector<T> out() const {
    const std::vector<T> all = rows();
    if (gates.empty()) return all;
    std::vector<T> sums(expert.size() / choices * F, T{0});
    for (std::size_t s = 0; s < expert.size(); ++s)
      for (std::size_t f = 0; f < F; ++f) sums[s / choices * F + f] += gates[s] * all[s * F + f];
    return sums;
  }

  Gradients gradients(const std::vector<T>& dout) const {
    const std::vector<T> all = rows();
    Gradients g{std::vector<T>(x.size()), std::vector<T>(w.size()), std::vector<T>(bias.size()),
                std::vector<T>(gates.size())};
    for (std::size_t s = 0; s < expert.size(); ++s) {
      if (expert[s] < 0) continue;
      const auto e = static_cast<std::size_t>(expert[s]);
      const T* dy = dout.data() + (gates.empty() ? s : s / choices) * F;
      const T gate = gates.empty() ? T{1} : gates[s];
      for (std::size_t f = 0; f < F && !gates.empty(); ++f) g.dgates[s] += all[s * F + f] * dy[f];
      for (std::size_t f = 0; f < F && !bias.empty(); ++f) g.dbias[e * F + f] += gate * dy[f];
      for (std::size_t d = 0; d < D; ++d) {
        T sum{0};
        for (std::size_t f = 0; f < F; ++f) {
          sum += w[(e * D + d) * F + f] * dy[f];
          g.dw[(e * D + d) * F + f] += x[s / fan * D + d] * gate * dy[f];
        }
        g.dx[s / fan * D + d] += gate * sum;
      }
    }
    return g;
  }
};

}  // namespace ref

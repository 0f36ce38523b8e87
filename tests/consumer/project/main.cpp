// A program outside of Quire's build: two keys with equal scores, so attention gives the mean of
// their values.
#include <quire/generate/session.h>
#include <quire/ops/attention/attention.h>
#include <quire/tensor/tensor.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>

int main() {
  const std::array<float, 16> q{1.0f};
  const std::array<float, 32> k{};
  std::array<float, 32> v{};
  for (std::size_t i = 0; i < 16; ++i) {
    v[i] = 1.0f;
    v[16 + i] = 3.0f;
  }
  const std::int64_t length = 2;

  quire::KvView view;
  view.k_pages = k.data();
  view.v_pages = v.data();
  view.k_strides = view.v_strides = {.page = 32, .slot = 16, .head = 16};
  view.P = 1, view.Z = 2, view.G = 1, view.K = 16, view.U = 16;
  view.length_BG = &length;
  quire::AttentionSpec spec;
  spec.alignment = quire::Alignment::kBottomRight;

  const std::array<std::int32_t, 2> start{0, 1};
  const auto result = quire::attention(quire::Tensor::of<float>(q, {1, 1, 16}),
                                       quire::Tensor::of<std::int32_t>(start, {2}), view, spec);
  const float out = result.out_NHU.data<float>()[0];
  const float lse = result.lse_NH.data<float>()[0];
  if (std::abs(out - 2.0f) > 1e-6f || std::abs(lse - std::log(2.0f)) > 1e-6f) {
    std::printf("attention gave %g with lse %g, expected 2 and log 2\n", double{out}, double{lse});
    return 1;
  }
  return quire::generate::to_string(quire::generate::FinishReason::kStop) == "stop" ? 0 : 1;
}

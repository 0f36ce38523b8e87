#include "quire/ops/search/key_sketches.h"

#include <algorithm>
#include <cmath>

#include "quire/base/error.h"
#include "quire/base/half.h"
#include "quire/ops/search/key_sketches_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

constexpr std::int64_t kSpan = 64;
constexpr std::int64_t kBehind = KeySketches::kAtOnce;

void check_f32(const Tensor& x, const char* name) {
  QUIRE_CHECK(x.dtype() == DType::kF32, name, " is ", to_string(x.dtype()), ", expected f32");
}

/// Queries in 8 bits, as SketchScores wants them.
struct CodedQueries {
  std::vector<std::int8_t> codes;
  std::vector<float> step_R, offset_R;

  void add(const float* q_K, std::span<const float> weight, std::int64_t K, double scale) {
    float largest = 0;
    for (std::int64_t k = 0; k < K; ++k)
      largest = std::max(largest, std::fabs(q_K[k] * weight[static_cast<std::size_t>(k)]));
    const float worth = largest > 0 && std::isfinite(largest) ? 127 / largest : 0;
    const std::size_t begin = codes.size();
    codes.resize(begin + 4 * weight.size());
    float sum = 0;
    for (std::int64_t k = 0; k < K; ++k) {
      const float x = q_K[k] * weight[static_cast<std::size_t>(k)] * worth;
      const auto code = static_cast<std::int8_t>(std::lrint(std::isfinite(x) ? x : 0.0f));
      sum += code;
      const auto at = begin + static_cast<std::size_t>(k / 16 * kSpan + k % 16);
      for (std::size_t lane = 0; lane < 4; ++lane) codes[at + 16 * lane] = code;
    }
    step_R.push_back(worth > 0 ? static_cast<float>(scale) / worth : 0);
    offset_R.push_back(-1.5f * sum);
  }
};

}  // namespace

KeySketches::KeySketches(std::span<const float> weight_K)
    : K_(std::ssize(weight_K)),
      weight_(static_cast<std::size_t>(spans_of(K_) * kSpan)),
      one_by_weight_(weight_.size()),
      codes_(static_cast<std::size_t>(spans_of(K_))) {
  QUIRE_CHECK(K_ > 0, "keys of no numbers");
  for (std::size_t k = 0; k < weight_K.size(); ++k) {
    QUIRE_CHECK(weight_K[k] > 0 && std::isfinite(1 / weight_K[k]) && std::isfinite(weight_K[k]),
                "weight_K has ", weight_K[k], " at ", k);
    weight_[k] = weight_K[k];
    one_by_weight_[k] = 1 / weight_K[k];
  }
  resize(0);
}

void KeySketches::truncate(std::int64_t n) {
  QUIRE_CHECK(n >= 0 && n <= size_, "truncate to ", n, " of ", size_, " keys");
  resize(n);
}

void KeySketches::resize(std::int64_t n) {
  size_ = n;
  for (auto& codes : codes_) codes.resize(static_cast<std::size_t>(16 * (n + kBehind)));
  scale_.resize(static_cast<std::size_t>(n + kBehind));
}

void KeySketches::add(const Tensor& rest_NK) {
  check_f32(rest_NK, "rest_NK");
  QUIRE_CHECK(rest_NK.rank() == 2 && rest_NK.size(1) == K_, "rest_NK is ",
              to_string(rest_NK.shape()), ", expected K = ", K_);
  const Tensor rest = rest_NK.contiguous_copy();
  const std::int64_t N = rest.size(0), first = size_;
  resize(first + N);
  std::vector<float> whole(weight_.size());
  std::vector<std::uint8_t*> to(codes_.size());
  for (std::int64_t i = 0; i < N; ++i) {
    std::copy_n(rest.data<float>() + i * K_, K_, whole.begin());
    for (std::size_t s = 0; s < to.size(); ++s) to[s] = codes_[s].data() + 16 * (first + i);
    const float scale =
        QUIRE_FOR_ISA(sketch_key)(whole.data(), one_by_weight_.data(), K_, to.data());
    scale_[static_cast<std::size_t>(first + i)] = to_bfloat16(scale).bits;
  }
}

void sketch_scores(const KeySketches& sketches, const SketchedKeys& keys, const Tensor& q_RK,
                   double scale, Tensor& score_RW) {
  const Dims dims = QUIRE_DIMS(q_RK, score_RW);
  check_f32(q_RK, "q_RK");
  check_f32(score_RW, "score_RW");
  const std::int64_t R = dims['R'], K = dims['K'];
  QUIRE_CHECK(K == sketches.K_, "q_RK has K = ", K, ", and keys ", sketches.K_);
  QUIRE_CHECK(std::ssize(keys.mean_RC) == R * std::ssize(keys.runs), "mean_RC has ",
              keys.mean_RC.size(), " numbers for ", R, " queries and ", keys.runs.size(), " runs");
  std::int64_t all = 0;
  for (const SketchRun& run : keys.runs) {
    QUIRE_CHECK(run.begin >= 0 && run.n >= 0 && run.begin + run.n <= sketches.size_, "a run of ",
                run.n, " keys from ", run.begin, " on of ", sketches.size_);
    all += run.n;
  }
  QUIRE_CHECK(dims['W'] >= all + kBehind, "score_RW is ", to_string(score_RW.shape()), " for ", all,
              " keys and ", kBehind, " places behind them");
  const double plain = scale == 0 ? 1 / std::sqrt(static_cast<double>(K)) : scale;
  const Tensor q = q_RK.contiguous_copy();
  CodedQueries coded;
  for (std::int64_t r = 0; r < R; ++r)
    coded.add(q.data<float>() + r * K, sketches.weight_, K, plain);
  std::vector<const std::uint8_t*> codes;
  for (const auto& of : sketches.codes_) codes.push_back(of.data());
  kernel::sketch_scores_cpu({codes.data(), std::ssize(codes), R, sketches.scale_.data(),
                             coded.codes.data(), coded.step_R.data(), coded.offset_R.data(),
                             keys.runs.data(), std::ssize(keys.runs), keys.mean_RC.data(),
                             score_RW.mutable_data<float>(), dims['W']});
}

void shares_of_scores(Tensor& score_RW, std::span<const float> total_R, std::span<float> rank) {
  const Dims dims = QUIRE_DIMS(score_RW);
  check_f32(score_RW, "score_RW");
  QUIRE_CHECK(std::ssize(total_R) == dims['R'] && std::ssize(rank) <= dims['W'], "total_R has ",
              total_R.size(), " numbers, rank ", rank.size(), ", and score_RW is ",
              to_string(score_RW.shape()));
  const auto shares = QUIRE_FOR_ISA(share_row);
  for (std::int64_t r = 0; r < dims['R']; ++r)
    shares(score_RW.mutable_data<float>() + r * dims['W'], total_R[static_cast<std::size_t>(r)],
           std::ssize(rank), r == 0, rank.data());
}

void shares_not_taken(const Tensor& share_RW, std::span<const std::uint8_t> taken_W,
                      std::span<const SketchRun> runs, std::span<float> rest_RC) {
  const Dims dims = QUIRE_DIMS(share_RW);
  check_f32(share_RW, "share_RW");
  std::int64_t all = 0;
  for (const SketchRun& run : runs) all += run.n;
  QUIRE_CHECK(dims['W'] >= all + kBehind && std::ssize(taken_W) == dims['W'] &&
                  std::ssize(rest_RC) == dims['R'] * std::ssize(runs),
              "share_RW is ", to_string(share_RW.shape()), ", taken_W has ", taken_W.size(),
              " places and rest_RC ", rest_RC.size(), "; ", runs.size(), " runs have ", all,
              " keys");
  const auto sum = QUIRE_FOR_ISA(rest_row);
  for (std::int64_t r = 0; r < dims['R']; ++r) {
    float* rest = rest_RC.data() + r * std::ssize(runs);
    sum(share_RW.data<float>() + r * dims['W'], taken_W.data(), runs.data(), std::ssize(runs),
        rest);
    for (std::int64_t c = 0; c < std::ssize(runs); ++c) rest[c] = std::log(rest[c]);
  }
}

}  // namespace quire

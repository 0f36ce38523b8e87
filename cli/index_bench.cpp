// quire bench ops index: rows of floats gathered and scattered, beside the rate at which this
// machine reads rows at random places.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/bench_ops.h"
#include "cli/figures.h"
#include "quire/base/error.h"
#include "quire/model/available_memory.h"
#include "quire/ops/index/gather.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/random_rows.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/tensor/rng.h"
#include "quire/tensor/tensor.h"

namespace quire::cli {
namespace {

constexpr double kGiga = 1e9;
constexpr std::uint64_t kSeed = 7;
constexpr std::int64_t kMostIndexBytes = 1'000'000'000;  // of one written out

enum class Spread { kUniform, kSkewed };

/// N places of M. Skewed: the tenth power of a uniform number, so that half of all rows go to about
/// one place in a thousand.
Tensor make_index(std::int64_t N, std::int64_t M, Spread spread) {
  Rng rng(kSeed);
  Tensor out = Tensor::empty({N}, DType::kI64);
  std::int64_t* index = out.mutable_data<std::int64_t>();
  for (std::int64_t n = 0; n < N; ++n) {
    double u = rng.uniform();
    if (spread == Spread::kSkewed) {
      const double u2 = u * u, u4 = u2 * u2;
      u = u4 * u4 * u2;
    }
    index[n] = std::min(M - 1, static_cast<std::int64_t>(u * static_cast<double>(M)));
  }
  return out;
}

Tensor permutation(std::int64_t N) {
  Rng rng(kSeed);
  Tensor out = Tensor::empty({N}, DType::kI64);
  std::int64_t* index = out.mutable_data<std::int64_t>();
  for (std::int64_t n = 0; n < N; ++n) {
    const auto other = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(n + 1)));
    index[n] = index[other];
    index[other] = n;
  }
  return out;
}

/// Between 0.5 and 1.5, so that products stay finite.
Tensor make_values(Shape shape) {
  Tensor out = Tensor::empty(std::move(shape), DType::kF32);
  float* x = out.mutable_data<float>();
  for (std::int64_t i = 0; i < out.elements(); ++i)
    x[i] = 0.5f + static_cast<float>(i * 2654435761u % 1024) / 1024.0f;
  return out;
}

/// Rows of D floats: N of them beside M places.
class RowsBench {
 public:
  RowsBench(std::int64_t N, std::int64_t M, std::int64_t D, const OpBenchArguments& arguments,
            OpBenchResult& result)
      : N_(N), M_(M), D_(D), arguments_(arguments), result_(result) {}

  void run() {
    arguments_.say(fmt::format("rows of {}", D_));
    const Tensor src = make_values({N_, D_}), self = make_values({M_, D_});
    ceiling_ = random_row_rate(src, permutation(N_), static_cast<int>(arguments_.rounds)) / kGiga;
    rates_.emplace_back(std::to_string(D_), ceiling_);
    for (const auto& [spread, name] :
         {std::pair(Spread::kUniform, "uniform"), std::pair(Spread::kSkewed, "skewed")}) {
      spread_ = name;
      measure(self, src, spread);
    }
  }

  /// "64": GB/s
  const Json::Object& rates() const { return rates_; }

 private:
  void measure(const Tensor& self, const Tensor& src, Spread spread) {
    const Tensor flat_N = make_index(N_, M_, spread);
    const Tensor expanded = flat_N.view({N_, 1}).expand({N_, D_});
    layout_ = D_ == 1 ? "full" : "expanded";
    gathers(self, expanded);
    layout_ = "rows";
    add("index_select", N_, gather_bytes(N_), [&] { index_select(self, 0, flat_N); });
    layout_ = D_ == 1 ? "full" : "expanded";
    constexpr std::pair<const char*, Reduce> kReduces[] = {{"sum", Reduce::kSum},
                                                           {"mean", Reduce::kMean},
                                                           {"prod", Reduce::kProd},
                                                           {"amax", Reduce::kAmax},
                                                           {"amin", Reduce::kAmin}};
    for (const auto& [name, reduce] : kReduces) scatters(self, expanded, src, name, reduce);
    if (D_ == 1 || N_ * D_ * 8 > kMostIndexBytes) return;
    // An entry for every element: rows all the same, and places of their own.
    layout_ = "copied";
    with_index(self, expanded.contiguous_copy(), src);
    layout_ = "full";
    const std::int64_t fewer = (N_ + 7) / 8;
    with_index(self, make_index(fewer * D_, M_, spread).view({fewer, D_}), src.slice(0, 0, fewer));
  }

  void with_index(const Tensor& self, const Tensor& index, const Tensor& src) {
    gathers(self, index);
    scatters(self, index, src, "sum", Reduce::kSum);
    scatters(self, index, src, "mean", Reduce::kMean);
    scatters(self, index, src, "amax", Reduce::kAmax);
  }

  void gathers(const Tensor& self, const Tensor& index) {
    add("gather", index.size(0), gather_bytes(index.size(0)), [&] { gather(self, 0, index); });
  }
  void scatters(const Tensor& self, const Tensor& index, const Tensor& src, const char* name,
                Reduce reduce) {
    const std::int64_t N = index.size(0), bytes = N * D_ * 4 + N * 8 + 2 * M_ * D_ * 4;
    add(fmt::format("scatter_reduce {}", name), N, bytes,
        [&, reduce] { scatter_reduce(self, 0, index, src, reduce); });
  }

  // The index counts as N entries in each layout, so that rates of layouts compare as times do.
  std::int64_t gather_bytes(std::int64_t N) const { return 2 * N * D_ * 4 + N * 8; }

  void add(std::string op, std::int64_t N, std::int64_t bytes, const std::function<void()>& body) {
    arguments_.say(op);
    OpRow row;
    row.op = std::move(op);
    row.shape = {N, D_};
    row.details = {{"places", M_}, {"index", spread_}, {"layout", layout_}};
    row.seconds = median_seconds(arguments_.rounds, body);
    row.gb_s = static_cast<double>(bytes) / row.seconds / kGiga;
    row.ceiling = ceiling_;
    result_.rows.push_back(std::move(row));
  }

  std::int64_t N_, M_, D_;
  const OpBenchArguments& arguments_;
  OpBenchResult& result_;
  double ceiling_ = 0;
  const char* spread_ = "";
  const char* layout_ = "";
  Json::Object rates_;
};

/// Throws OutOfMemory when rows of D floats need more than there is: src and a result of its size,
/// places twice as well, three indices, and one written out.
void check_fits(std::int64_t N, std::int64_t M, std::int64_t D) {
  const std::int64_t copied = D > 1 && N * D * 8 <= kMostIndexBytes ? N * D * 8 : 0;
  const std::int64_t bytes = 2 * (N + M) * D * 4 + 3 * N * 8 + copied;
  const std::int64_t available = model::available_memory();
  if (bytes <= available) return;
  throw OutOfMemory(
      fmt::format("rows of {} floats: {} rows and {} places take {}, and {} of memory are free; "
                  "give fewer --rows, --places or --floats",
                  D, grouped(N), grouped(M), bytes_text(bytes), bytes_text(available)));
}

}  // namespace

OpBenchResult bench_index(const OpBenchArguments& arguments) {
  using Sizes = std::vector<std::int64_t>;
  const std::int64_t N = arguments.rows.value_or(arguments.smoke ? 2000 : 1 << 20);
  const std::int64_t M = arguments.places.value_or(arguments.smoke ? 100 : 1 << 16);
  const Sizes floats =
      arguments.floats.value_or(arguments.smoke ? Sizes{1, 20} : Sizes{1, 64, 128});
  for (const std::int64_t D : floats) check_fits(N, M, D);
  OpBenchResult out;
  Json::Object rates;
  for (const std::int64_t D : floats) {
    RowsBench bench(N, M, D, arguments, out);
    bench.run();
    rates.insert(rates.end(), bench.rates().begin(), bench.rates().end());
  }
  out.ceilings.emplace_back("random_rows_gb_s", std::move(rates));
  return out;
}

}  // namespace quire::cli

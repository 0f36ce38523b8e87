#include "quire/ops/math/softmax.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "tests/support/gradient_check.h"

namespace quire {
namespace {

using test::expect_close;
using test::random_tensor;
using test::tensor_of;
using test::values;
using testing::ElementsAre;
using testing::ThrowsMessage;

// Each column of [outer, n, inner] by itself; the largest real part is a constant.
template <class T>
std::vector<T> reference(const std::vector<T>& x, std::size_t n, std::size_t inner) {
  std::vector<T> out(x.size());
  for (std::size_t row = 0; row < x.size() / n; ++row) {
    const std::size_t first = row / inner * n * inner + row % inner;
    double largest = std::real(x[first]);
    for (std::size_t i = 0; i < n; ++i)
      largest = std::max<double>(largest, std::real(x[first + i * inner]));
    T sum = 0;
    for (std::size_t i = 0; i < n; ++i)
      sum += std::exp(x[first + i * inner] - static_cast<T>(largest));
    for (std::size_t i = 0; i < n; ++i)
      out[first + i * inner] = std::exp(x[first + i * inner] - static_cast<T>(largest)) / sum;
  }
  return out;
}

TEST(Softmax, HandWorked) {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = tensor_of({5, 5, 100, 100, 7, 7}, {3, 2}, dtype);
    EXPECT_THAT(values(softmax(x, 1)), ElementsAre(0.5, 0.5, 0.5, 0.5, 0.5, 0.5));
    EXPECT_EQ(softmax(x, 0).dtype(), dtype);
  }
}

TEST(Softmax, OTH_05_EqualsTheReferenceAlongEveryDimension) {
  const Tensor x = random_tensor({3, 33, 5}, 1), narrow = x.to(DType::kF32);
  const std::pair<std::size_t, std::size_t> splits[] = {{3, 165}, {33, 5}, {5, 1}};
  for (int dim = 0; dim < 3; ++dim) {
    const auto [n, inner] = splits[dim];
    const std::vector<double> truth = reference(values(x), n, inner);
    expect_close(values(softmax(x, dim)), truth, "f64", 1e-15);
    expect_close(values(softmax(x, dim - 3)), truth, "f64, negative dim", 1e-15);
    expect_close(values(softmax(narrow, dim)), reference(values(narrow), n, inner), "f32", 2e-7);
  }
}

TEST(Softmax, OTH_05_Backward) {
  using C = std::complex<double>;
  const Tensor x = random_tensor({2, 7, 3}, 2), dout = random_tensor({2, 7, 3}, 3);
  const Tensor dx = softmax_backward(dout, softmax(x, 1), 1);
  const auto analytic = [](const std::vector<std::vector<C>>& in) {
    return reference(in[0], 7, 3);
  };
  expect_close(values(dx), test::complex_step(analytic, {values(x)}, 0, values(dout)), "step",
               1e-14);
  test::expect_gradients([](const auto& in) { return softmax(in[0], 1); }, {x}, dout, {dx});
}

TEST(Softmax, Infinities) {
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_THAT(values(softmax(tensor_of({-inf, 0}, {2}), 0)), ElementsAre(0, 1));
  EXPECT_TRUE(std::isnan(values(softmax(tensor_of({-inf, -inf}, {2}), 0))[0]));
  const std::vector<double> nan = values(softmax(tensor_of({std::nan(""), 1, 1, 1}, {2, 2}), 1));
  EXPECT_TRUE(std::isnan(nan[0]) && std::isnan(nan[1]));
  EXPECT_EQ(nan[2], 0.5);
}

TEST(Softmax, EdgesAndStrides) {
  EXPECT_EQ(softmax(Tensor::zeros({0, 3}, DType::kF32), 0).shape(), Shape({0, 3}));
  EXPECT_THAT(values(softmax(tensor_of({9}, {}), 0)), ElementsAre(1));
  const Tensor x = random_tensor({6, 5}, 4).transpose(0, 1);
  EXPECT_EQ(values(softmax(x, 0)), values(softmax(x.contiguous_copy(), 0)));
}

TEST(Softmax, TheSameBitsWithAnyNumberOfThreads) {
  const Tensor x = random_tensor({300, 70}, 5, DType::kF32);
  set_threads(1);
  const std::vector<double> one = values(softmax(x, 1));
  for (const int threads : {2, 7}) {
    set_threads(threads);
    EXPECT_EQ(values(softmax(x, 1)), one);
  }
}

TEST(Softmax, Errors) {
  const Tensor x = Tensor::zeros({2, 3}, DType::kF32);
  EXPECT_THAT([&] { (void)softmax(x, 2); },
              ThrowsMessage<ArgumentError>("softmax: dim is 2, but the rank is 2"));
  EXPECT_THROW((void)softmax(Tensor::zeros({2}, DType::kI32), 0), ArgumentError);
  EXPECT_THROW((void)softmax_backward(x, Tensor::zeros({3}, DType::kF32), 0), ArgumentError);
  EXPECT_THROW((void)softmax_backward(x.to(DType::kF64), x, 0), ArgumentError);
}

}  // namespace
}  // namespace quire

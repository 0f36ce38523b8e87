// The two matrices that every introduction to scatter and gather draws: scatter_reduce adds numbers
// up where an index sends them, gather picks numbers from where an index points.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "quire/ops/index/gather.h"
#include "quire/ops/index/scatter_reduce.h"
#include "quire/tensor/tensor.h"

namespace {

quire::Tensor matrix(const std::vector<std::int64_t>& values, std::int64_t columns) {
  const auto rows = static_cast<std::int64_t>(values.size()) / columns;
  return quire::Tensor::of<std::int64_t>(values, {rows, columns});
}

std::string text(const quire::Tensor& x) {
  const std::int64_t* value = x.data<std::int64_t>();
  std::string out = "[";
  for (std::int64_t row = 0; row < x.size(0); ++row) {
    out += row == 0 ? "[" : ",[";
    for (std::int64_t column = 0; column < x.size(1); ++column) {
      if (column > 0) out += ",";
      out += std::to_string(*value++);
    }
    out += "]";
  }
  return out + "]";
}

}  // namespace

int main() {
  // Row 0: 10 goes to column 0, 20 and 30 both to column 1, 40 to column 2.
  quire::Tensor sums = quire::Tensor::zeros({2, 4}, quire::DType::kI64);
  const quire::Tensor to = matrix({0, 1, 1, 2, 1, 2, 2, 3}, 4);
  const quire::Tensor src = matrix({10, 20, 30, 40, 50, 60, 70, 80}, 4);
  quire::scatter_reduce_(sums, 1, to, src, quire::Reduce::kSum);
  std::printf("scatter_reduce  %s\n", text(sums).c_str());

  const quire::Tensor x = matrix({10, 20, 30, 40, 50, 60}, 3);
  const quire::Tensor picked = quire::gather(x, 1, matrix({2, 1, 0, 0, 2, 1}, 3));
  std::printf("gather          %s\n", text(picked).c_str());

  const bool right =
      text(sums) == "[[10,50,40,0],[0,50,130,80]]" && text(picked) == "[[30,20,10],[40,60,50]]";
  return right ? 0 : 1;
}

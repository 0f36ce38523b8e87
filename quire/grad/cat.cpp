#include "quire/ops/math/cat.h"

#include "quire/grad/math.h"
#include "quire/grad/record.h"
#include "quire/grad/views.h"

namespace quire::grad {

Var cat(std::span<const Var> parts, int dim) {
  Tensors values;
  for (const Var& part : parts) values.push_back(part.value());
  Tensor out = quire::cat(values, dim);
  if (!recording(parts)) return Var(std::move(out));
  std::vector<std::int64_t> sizes;
  for (const Var& part : parts) sizes.push_back(part.value().size(dim));
  return record("cat", std::move(out), {parts.begin(), parts.end()},
                [sizes = std::move(sizes), dim](const Var& dout) {
                  Vars gradients;
                  std::int64_t at = 0;
                  for (const std::int64_t size : sizes) {
                    gradients.push_back(slice(dout, dim, at, at + size));
                    at += size;
                  }
                  return gradients;
                });
}

}  // namespace quire::grad

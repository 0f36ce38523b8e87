#include "quire/grad/rope.h"

#include <vector>

#include "quire/grad/math.h"
#include "quire/grad/record.h"

namespace quire::grad {
namespace {

std::vector<std::int64_t> kept(std::span<const std::int64_t> positions) {
  return {positions.begin(), positions.end()};
}

}  // namespace

Var rope(const Var& x_NHK, const RopeTable& table, std::span<const std::int64_t> positions) {
  Tensor out = quire::rope(x_NHK.value(), table, positions);
  if (!recording(x_NHK)) return Var(std::move(out));
  return record("rope", std::move(out), {x_NHK},
                [table, positions = kept(positions)](const Var& dout) {
                  return Vars{rope_backward(dout, table, positions)};
                });
}

Var rope_backward(const Var& dout_NHK, const RopeTable& table,
                  std::span<const std::int64_t> positions) {
  Tensor out = quire::rope_backward(dout_NHK.value(), table, positions);
  if (!recording(dout_NHK)) return Var(std::move(out));
  return record("rope_backward", std::move(out), {dout_NHK},
                [table, positions = kept(positions)](const Var& d) {
                  return Vars{rope(d, table, positions)};
                });
}

}  // namespace quire::grad

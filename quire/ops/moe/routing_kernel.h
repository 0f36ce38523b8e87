#pragma once

#include <cstdint>

#include "quire/base/dtype_enum.h"
#include "quire/ops/moe/routing_spec.h"

namespace quire::kernel {

/// N tokens, E experts; logits and gates are f32 or f64.
struct Route {
  DType dtype;
  std::int64_t N, E, C, groups, groups_kept;
  GateScore score;
  bool renormalise;
  GroupScore group_score;
  double scale;
  const void* logits;  // [N, E]
  const double* bias;  // [E] or null
  std::int64_t* experts;
  void* gates;
};
void route_cpu(const Route& args);

struct RouteBackward {
  Route route;  // experts are read, gates are not used
  const void* dgates;
  void* dlogits;
};
void route_backward_cpu(const RouteBackward& args);

}  // namespace quire::kernel

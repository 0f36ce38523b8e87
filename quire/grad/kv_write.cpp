#include "quire/ops/attention/kv_write.h"

#include <unordered_set>

#include "quire/base/error.h"
#include "quire/grad/kv_pool.h"
#include "quire/grad/record.h"
#include "quire/ops/index/index_add.h"
#include "quire/ops/index/index_select.h"
#include "quire/ops/index/scatter.h"

namespace quire::grad {
namespace {

/// The tokens whose numbers stand in a slot in the end, and those slots.
struct Kept {
  Tensor token_M, slot_M;
  std::int64_t N;
};

Kept kept_of(const Tensor& slot_N) {
  const auto* slot = slot_N.data<std::int64_t>();
  std::unordered_set<std::int64_t> taken;
  std::vector<std::int64_t> tokens, slots;
  for (std::int64_t n = slot_N.size(0) - 1; n >= 0; --n) {
    if (slot[n] < 0 || !taken.insert(slot[n]).second) continue;
    tokens.push_back(n);
    slots.push_back(slot[n]);
  }
  const auto tensor = [](std::vector<std::int64_t> numbers) {
    const std::vector<std::int64_t> forward(numbers.rbegin(), numbers.rend());
    return Tensor::of(std::span<const std::int64_t>(forward),
                      {static_cast<std::int64_t>(forward.size())});
  };
  return {tensor(std::move(tokens)), tensor(std::move(slots)), slot_N.size(0)};
}

/// dpages as rows, one for each slot.
Tensor rows_of(const Tensor& dpages) {
  const Shape& s = dpages.shape();
  return dpages.contiguous_copy().view({s[0] * s[1], s[2] * s[3]});
}

Tensors backward_of(const Tensor& dpages, const Kept& kept, DType token_dtype, bool needs_pages) {
  const Tensor rows = rows_of(dpages);
  const std::int64_t width = rows.size(1);
  Tensor dtokens = index_select(rows, 0, kept.slot_M);
  if (kept.token_M.size(0) != kept.N) {
    dtokens = index_add(Tensor::zeros({kept.N, width}, dpages.dtype()), 0, kept.token_M, dtokens);
  }
  dtokens = dtokens.view({kept.N, dpages.size(2), dpages.size(3)});
  if (dtokens.dtype() != token_dtype) dtokens = dtokens.to(token_dtype);
  if (!needs_pages) return {Tensor(), dtokens};
  const std::int64_t M = kept.slot_M.size(0);
  const Tensor places = kept.slot_M.view({M, 1}).expand({M, width});
  return {scatter(rows, 0, places, 0.0).view(dpages.shape()), dtokens};
}

Var written(const Var& pages, const Var& tokens, const Kept& kept) {
  if (!pages.needs_gradient() && !tokens.needs_gradient()) return pages;
  QUIRE_CHECK(recording_enabled(),
              "kv_write: pages or tokens that need a gradient are written while NoGradient lives");
  return record_once(
      "kv_write", pages.value(), {pages, tokens},
      [kept, dtype = tokens.dtype(), needs_pages = pages.needs_gradient()](const Tensor& dpages) {
        return backward_of(dpages, kept, dtype, needs_pages);
      });
}

}  // namespace

void kv_write(const KvPool& pool, const Var& k_NGK, const Var& v_NGU, const Tensor& slot_N) {
  KvPool::State& state = pool.state();
  const Tensor slots =
      slot_N.dtype() == DType::kI32 ? slot_N.to(DType::kI64) : slot_N.contiguous_copy();
  quire::kv_write(state.writable(), k_NGK.value(), v_NGU.value(), slots);
  state.count_write(slots.data<std::int64_t>(), slots.size(0));
  const Kept kept = kept_of(slots);
  state.k = written(state.k, k_NGK, kept);
  state.v = written(state.v, v_NGU, kept);
}

}  // namespace quire::grad

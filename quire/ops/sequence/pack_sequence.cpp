#include "quire/ops/sequence/pack_sequence.h"

#include "quire/base/error.h"
#include "quire/ops/sequence/pack_sequence_kernel.h"

namespace quire {
namespace {

Tensor checked_starts(const Tensor& start_J, std::int64_t length) {
  QUIRE_CHECK(start_J.rank() == 1 && start_J.size(0) > 0, "start_J has shape ",
              to_string(start_J.shape()), ", expected [B + 1]");
  QUIRE_CHECK(start_J.dtype() == DType::kI64 || start_J.dtype() == DType::kI32, "start_J is ",
              to_string(start_J.dtype()), ", expected i64 or i32");
  Tensor out = start_J.to(DType::kI64);
  const auto* start = out.data<std::int64_t>();
  QUIRE_CHECK(start[0] == 0, "start_J begins with ", start[0], ", expected 0");
  for (std::int64_t b = 0; b + 1 < out.size(0); ++b) {
    QUIRE_CHECK(start[b + 1] >= start[b] && start[b + 1] - start[b] <= length, "start_J[", b + 1,
                "] is ", start[b + 1], ", expected ", start[b], " to ", start[b], " + ", length);
  }
  return out;
}

std::int64_t token_bytes(const Tensor& x, int skip) {
  std::int64_t bytes = static_cast<std::int64_t>(size_of(x.dtype()));
  for (int d = skip; d < x.rank(); ++d) bytes *= x.size(d);
  return bytes;
}

void run(const Tensor& x, Tensor& out, const Tensor& start, std::int64_t S, PadSide side,
         bool pack) {
  if (out.elements() == 0 || x.elements() == 0) return;
  const Tensor rows = x.contiguous_copy();
  kernel::pack_sequence_cpu({.out = static_cast<std::byte*>(out.mutable_data<void>()),
                             .x = static_cast<const std::byte*>(rows.data<void>()),
                             .start_J = start.data<std::int64_t>(),
                             .B = start.size(0) - 1,
                             .S = S,
                             .token_bytes = token_bytes(x, pack ? 2 : 1),
                             .left = side == PadSide::kLeft,
                             .pack = pack});
}

}  // namespace

Tensor pack_sequence(const Tensor& x, const Tensor& start_J, PadSide side) {
  QUIRE_CHECK(x.rank() >= 2, "x has rank ", x.rank(), ", expected [B, S, …]");
  const Tensor start = checked_starts(start_J, x.size(1));
  const std::int64_t B = start.size(0) - 1;
  QUIRE_CHECK(x.size(0) == B, "x has ", x.size(0), " sequences, but start_J has B = ", B);
  Shape shape{x.shape().begin() + 1, x.shape().end()};
  shape[0] = start.data<std::int64_t>()[B];
  Tensor out = Tensor::empty(std::move(shape), x.dtype(), x.device());
  run(x, out, start, x.size(1), side, true);
  return out;
}

Tensor unpack_sequence(const Tensor& x, const Tensor& start_J, std::int64_t length, PadSide side) {
  QUIRE_CHECK(x.rank() >= 1, "x has rank 0, expected [tokens, …]");
  QUIRE_CHECK(length >= 0, "length is ", length, ", expected at least 0");
  const Tensor start = checked_starts(start_J, length);
  const std::int64_t B = start.size(0) - 1, tokens = start.data<std::int64_t>()[B];
  QUIRE_CHECK(x.size(0) == tokens, "x has ", x.size(0), " tokens, but start_J has ", tokens);
  Shape shape = x.shape();
  shape[0] = length;
  shape.insert(shape.begin(), B);
  Tensor out = Tensor::zeros(std::move(shape), x.dtype(), x.device());
  run(x, out, start, length, side, false);
  return out;
}

}  // namespace quire

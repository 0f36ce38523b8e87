#pragma once

#include "quire/tensor/tensor.h"

namespace quire {

/// Which side of a short sequence is filled up.
enum class PadSide : std::uint8_t { kLeft, kRight };

/// Takes the padding out of a batch: the tokens of all sequences, one after another.
///
///   out[start[b] + t] = x[b, t + first_b]     first_b = 0, or S − length_b when padded on the left
///
/// x        any dtype and strides, [B, S, …]
/// start_J  i64 or i32 [B + 1], from 0, rising by at most S; sequence b has start[b + 1] − start[b]
///          tokens
/// returns  [start[B], …], the bits of x
///
/// Throws    ArgumentError on the above.
/// Backward  unpack_sequence of dout: padding gets zeros.
/// Source    xma (functional, pack_sequence).
Tensor pack_sequence(const Tensor& x, const Tensor& start_J, PadSide side);

/// The other way: [start[B], …] to [B, length, …], zeros where there is no token. Its backward is
/// pack_sequence of dout. Throws as above, and for a sequence longer than `length`.
Tensor unpack_sequence(const Tensor& x, const Tensor& start_J, std::int64_t length, PadSide side);

}  // namespace quire

#pragma once

#include <cstdint>

#include "quire/ops/attention/kv_view.h"
#include "quire/tensor/tensor.h"

namespace quire {

/// The group of each key, and how well it fits.
struct NearestAnchor {
  Tensor group_GS;   // i64: the anchor of each key
  Tensor cosine_GS;  // f32 (f64 where the keys are): the cosine of the two
};

/// The anchor that each key of sequence b is most similar to:
///
///   group[g, s] = argmax_m cos(k[g, s], anchor[g, m])
///
/// kv           the view; all kv heads of sequence b have S keys. In f64 keys lie in rows
/// anchor_GMK   f32 (f64 where the keys are), M from 1 to 2^24
///
/// Of equal similarities the lowest anchor wins. A key or an anchor of length 0 has the cosine 0 to
/// all; an anchor that is not finite is never chosen, and a key that is not finite gets group 0
/// with the cosine NaN.
///
/// Throws  ArgumentError on shapes, dtypes and what attention() refuses of a view.
/// Order   anchors are divided by their length in f64, each product is one chain of FMAs: bits
///         depend neither on threads nor on where pages lie. From 64 anchors and keys on, products
///         in 8 bits tell first which anchors cannot be the nearest, beyond all that rounding may
///         do: not a bit depends on that.
/// Memory  the result, the anchors once more and in 8 bits, and of each thread 64 keys and 160 KiB:
///         never G·S·M of anything.
/// Source  the assignment of the notebook's merge, without its matrix of similarities.
NearestAnchor nearest_anchor(const KvView& kv, std::int64_t b, const Tensor& anchor_GMK);

}  // namespace quire

#pragma once

#include <cstdint>

namespace quire {

/// How elements that meet at one place become one. kMean divides by their number, integers toward
/// minus infinity; kAmax and kAmin are NaN when any of them is.
enum class Reduce : std::uint8_t { kSum, kProd, kMean, kAmax, kAmin };

/// Whether what stands at a place before takes part in the reduction. Places that no index names
/// keep it either way.
enum class IncludeSelf : std::uint8_t { kYes, kNo };

/// Who shares the gradient of a maximum or minimum. Both split it evenly among all that are equal
/// to the result; kTorch counts the element of `self` as one of them even where it was excluded, as
/// PyTorch does, so that part of the gradient is lost there; kConserving does not.
enum class Ties : std::uint8_t { kTorch, kConserving };

}  // namespace quire

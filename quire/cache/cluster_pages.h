#pragma once

#include <cstdint>
#include <vector>

namespace quire::cache {

/// M rows of K numbers in an order in which each `page` neighbours, from the first on, are alike:
/// halves along the direction in which the rows differ most, again and again.
///
/// Order  no random numbers; rows that cannot be told apart stay in their order.
/// Memory one copy of the rows.
std::vector<std::int64_t> in_pages(const float* x_MK, std::int64_t M, std::int64_t K,
                                   std::int64_t page);

}  // namespace quire::cache

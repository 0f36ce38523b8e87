#pragma once

#include <cstddef>
#include <cstdint>

namespace quire::kernel {

/// Copies the tokens of B sequences between a padded batch (S tokens each) and a packed list.
struct PackSequence {
  std::byte* out;
  const std::byte* x;
  const std::int64_t* start_J;
  std::int64_t B, S, token_bytes;
  bool left;  // padded on the left
  bool pack;  // from padded to packed, else back; `out` of the way back was given zeros
};
void pack_sequence_cpu(const PackSequence& args);

}  // namespace quire::kernel

#include "quire/tensor/storage.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "quire/base/error.h"
#include "quire/tensor/block_cache.h"
#include "quire/tensor/tensor.h"

namespace quire {
namespace {

std::atomic<std::int64_t> living{0};
std::atomic<std::int64_t> peak{0};
std::atomic<std::int64_t> allocations_until_fault{0};

bool poison() {
  static const bool on = [] {
    const char* value = std::getenv("QUIRE_POISON");
    return value != nullptr && std::string_view(value) == "1";
  }();
  return on;
}

bool fault_is_due() {
  if (allocations_until_fault.load(std::memory_order_relaxed) == 0) return false;
  return allocations_until_fault.fetch_sub(1, std::memory_order_relaxed) == 1;
}

}  // namespace

Storage::Storage(std::size_t bytes) {
  if (bytes == 0) return;
  const detail::Block block = fault_is_due() ? detail::Block{} : detail::take_block(bytes);
  if (block.data == nullptr) {
    throw OutOfMemory(concat("no memory for a tensor of ", std::uint64_t{bytes}, " bytes"));
  }
  data_ = static_cast<std::byte*>(block.data);
  bytes_ = bytes;
  capacity_ = block.capacity;
  if (poison()) std::memset(data_, 0xFF, bytes_);
  const auto now =
      living.fetch_add(static_cast<std::int64_t>(bytes)) + static_cast<std::int64_t>(bytes);
  std::int64_t most = peak.load();
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
}

Storage::Storage(void* data, std::shared_ptr<void> owner) noexcept
    : data_(static_cast<std::byte*>(data)), owner_(std::move(owner)) {}

Storage::~Storage() {
  if (bytes_ == 0) return;
  living.fetch_sub(static_cast<std::int64_t>(bytes_));
  detail::return_block({data_, capacity_});
}

void fail_allocation(std::int64_t nth) { allocations_until_fault = nth; }

std::int64_t allocated_bytes() { return living; }
std::int64_t peak_allocated_bytes() { return peak; }
void reset_peak_allocated_bytes() { peak = living.load(); }

}  // namespace quire

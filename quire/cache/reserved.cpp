#include "quire/cache/reserved.h"

#include <sys/mman.h>
#include <unistd.h>

#include "quire/base/checked.h"
#include "quire/base/error.h"

namespace quire::cache {

Reserved::Reserved(std::uint64_t bytes, Commit commit) : bytes_(bytes) {
  if (bytes_ == 0) return;
  void* at = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    throw OutOfMemory(
        concat("no address range of ", bytes_, " bytes for a cache; use a smaller --context"));
  data_ = static_cast<std::byte*>(at);
  // Advice: where the system has no large pages, small ones serve.
  if (commit == Commit::kLarge) static_cast<void>(::madvise(at, bytes_, MADV_HUGEPAGE));
}

Reserved::~Reserved() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void Reserved::release(std::uint64_t first, std::uint64_t bytes) const {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = (first + page - 1) / page * page, end = (first + bytes) / page * page;
  // Advice, too: what is not returned now is returned at the end.
  if (begin < end) static_cast<void>(::madvise(data_ + begin, end - begin, MADV_DONTNEED));
}

std::uint64_t checked_bytes(std::int64_t slots, std::int64_t heads, std::int64_t size,
                            std::uint64_t element) {
  const Checked bytes = Checked(static_cast<std::uint64_t>(slots)) *
                        Checked(static_cast<std::uint64_t>(heads)) *
                        Checked(static_cast<std::uint64_t>(size)) * Checked(element);
  QUIRE_CHECK(bytes.at_most(1ull << 46), "a cache layer of ", slots, " slots, ", heads,
              " heads and head size ", size, " is beyond the address space");
  return *bytes.value();
}

}  // namespace quire::cache

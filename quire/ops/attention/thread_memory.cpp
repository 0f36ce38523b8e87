#include "quire/ops/attention/thread_memory.h"

#include <sys/mman.h>

#include <new>

namespace quire::kernel {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = std::size_t{512} << 10;

}  // namespace

ThreadMemory::~ThreadMemory() { release(); }

void ThreadMemory::release() {
  if (data_ != nullptr) ::operator delete (data_, std::align_val_t{alignment_});
  data_ = nullptr;
  bytes_ = 0;
}

float* ThreadMemory::floats(std::int64_t count) {
  const std::size_t wanted = static_cast<std::size_t>(count) * sizeof(float);
  if (data_ == nullptr || bytes_ < wanted) {
    release();
    alignment_ = wanted >= kHugeFrom ? kHugePage : kLine;
    const std::size_t bytes = (wanted / alignment_ + 1) * alignment_;
    data_ = ::operator new (bytes, std::align_val_t{alignment_});
    bytes_ = bytes;
    // (Advice: a refusal costs only speed.)
    if (alignment_ == kHugePage) static_cast<void>(::madvise(data_, bytes_, MADV_HUGEPAGE));
  }
  return static_cast<float*>(data_);
}

}  // namespace quire::kernel

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

// Replaces the global operator new and delete of the program that includes this, to let memory run
// out at the N-th allocation. Include it in one source file of a test.

namespace quire::test {

enum class Memory { kFailsOnce, kIsGone };

inline std::atomic<std::int64_t> allocations_left{std::numeric_limits<std::int64_t>::max()};
inline std::atomic<bool> memory_is_gone{false};

/// While it lives the n-th allocation (from 1) of any thread throws std::bad_alloc; with kIsGone
/// all behind it too.
class FailingAllocation {
 public:
  FailingAllocation(std::int64_t n, Memory memory) {
    memory_is_gone = memory == Memory::kIsGone;
    allocations_left = n;
  }
  ~FailingAllocation() { allocations_left = std::numeric_limits<std::int64_t>::max(); }
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;

  bool failed() const { return allocations_left <= 0; }
};

inline void* allocation_that_may_fail(std::size_t bytes) {
  const std::int64_t left = --allocations_left;
  void* p = left == 0 || (left < 0 && memory_is_gone) ? nullptr : std::malloc(bytes + (bytes == 0));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace quire::test

// (Not inlined: g++ takes one of a pair that is inlined for a mismatch.)
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  return quire::test::allocation_that_may_fail(bytes);
}
[[gnu::noinline]] void* operator new[](std::size_t bytes) {
  return quire::test::allocation_that_may_fail(bytes);
}
// (A sanitizer has its own of these two, which do not go through the first.)
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept try {
  return quire::test::allocation_that_may_fail(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
[[gnu::noinline]] void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept try {
  return quire::test::allocation_that_may_fail(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

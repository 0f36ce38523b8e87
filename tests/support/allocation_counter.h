#pragma once

#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

// Replaces the global operator new and delete of the program that includes this, to count the bytes
// that are held at once. Include it in one source file of a test.

namespace quire::test {

inline std::atomic<std::int64_t> held_bytes{0};
inline std::atomic<std::int64_t> most_held_bytes{0};

/// The most bytes held at once while `call` runs, above those held before it.
template <class Call>
std::int64_t peak_bytes(const Call& call) {
  const std::int64_t before = held_bytes;
  most_held_bytes = before;
  call();
  return most_held_bytes - before;
}

inline void* counted_allocation(std::size_t bytes, std::size_t alignment = sizeof(void*)) {
  void* p = nullptr;
  if (::posix_memalign(&p, alignment, bytes == 0 ? 1 : bytes) != 0) throw std::bad_alloc();
  const std::int64_t held = held_bytes += static_cast<std::int64_t>(::malloc_usable_size(p));
  std::int64_t most = most_held_bytes;
  while (held > most && !most_held_bytes.compare_exchange_weak(most, held)) {
  }
  return p;
}

inline void counted_release(void* p) {
  if (p == nullptr) return;
  held_bytes -= static_cast<std::int64_t>(::malloc_usable_size(p));
  std::free(p);
}

}  // namespace quire::test

void* operator new(std::size_t bytes) { return quire::test::counted_allocation(bytes); }
void* operator new[](std::size_t bytes) { return quire::test::counted_allocation(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return quire::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
// (A sanitizer has its own of these, which do not go through the first.)
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept try {
  return quire::test::counted_allocation(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept try {
  return quire::test::counted_allocation(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept
    try {
  return quire::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
} catch (const std::bad_alloc&) {
  return nullptr;
}
void operator delete(void* p) noexcept { quire::test::counted_release(p); }
void operator delete[](void* p) noexcept { quire::test::counted_release(p); }
void operator delete(void* p, std::size_t) noexcept { quire::test::counted_release(p); }
void operator delete[](void* p, std::size_t) noexcept { quire::test::counted_release(p); }
void operator delete(void* p, std::align_val_t) noexcept { quire::test::counted_release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  quire::test::counted_release(p);
}

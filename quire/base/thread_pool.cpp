#include "quire/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "quire/base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quire {
namespace {

constexpr auto kSpin = std::chrono::microseconds(20);

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

/// True inside a piece: a nested run must not wait for threads that may be waiting for it.
thread_local bool inside_piece = false;

/// All pieces in this thread; the first exception goes on once the rest have run.
void run_here(std::int64_t pieces, const FunctionRef<void(std::int64_t)>& body) {
  std::exception_ptr error;
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    try {
      body(piece);
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace

struct ThreadPool::State {
  alignas(64) std::atomic<std::uint32_t> epoch{
      0};  // one more for each run; workers wait for it to move
  alignas(64) std::atomic<std::int64_t> next{0};      // the next piece that nobody has taken
  alignas(64) std::atomic<std::uint32_t> working{0};  // workers that have not ended this run
  std::int64_t pieces = 0;
  const FunctionRef<void(std::int64_t)>* body = nullptr;
  bool stop = false;
  bool spins = true;
  std::mutex mutex;  // one run at a time
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::thread> workers;

  void take_pieces() {
    inside_piece = true;
    for (;;) {
      const std::int64_t piece = next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= pieces) break;
      try {
        (*body)(piece);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
    inside_piece = false;
  }

  void stop_workers() {
    stop = true;
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  /// Returns once `value` differs from `old`: spins for kSpin, then parks.
  void wait_while(std::atomic<std::uint32_t>& value, std::uint32_t old) const {
    if (spins) {
      const auto end = std::chrono::steady_clock::now() + kSpin;
      do {
        for (int i = 0; i < 32; ++i) {
          if (value.load(std::memory_order_acquire) != old) return;
          pause();
        }
      } while (std::chrono::steady_clock::now() < end);
    }
    value.wait(old, std::memory_order_acquire);
  }

  void work() {
    for (std::uint32_t seen = 0;; ++seen) {
      wait_while(epoch, seen);
      if (stop) return;
      take_pieces();
      if (working.fetch_sub(1, std::memory_order_acq_rel) == 1) working.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  QUIRE_CHECK(threads >= 1 && threads <= 4096, "threads is ", threads, "; it may be 1 to 4096");
  const unsigned cores = std::thread::hardware_concurrency();
  state_->spins = cores == 0 || static_cast<unsigned>(threads) <= cores;
  state_->workers.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i)
      state_->workers.emplace_back([state = state_.get()] { state->work(); });
  } catch (const std::system_error&) {
    const std::size_t got = state_->workers.size() + 1;
    state_->stop_workers();
    throw ArgumentError(
        concat("threads is ", threads, ", but the system gave only ", std::uint64_t{got}));
  }
}

ThreadPool::~ThreadPool() { state_->stop_workers(); }

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(std::int64_t pieces, FunctionRef<void(std::int64_t)> body) {
  if (state_->workers.empty() || pieces <= 1 || inside_piece) {
    run_here(pieces, body);
    return;
  }
  const std::lock_guard lock(state_->mutex);
  State& s = *state_;
  s.pieces = pieces;
  s.body = &body;
  s.error = nullptr;
  s.next.store(0, std::memory_order_relaxed);
  s.working.store(static_cast<std::uint32_t>(s.workers.size()), std::memory_order_relaxed);
  s.epoch.fetch_add(1, std::memory_order_release);
  s.epoch.notify_all();
  s.take_pieces();
  for (std::uint32_t left; (left = s.working.load(std::memory_order_acquire)) != 0;)
    s.wait_while(s.working, left);
  if (s.error) std::rethrow_exception(s.error);
}

namespace {

std::unique_ptr<ThreadPool>& pool() {
  static std::unique_ptr<ThreadPool> instance = std::make_unique<ThreadPool>(
      static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  return instance;
}

}  // namespace

ThreadPool& thread_pool() { return *pool(); }

void set_threads(int threads) {
  if (thread_pool().threads() != threads) pool() = std::make_unique<ThreadPool>(threads);
}

}  // namespace quire

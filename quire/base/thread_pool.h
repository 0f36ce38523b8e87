#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace quire {

/// A non-owning reference to a callable: what ThreadPool::run takes, so that a call allocates
/// nothing.
template <class Signature>
class FunctionRef;

template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>>>
  FunctionRef(F&& f)  // NOLINT: converts on purpose
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(static_cast<Args&&>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, static_cast<Args&&>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

/// Persistent worker threads with a fork-join barrier that spins about 20 µs, then parks (and never
/// spins with more threads than cores). The calling thread works too. One `run` at a time; a nested
/// `run` does its work in the calling thread. A result must never depend on the number of threads:
/// callers split work into pieces whose bits do not depend on who computes them.
class ThreadPool {
 public:
  /// `threads` is 1 to 4096, the caller included. Throws ArgumentError, also when the system does
  /// not give so many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Calls `body(piece)` for every piece in [0, pieces), each exactly once, on all threads (whoever
  /// is free takes the next). An exception in a piece is rethrown here after all pieces have ended;
  /// the rest still run.
  void run(std::int64_t pieces, FunctionRef<void(std::int64_t piece)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The pool that ops use. It has as many threads as `set_threads` said, at first
/// std::thread::hardware_concurrency().
ThreadPool& thread_pool();

/// Rebuilds the pool of ops with `threads` >= 1. Not while an op runs.
void set_threads(int threads);

}  // namespace quire

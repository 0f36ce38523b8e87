#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>

#include "tests/support/memory_scratch.h"

namespace quire::test {

/// Through which every operation of some scratch files goes; when it is closed, they stand before
/// it. It must outlive them: it opens when it goes, and waits for them.
class Gate {
 public:
  Gate() = default;
  ~Gate() {
    open();
    wait_for_no_file();
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  /// So many operations go through, and no more.
  void close_after(std::int64_t operations) {
    const std::lock_guard lock(mutex_);
    left_ = operations;
  }
  /// Of those that stand before it, and come.
  void let_through(std::int64_t operations) {
    const std::lock_guard lock(mutex_);
    left_ += operations;
    changed_.notify_all();
  }
  void open() {
    const std::lock_guard lock(mutex_);
    left_ = std::numeric_limits<std::int64_t>::max() / 2;
    changed_.notify_all();
  }
  std::int64_t waiting() const {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }
  std::int64_t files() const {
    const std::lock_guard lock(mutex_);
    return files_;
  }
  void wait_for_no_file() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return files_ == 0; });
  }

 private:
  friend class StallingScratch;
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.wait(lock, [&] { return left_ > 0; });
    --waiting_;
    --left_;
  }
  void count_file(std::int64_t change) {
    const std::lock_guard lock(mutex_);
    files_ += change;
    changed_.notify_all();
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t left_ = std::numeric_limits<std::int64_t>::max() / 2, waiting_ = 0, files_ = 0;
};

/// A disk in memory that stalls while a gate is closed. What it is asked to move it moves then, as
/// late as that may be.
class StallingScratch final : public MemoryScratch {
 public:
  explicit StallingScratch(Gate& gate) : gate_(gate) { gate_.count_file(1); }
  ~StallingScratch() override { gate_.count_file(-1); }
  StallingScratch(const StallingScratch&) = delete;
  StallingScratch& operator=(const StallingScratch&) = delete;

  void read(std::span<Transfer> transfers) override {
    gate_.pass();
    MemoryScratch::read(transfers);
  }
  void write(std::span<Transfer> transfers) override {
    gate_.pass();
    MemoryScratch::write(transfers);
  }

 private:
  Gate& gate_;
};

}  // namespace quire::test

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

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

/// Opens a gate as soon as something holds, at the latest when this goes.
class OpensWhen {
 public:
  OpensWhen(Gate& gate, std::function<bool()> holds)
      : thread_([this, &gate, holds = std::move(holds)] {
          while (!is_over_ && !holds()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          gate.open();
        }) {}
  ~OpensWhen() {
    is_over_ = true;
    thread_.join();
  }
  OpensWhen(const OpensWhen&) = delete;
  OpensWhen& operator=(const OpensWhen&) = delete;

 private:
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

/// A disk in memory that stalls while a gate is closed. What it is asked to move it moves then, as
/// late as that may be.
class StallingScratch final : public MemoryScratch {
 public:
  enum class Stalls { kAll, kReads };
  explicit StallingScratch(Gate& gate, Stalls stalls = Stalls::kAll)
      : gate_(gate), stalls_(stalls) {
    gate_.count_file(1);
  }
  ~StallingScratch() override { gate_.count_file(-1); }
  StallingScratch(const StallingScratch&) = delete;
  StallingScratch& operator=(const StallingScratch&) = delete;

  void read(std::span<Transfer> transfers) override {
    gate_.pass();
    MemoryScratch::read(transfers);
  }
  void write(std::span<Transfer> transfers) override {
    if (stalls_ == Stalls::kAll) gate_.pass();
    MemoryScratch::write(transfers);
  }

 private:
  Gate& gate_;
  Stalls stalls_;
};

}  // namespace quire::test

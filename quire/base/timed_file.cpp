#include "quire/base/timed_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "quire/base/error.h"

namespace quire {
namespace {

constexpr std::int64_t kMostRecords = 1024;  // in a buffer

}  // namespace

struct TimedFile::State {
  enum class Phase { kFree, kAsked, kMoving, kDone };
  struct Buffer {
    Phase phase = Phase::kFree;
    std::unique_ptr<std::byte[]> memory;
    std::vector<Transfer> transfers;
  };
  using Lock = std::unique_lock<std::mutex>;

  const std::unique_ptr<ScratchFile> file;
  const std::size_t record_bytes, buffer_records;
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::array<Buffer, 2> buffers;
  std::size_t next = 0;  // the buffer that is moved next: they take turns
  Way way = Way::kRead;
  std::vector<std::int64_t> expected;  // places that a read has only begun to ask for
  // Nobody waits for the buffer that is moved; nothing new is begun; the object has gone.
  bool is_given_up = false, is_stopped = false, is_ending = false;
  std::int64_t given_up = 0;
  std::thread thread;

  State(std::unique_ptr<ScratchFile> from, std::int64_t bytes)
      : file(std::move(from)),
        record_bytes(static_cast<std::size_t>(bytes)),
        buffer_records(static_cast<std::size_t>(
            std::clamp<std::int64_t>(kBufferBytes / bytes, 1, kMostRecords))) {
    for (Buffer& buffer : buffers) {
      // Not std::make_unique, which would touch all of it.
      buffer.memory.reset(new std::byte[buffer_records * record_bytes]);
      buffer.transfers.reserve(buffer_records);
    }
  }

  bool is_free() const {
    return std::all_of(buffers.begin(), buffers.end(),
                       [](const Buffer& b) { return b.phase == Phase::kFree; });
  }
  bool is_moving() const {
    return std::any_of(buffers.begin(), buffers.end(),
                       [](const Buffer& b) { return b.phase == Phase::kMoving; });
  }
  std::span<std::byte> record(const Buffer& buffer, std::size_t i) const {
    return {buffer.memory.get() + i * record_bytes, record_bytes};
  }

  /// What the thread does.
  void work() {
    std::vector<std::int64_t> soon;
    Lock lock(mutex);
    for (;;) {
      Buffer& buffer = buffers[next];
      changed.wait(lock, [&] { return is_ending || buffer.phase == Phase::kAsked; });
      if (is_ending) return;
      buffer.phase = Phase::kMoving;
      const Way this_way = way;
      soon.swap(expected);
      lock.unlock();
      // All of it is on its way from the disk while the first records are copied.
      for (const std::int64_t place : soon)
        file->expect(static_cast<std::uint64_t>(place) * record_bytes, record_bytes);
      soon.clear();
      move(buffer.transfers, this_way);
      lock.lock();
      buffer.phase = std::exchange(is_given_up, false) ? Phase::kFree : Phase::kDone;
      next ^= 1;
      changed.notify_all();
    }
  }

  void move(std::span<Transfer> transfers, Way this_way) const {
    try {
      this_way == Way::kRead ? file->read(transfers) : file->write(transfers);
    } catch (const std::exception&) {  // no memory for what it keeps of them
      for (Transfer& transfer : transfers) transfer.error = ENOMEM;
    }
  }

  /// Nobody waits any more for what was asked.
  void give_up() {
    ++given_up;
    for (Buffer& buffer : buffers) {
      is_given_up = is_given_up || buffer.phase == Phase::kMoving;
      if (buffer.phase == Phase::kAsked) buffer.phase = Phase::kFree;
    }
    expected.clear();
  }
};

TimedFile::TimedFile(std::unique_ptr<ScratchFile> file, std::int64_t record_bytes,
                     std::chrono::milliseconds deadline)
    : record_bytes_(record_bytes), deadline_(deadline) {
  QUIRE_CHECK(record_bytes > 0 && deadline.count() > 0, "records of ", record_bytes,
              " bytes, each to be moved within ", std::int64_t{deadline.count()}, " ms");
  state_ = std::make_shared<State>(std::move(file), record_bytes);
  try {
    state_->thread = std::thread([state = state_] { state->work(); });
  } catch (const std::system_error& error) {
    throw OutOfMemory(concat("the system gives no thread that reads a file: ", error.what()));
  }
}

TimedFile::~TimedFile() {
  State& s = *state_;
  State::Lock lock(s.mutex);
  s.changed.wait_for(lock, deadline_, [&] { return !s.is_moving() || s.is_given_up; });
  const bool is_stuck = s.is_moving();
  s.is_ending = true;
  s.changed.notify_all();
  std::thread thread = std::move(s.thread);
  lock.unlock();
  is_stuck ? thread.detach() : thread.join();
}

/// Whether a new operation may begin: when the disk has answered the last one.
bool TimedFile::is_ready() {
  State& s = *state_;
  State::Lock lock(s.mutex);
  if (s.is_stopped || (in_a_row_ >= kMostInARow && !s.is_free())) return false;
  if (s.changed.wait_for(lock, deadline_, [&] { return s.is_free(); })) return true;
  ++in_a_row_;
  s.give_up();
  return false;
}

void TimedFile::prepare(std::size_t buffer, Way way, std::span<const std::int64_t> places,
                        std::size_t first, const Fill& fill) {
  State::Buffer& to = state_->buffers[buffer];
  to.transfers.clear();
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::span<std::byte> bytes = state_->record(to, i);
    if (way == Way::kWrite) fill(first + i, bytes);
    to.transfers.push_back({static_cast<std::uint64_t>(places[i] * record_bytes_), {bytes}, 0});
  }
}

void TimedFile::move(Way way, std::span<const std::int64_t> places, const Fill& fill,
                     const Done& done) {
  using Phase = State::Phase;
  State& s = *state_;
  std::size_t asked = 0, ended = 0;
  if (!places.empty() && is_ready()) {
    State::Lock lock(s.mutex);
    s.way = way;
    s.expected.clear();
    if (way == Way::kRead) s.expected.assign(places.begin(), places.end());
    std::size_t to_ask = s.next, to_end = s.next;
    while (ended < places.size()) {
      while (asked < places.size() && !s.is_stopped && s.buffers[to_ask].phase == Phase::kFree) {
        const auto some = places.subspan(asked, std::min(s.buffer_records, places.size() - asked));
        lock.unlock();
        prepare(to_ask, way, some, asked, fill);
        lock.lock();
        s.buffers[to_ask].phase = Phase::kAsked;
        s.changed.notify_all();
        asked += some.size();
        to_ask ^= 1;
      }
      if (ended == asked) break;  // stopped
      State::Buffer& buffer = s.buffers[to_end];
      if (!s.changed.wait_for(lock, deadline_, [&] { return buffer.phase == Phase::kDone; })) {
        ++in_a_row_;
        s.give_up();
        break;
      }
      in_a_row_ = 0;
      lock.unlock();
      for (std::size_t i = 0; i < buffer.transfers.size(); ++i)
        done(ended + i, s.record(buffer, i), buffer.transfers[i].error);
      ended += buffer.transfers.size();
      lock.lock();
      buffer.phase = Phase::kFree;
      to_end ^= 1;
    }
  }
  for (; ended < places.size(); ++ended) done(ended, {}, ETIMEDOUT);
}

void TimedFile::read(std::span<const std::int64_t> places, const Done& done) {
  move(Way::kRead, places, {}, done);
}

void TimedFile::write(std::span<const std::int64_t> places, const Fill& fill, const Done& done) {
  move(Way::kWrite, places, fill, done);
}

void TimedFile::stop() {
  const State::Lock lock(state_->mutex);
  state_->is_stopped = true;
}

std::int64_t TimedFile::given_up() const {
  const State::Lock lock(state_->mutex);
  return state_->given_up;
}

const ScratchFile& TimedFile::file() const { return *state_->file; }

}  // namespace quire

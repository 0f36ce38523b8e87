#include "quire/cache/tier.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/cache/tier_file.h"

namespace quire::cache {
namespace {

/// A page of a layer. It holds nothing yet when it is neither stored nor dirty.
struct Slot {
  std::int32_t frame = -1;
  bool stored = false;  // the file has what the page holds
  bool dirty = false;   // only its frame has it
  bool moving = false;  // its frame is being written out or read: nobody else touches it
  std::uint64_t version = 0;
  Hash128 sum;
};

struct Frame {
  std::int32_t layer = -1, page = -1;  // −1 when it is free, or given up while it is pinned
  std::size_t at = 0;                  // its place in the list of its layer
  bool pinned = false, ahead = false;
  std::uint64_t failed = 0;   // the fetch in which it could not be written
  std::uint64_t written = 0;  // the last lease that marked it so
  std::uint64_t picked = 0;   // the search for victims that found it last
};

/// What a fetch could not do.
struct Failure {
  std::vector<std::int32_t> pages;  // not read back
  bool is_wrong = false;            // one was read, but is not what was written
  bool no_room = false;
  int read_error = 0, write_error = 0;
};

template <class F>
void move_records(std::span<TierRecord> records, F&& move) {
  try {
    move();
  } catch (const std::exception&) {  // no memory for the headers
    for (TierRecord& record : records) {
      record.fate = TierRecord::Fate::kFailed;
      record.error = ENOMEM;
    }
  }
}

Hash128 random_hash() { return KeyedHash()(std::span<const std::byte>()); }

}  // namespace

struct Tier::Impl {
  TierSpec spec;
  TierFile file;    // used by whoever fetches
  std::mutex turn;  // of leases; taken before `state`
  mutable std::mutex state;
  std::condition_variable changed;
  std::vector<Slot> slots;  // [layer · pages + page]
  std::vector<Frame> frames;
  std::vector<std::int32_t> free;
  std::vector<std::vector<std::int32_t>> of_layer;
  // Of each page: how often it was forgotten, its last lease, the fetch that wants it, its loss.
  std::vector<std::uint64_t> life, used, wanted;
  std::vector<char> lost;
  std::uint64_t tick = 0, fetches = 0, picks = 0, version = 0;
  TierCounts sums;
  // Reading ahead: at most one job. Nobody else fetches while it is there.
  std::thread worker;
  bool is_busy = false, is_ending = false;
  std::int64_t job_layer = 0;
  std::vector<std::int32_t> job_pages;

  using Lock = std::unique_lock<std::mutex>;

  explicit Impl(TierSpec from, std::unique_ptr<ScratchFile> scratch)
      : spec(std::move(from)),
        file(std::move(scratch), random_hash(), spec.format, spec.payload_bytes,
             std::chrono::milliseconds(spec.deadline_ms)),
        slots(static_cast<std::size_t>(spec.layers * spec.pages)),
        frames(static_cast<std::size_t>(spec.frames)),
        of_layer(static_cast<std::size_t>(spec.layers)) {
    const auto pages = static_cast<std::size_t>(spec.pages);
    for (auto* list : {&life, &used, &wanted}) list->resize(pages);
    lost.resize(pages);
    for (std::int64_t f = spec.frames; f-- > 0;) free.push_back(static_cast<std::int32_t>(f));
  }
  ~Impl() {
    {
      const Lock lock(state);
      is_ending = true;
    }
    file.stop();
    changed.notify_all();
    if (worker.joinable()) worker.join();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::int64_t place(std::int64_t layer, std::int32_t page) const {
    return layer * spec.pages + page;
  }
  Slot& slot(std::int64_t layer, std::int32_t page) {
    return slots[static_cast<std::size_t>(place(layer, page))];
  }
  Frame& frame(std::int32_t f) { return frames[static_cast<std::size_t>(f)]; }
  template <class T>
  static T& at(std::vector<T>& list, std::int32_t page) {
    return list[static_cast<std::size_t>(page)];
  }

  void check(std::int64_t layer, std::span<const std::int32_t> pages) const {
    QUIRE_CHECK(layer >= 0 && layer < spec.layers, "layer is ", layer, ", but the tier has ",
                spec.layers);
    for (const std::int32_t page : pages)
      QUIRE_CHECK(page >= 0 && page < spec.pages, "page ", page, " of a tier with ", spec.pages);
  }

  void take_frame(std::int64_t layer, std::int32_t page) {
    const std::int32_t f = free.back();
    auto& list = of_layer[static_cast<std::size_t>(layer)];
    list.push_back(f);
    free.pop_back();
    frame(f) = {static_cast<std::int32_t>(layer), page, list.size() - 1, false, false, 0, 0, 0};
    slot(layer, page).frame = f;
  }
  void give_frame(Slot& from) {
    const std::int32_t f = std::exchange(from.frame, -1);
    Frame& given = frame(f);
    auto& list = of_layer[static_cast<std::size_t>(given.layer)];
    frame(list.back()).at = given.at;
    list[given.at] = list.back();
    list.pop_back();
    given.layer = given.page = -1;
    if (!given.pinned) free.push_back(f);
  }
  void set_stored(Slot& s, bool stored) {
    sums.on_disk += (stored ? 1 : 0) - (s.stored ? 1 : 0);
    s.stored = stored;
  }
  void clear(Slot& s) {
    if (s.frame >= 0) give_frame(s);
    set_stored(s, false);
    s = Slot{};
  }

  TierRecord record_of(std::int64_t layer, std::int32_t page) {
    const Slot& s = slot(layer, page);
    return {place(layer, page),
            {static_cast<std::int32_t>(layer), page, s.version},
            s.sum,
            spec.parts(s.frame, layer)};
  }

  /// Up to `count` frames that may be given up for pages of `layer`, the best first: those whose
  /// layer is used last again, down to `share` of each; of a layer the pages that nobody used for
  /// long, those that need not be written, and last the one that grows.
  std::vector<std::int32_t> victims(std::int64_t layer, std::size_t count, std::size_t share,
                                    bool only_clean) {
    std::vector<std::int32_t> out, some;
    ++picks;
    for (const std::size_t keep : {share, std::size_t{0}}) {
      for (std::int64_t d = spec.layers; d-- > 0 && out.size() < count;) {
        const auto& list = of_layer[static_cast<std::size_t>((layer + d) % spec.layers)];
        if (list.size() <= keep) continue;
        some.clear();
        for (const std::int32_t f : list)
          if (may_go(frame(f), layer, only_clean)) some.push_back(f);
        const auto order = [&](std::int32_t f) {
          const Frame& x = frame(f);
          return std::tuple(at(used, x.page), slot(x.layer, x.page).dirty, x.written, -x.page);
        };
        std::sort(some.begin(), some.end(),
                  [&](std::int32_t a, std::int32_t b) { return order(a) < order(b); });
        some.resize(std::min({some.size(), list.size() - keep, count - out.size()}));
        for (const std::int32_t f : some) frame(f).picked = picks;
        out.insert(out.end(), some.begin(), some.end());
      }
    }
    return out;
  }
  bool may_go(const Frame& x, std::int64_t layer, bool only_clean) {
    const Slot& s = slot(x.layer, x.page);
    const bool is_wanted = x.layer == layer && at(wanted, x.page) == fetches;
    return !x.pinned && !s.moving && !is_wanted && x.failed != fetches && x.picked != picks &&
           !(only_clean && s.dirty);
  }

  /// Gives frames up until `count` are free, or no more can be had. Of `pages` in use, what two
  /// layers leave over is shared by the others: an even share keeps the disk evenly busy.
  void make_room(Lock& lock, std::int64_t layer, std::size_t count, std::int64_t pages,
                 Failure& failure) {
    const std::int64_t left = std::max<std::int64_t>(0, spec.frames - 2 * pages);
    const auto share = static_cast<std::size_t>(left / std::max<std::int64_t>(1, spec.layers - 2));
    int refused = 0;
    while (free.size() < count) {
      const auto found = victims(layer, count - free.size(), share, refused > 1);
      if (found.empty()) break;
      // Memory that runs out must not leave a frame half way: all of it is taken before.
      std::vector<TierRecord> records;
      std::vector<std::uint64_t> lives;
      records.reserve(found.size());
      lives.reserve(found.size());
      for (const std::int32_t f : found) {
        const Frame victim = frame(f);
        Slot& s = slot(victim.layer, victim.page);
        if (!s.dirty) {
          give_frame(s);
          continue;
        }
        s.moving = true;
        s.version = ++version;
        records.push_back(record_of(victim.layer, victim.page));
        lives.push_back(at(life, victim.page));
      }
      if (records.empty()) continue;
      lock.unlock();
      move_records(records, [&] { file.write(records); });
      lock.lock();
      for (std::size_t i = 0; i < records.size(); ++i)
        failure.write_error = end_write(records[i], lives[i], failure.write_error);
      refused += failure.write_error != 0 ? 1 : 0;
    }
  }

  int end_write(const TierRecord& record, std::uint64_t began, int error) {
    Slot& s = slot(record.key.layer, record.key.page);
    s.moving = false;
    if (at(life, record.key.page) != began) {
      clear(s);
      return error;
    }
    if (record.fate != TierRecord::Fate::kWhole) {
      ++sums.failed_writes;
      frame(s.frame).failed = fetches;
      return record.error;
    }
    sums.bytes_written += file.record_bytes();
    s.sum = record.sum;
    s.dirty = false;
    set_stored(s, true);  // from here on it can be found
    give_frame(s);
    return error;
  }

  enum class Why { kWaiting, kAhead };

  /// Brings those pages into memory that are not there.
  Failure fetch(Lock& lock, std::int64_t layer, std::span<const std::int32_t> pages, Why why) {
    Failure failure;
    ++fetches;
    std::vector<std::int32_t> missing;
    for (const std::int32_t page : pages) {
      if (std::exchange(at(wanted, page), fetches) == fetches) continue;
      if (slot(layer, page).frame < 0 && !at(lost, page)) missing.push_back(page);
    }
    if (missing.empty()) return failure;
    make_room(lock, layer, missing.size(), static_cast<std::int64_t>(pages.size()), failure);
    std::vector<TierRecord> records;
    std::vector<std::uint64_t> lives;
    auto& list = of_layer[static_cast<std::size_t>(layer)];
    list.reserve(list.size() + missing.size());
    records.reserve(missing.size());
    lives.reserve(missing.size());
    failure.pages.reserve(missing.size());
    for (const std::int32_t page : missing) {
      if (free.empty()) {
        failure.no_room = true;
        break;
      }
      take_frame(layer, page);
      Slot& s = slot(layer, page);
      if (!s.stored) continue;
      s.moving = true;
      records.push_back(record_of(layer, page));
      lives.push_back(at(life, page));
    }
    if (records.empty()) return failure;
    lock.unlock();
    move_records(records, [&] { file.read(records); });
    lock.lock();
    for (std::size_t i = 0; i < records.size(); ++i) end_read(records[i], lives[i], why, failure);
    return failure;
  }

  void end_read(const TierRecord& record, std::uint64_t began, Why why, Failure& failure) {
    Slot& s = slot(record.key.layer, record.key.page);
    s.moving = false;
    if (at(life, record.key.page) != began) return clear(s);
    if (record.fate == TierRecord::Fate::kWhole) {
      sums.bytes_read += file.record_bytes();
      sums.waits += why == Why::kWaiting ? 1 : 0;
      frame(s.frame).ahead = why == Why::kAhead;
      return;
    }
    give_frame(s);
    failure.pages.push_back(record.key.page);
    failure.is_wrong = failure.is_wrong || record.fate == TierRecord::Fate::kWrong;
    failure.read_error = record.error;
  }

  /// fetch(), and once more for what could not be read: some faults pass. What is left is lost.
  Failure fetch_or_lose(Lock& lock, std::int64_t layer, std::span<const std::int32_t> pages) {
    Failure failure = fetch(lock, layer, pages, Why::kWaiting);
    if (!failure.pages.empty()) failure = fetch(lock, layer, pages, Why::kWaiting);
    for (const std::int32_t page : failure.pages) {
      at(lost, page) = 1;
      ++sums.lost;
    }
    return failure;
  }

  void work() {
    Lock lock(state);
    for (;;) {
      changed.wait(lock, [&] { return is_busy || is_ending; });
      if (is_ending) return;
      try {
        // What fails is asked for again by whoever needs it, who then learns why.
        static_cast<void>(fetch(lock, job_layer, job_pages, Why::kAhead));
      } catch (const std::exception&) {
        if (!lock.owns_lock()) lock.lock();
      }
      is_busy = false;
      changed.notify_all();
    }
  }

  void begin_ahead(std::int64_t layer, std::span<const std::int32_t> pages) {
    const Lock lock(state);
    if (is_busy || std::all_of(pages.begin(), pages.end(),
                               [&](std::int32_t p) { return slot(layer, p).frame >= 0; }))
      return;
    try {
      job_pages.assign(pages.begin(), pages.end());
      if (!worker.joinable()) worker = std::thread([this] { work(); });
    } catch (const std::exception&) {
      return;  // without a thread, or the memory for it, nothing is read ahead
    }
    job_layer = layer;
    is_busy = true;
    changed.notify_all();
  }

  void unpin(const std::vector<std::int32_t>& pinned) {
    const Lock lock(state);
    for (const std::int32_t f : pinned) {
      frame(f).pinned = false;
      if (frame(f).page < 0) free.push_back(f);  // forgotten meanwhile
    }
  }

  [[noreturn]] void refuse(std::int64_t layer, const Failure& failure,
                           std::span<const std::int32_t> gone) const {
    std::string advice =
        "; read the text again, with --cache-disk on another disk or more --cache-ram";
    int error = gone.empty() ? failure.write_error : failure.read_error;
    if (error == ETIMEDOUT) {
      advice += concat(" (the disk did not answer within ", spec.deadline_ms, " ms)");
      error = 0;
    }
    if (!gone.empty())
      throw IoError(spec.folder,
                    concat("page ", gone.front(), " of layer ", layer,
                           failure.is_wrong ? " came back from the cache's file damaged"
                                            : " cannot be read back from the cache's file",
                           advice),
                    error);
    throw IoError(spec.folder,
                  concat("the cache's file takes no more pages, and memory holds no more", advice),
                  error);
  }
};

Tier::Tier(TierSpec spec) {
  QUIRE_CHECK(spec.layers > 0 && spec.pages > 0 && spec.payload_bytes > 0, "a tier of ",
              spec.layers, " layers, ", spec.pages, " pages, records of ", spec.payload_bytes);
  QUIRE_CHECK(spec.deadline_ms > 0 && spec.deadline_ms < (std::int64_t{1} << 40),
              "a tier whose disk has ", spec.deadline_ms, " ms for an answer");
  QUIRE_CHECK(spec.frames >= 2 * spec.pages && spec.frames <= INT32_MAX, "a tier of ", spec.pages,
              " pages in ", spec.frames, " frames; it needs twice as many");
  file_ops().make_folder(spec.folder);
  auto scratch = file_ops().open_scratch(spec.folder);
  impl_ = std::make_unique<Impl>(std::move(spec), std::move(scratch));
}

Tier::~Tier() = default;

struct Tier::Lease::State {
  std::unique_lock<std::mutex> turn;
  Impl* tier;
  std::int64_t layer;
  std::vector<std::int32_t> pages, frames;
};

Tier::Lease::Lease(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tier::Lease::Lease(Lease&&) noexcept = default;
Tier::Lease::~Lease() {
  if (state_ != nullptr) state_->tier->unpin(state_->frames);
}

std::int32_t Tier::Lease::frame(std::int32_t page) const {
  return state_->tier->slot(state_->layer, page).frame;
}

void Tier::Lease::mark_written(std::int32_t page) {
  const Impl::Lock lock(state_->tier->state);
  Slot& s = state_->tier->slot(state_->layer, page);
  state_->tier->set_stored(s, false);
  s.dirty = true;
  state_->tier->frame(s.frame).written = state_->tier->tick;
}

void Tier::Lease::read_ahead(std::int64_t layer) {
  state_->tier->check(layer, {});
  if (layer != state_->layer) state_->tier->begin_ahead(layer, state_->pages);
}

void Tier::Lease::read_ahead(std::int64_t layer, std::span<const std::int32_t> pages) {
  state_->tier->check(layer, pages);
  if (layer != state_->layer) state_->tier->begin_ahead(layer, pages);
}

Tier::Lease Tier::lease(std::int64_t layer, std::span<const std::int32_t> pages) {
  impl_->check(layer, pages);
  auto out = std::make_unique<Lease::State>();
  out->turn = Impl::Lock(impl_->turn);
  out->tier = impl_.get();
  out->layer = layer;
  Impl& p = *impl_;
  Impl::Lock lock(p.state);
  p.changed.wait(lock, [&] { return !p.is_busy; });
  out->pages.assign(pages.begin(), pages.end());
  std::sort(out->pages.begin(), out->pages.end());
  out->pages.erase(std::unique(out->pages.begin(), out->pages.end()), out->pages.end());
  out->frames.reserve(out->pages.size());
  for (const std::int32_t page : out->pages) {
    const Slot& s = p.slot(layer, page);
    if (s.frame < 0) continue;
    ++p.sums.hits;
    p.sums.ahead += std::exchange(p.frame(s.frame).ahead, false) ? 1 : 0;
  }
  const Failure failure = p.fetch_or_lose(lock, layer, out->pages);
  std::vector<std::int32_t> gone;
  for (const std::int32_t page : out->pages)
    if (p.at(p.lost, page)) gone.push_back(page);
  if (!gone.empty() || failure.no_room) {
    lock.unlock();
    if (p.spec.lost)
      for (const std::int32_t page : gone) p.spec.lost(page);
    p.refuse(layer, failure, gone);
  }
  ++p.tick;
  for (const std::int32_t page : out->pages) {
    p.at(p.used, page) = p.tick;
    out->frames.push_back(p.slot(layer, page).frame);
    p.frame(out->frames.back()).pinned = true;
  }
  return Lease(std::move(out));
}

std::vector<bool> Tier::check(std::span<const std::int32_t> pages) {
  impl_->check(0, pages);
  Impl& p = *impl_;
  const Impl::Lock turn(p.turn);
  Impl::Lock lock(p.state);
  p.changed.wait(lock, [&] { return !p.is_busy; });
  std::vector<bool> out(pages.size());
  for (std::int64_t layer = 0; layer < p.spec.layers; ++layer) {
    // Where no frame can be had nothing is known to be lost; whoever needs the page will see.
    static_cast<void>(p.fetch_or_lose(lock, layer, pages));
  }
  for (std::size_t i = 0; i < pages.size(); ++i) out[i] = !p.at(p.lost, pages[i]);
  return out;
}

bool Tier::is_lost(std::int32_t page) const {
  impl_->check(0, {&page, 1});
  const Impl::Lock lock(impl_->state);
  return impl_->at(impl_->lost, page) != 0;
}

void Tier::forget(std::int32_t page) {
  impl_->check(0, {&page, 1});
  const Impl::Lock lock(impl_->state);
  ++impl_->at(impl_->life, page);
  impl_->at(impl_->lost, page) = 0;
  for (std::int64_t layer = 0; layer < impl_->spec.layers; ++layer) {
    Slot& s = impl_->slot(layer, page);
    if (!s.moving) impl_->clear(s);
  }
}

TierCounts Tier::counts() const {
  const Impl::Lock lock(impl_->state);
  TierCounts out = impl_->sums;
  out.frames = impl_->spec.frames;
  out.in_memory = out.frames - static_cast<std::int64_t>(impl_->free.size());
  out.record_bytes = impl_->file.record_bytes();
  out.method = impl_->file.file().file().method();
  out.given_up = impl_->file.file().given_up();
  return out;
}

}  // namespace quire::cache

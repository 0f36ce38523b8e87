#include "quire/base/thread_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "quire/base/error.h"

namespace quire {
namespace {

std::int64_t half(std::int64_t x) { return x / 2; }

TEST(FunctionRef, CallsWhatItRefersTo) {
  int calls = 0;
  auto count = [&](int by) { return calls += by; };
  const FunctionRef<int(int)> ref = count;
  EXPECT_EQ(ref(2), 2);
  EXPECT_EQ(ref(3), 5);
  EXPECT_EQ(calls, 5);
  const auto constant = [](int x) { return x + 1; };
  EXPECT_EQ(FunctionRef<int(int)>(constant)(1), 2);
  auto* const pointer = &half;
  EXPECT_EQ(FunctionRef<std::int64_t(std::int64_t)>(pointer)(7), 3);
}

TEST(FunctionRef, ACopyRefersToTheFunctionAndNotToTheReference) {
  const auto one = [] { return 1; };
  const auto two = [] { return 2; };
  FunctionRef<int()> ref = one;
  FunctionRef<int()> copy = ref;
  ref = two;
  EXPECT_EQ(copy(), 1);
  EXPECT_EQ(ref(), 2);
}

TEST(FunctionRef, PassesReferencesAndMoveOnlyArguments) {
  int x = 1;
  const auto change = [](int& y, std::unique_ptr<int> by) { y += *by; };
  const FunctionRef<void(int&, std::unique_ptr<int>)> ref = change;
  ref(x, std::make_unique<int>(4));
  EXPECT_EQ(x, 5);
}

class ThreadPoolOf : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolOf, EachPieceExactlyOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const std::int64_t pieces : {0, 1, 2, 3, 17, 1000}) {
    std::vector<std::atomic<int>> seen(static_cast<std::size_t>(pieces));
    pool.run(pieces, [&](std::int64_t piece) { ++seen[static_cast<std::size_t>(piece)]; });
    for (std::size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i].load(), 1) << i;
  }
}

TEST_P(ThreadPoolOf, ThousandsOfRuns) {
  ThreadPool pool(GetParam());
  std::vector<std::int64_t> sums(5);
  // Plain memory: each run must see what the run before it wrote, whoever wrote it.
  for (std::int64_t round = 0; round < 4000; ++round) {
    pool.run(5, [&](std::int64_t piece) {
      const auto i = static_cast<std::size_t>((piece + round) % 5);
      sums[i] += round;
    });
  }
  for (const std::int64_t sum : sums) EXPECT_EQ(sum, 4000 * 3999 / 2);
}

TEST_P(ThreadPoolOf, AnExceptionIsRethrownAfterAllPiecesHaveEnded) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ended = 0;
    EXPECT_THAT(
        [&] {
          pool.run(20, [&](std::int64_t piece) {
            if (piece == 0) throw std::runtime_error("piece 0");
            ++ended;
          });
        },
        testing::ThrowsMessage<std::runtime_error>("piece 0"));
    ASSERT_EQ(ended.load(), 19);
    pool.run(20, [&](std::int64_t) { ++ended; });  // and the pool goes on
    ASSERT_EQ(ended.load(), 39);
  }
  int calls = 0;
  EXPECT_THROW(pool.run(1,
                        [&](std::int64_t) {
                          ++calls;
                          throw IoError("file", "read", 5);
                        }),
               IoError);
  EXPECT_EQ(calls, 1);
}

TEST_P(ThreadPoolOf, ManyExceptionsBecomeOne) {
  ThreadPool pool(GetParam());
  EXPECT_THROW(pool.run(100, [](std::int64_t) { throw std::runtime_error("each"); }),
               std::runtime_error);
}

TEST_P(ThreadPoolOf, ANestedRunWorksInItsThread) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> seen(100);
  std::atomic<int> elsewhere = 0;
  pool.run(10, [&](std::int64_t outer) {
    const std::thread::id here = std::this_thread::get_id();
    pool.run(10, [&](std::int64_t inner) {
      if (std::this_thread::get_id() != here) ++elsewhere;
      ++seen[static_cast<std::size_t>(outer * 10 + inner)];
    });
  });
  for (const std::atomic<int>& count : seen) EXPECT_EQ(count.load(), 1);
  EXPECT_EQ(elsewhere.load(), 0);
}

TEST_P(ThreadPoolOf, AnExceptionPassesThroughANestedRun) {
  ThreadPool pool(GetParam());
  std::atomic<int> inner_ended = 0;
  EXPECT_THROW(pool.run(4,
                        [&](std::int64_t) {
                          pool.run(4, [&](std::int64_t piece) {
                            if (piece == 1) throw std::runtime_error("inner");
                            ++inner_ended;
                          });
                        }),
               std::runtime_error);
  EXPECT_EQ(inner_ended.load(), 12);
}

TEST_P(ThreadPoolOf, SeveralCallersTakeTurns) {
  ThreadPool pool(GetParam());
  std::atomic<std::int64_t> total = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round)
        pool.run(7, [&](std::int64_t piece) { total += piece; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 3 * 200 * 21);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolOf, testing::Values(1, 2, 3, 4, 7, 16));

TEST(ThreadPool, ComesAndGoes) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2 == 0) pool.run(3, [](std::int64_t) {});
  }
}

TEST(ThreadPool, AllThreadsWork) {
  ThreadPool pool(3);
  std::atomic<int> waiting = 0;
  // Each piece waits for the other two: fewer than three threads would never end.
  pool.run(3, [&](std::int64_t) {
    ++waiting;
    while (waiting.load() < 3) std::this_thread::yield();
  });
  EXPECT_EQ(waiting.load(), 3);
}

TEST(ThreadPool, Errors) {
  EXPECT_THAT([] { ThreadPool pool(0); },
              testing::ThrowsMessage<ArgumentError>("threads is 0; it may be 1 to 4096"));
  EXPECT_THROW(ThreadPool(-1), ArgumentError);
  EXPECT_THROW(ThreadPool(4097), ArgumentError);
}

TEST(ThreadPool, ThePoolOfOps) {
  for (const int threads : {3, 1, 2}) {
    set_threads(threads);
    EXPECT_EQ(thread_pool().threads(), threads);
    const ThreadPool* before = &thread_pool();
    set_threads(threads);
    EXPECT_EQ(&thread_pool(), before) << "the same number keeps the pool";
  }
  EXPECT_THROW(set_threads(0), ArgumentError);
  EXPECT_EQ(thread_pool().threads(), 2) << "a wrong number leaves the pool as it was";
}

}  // namespace
}  // namespace quire

#include "quire/ops/attention/kv_snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "quire/base/error.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/attention/kv_write.h"
#include "tests/ops/attention/backward_case.h"

namespace quire::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

/// A pool of three pages of four slots, its guard, and a view of one sequence over pages 2 and 0.
struct Pool {
  Pool() {
    pages.k_pages = k.data();
    pages.v_pages = v.data();
    pages.k_strides = pages.v_strides = {16, 4, 4};
    pages.P = 3;
    pages.Z = pages.K = pages.U = 4;
    pages.G = 1;
    pages.version_P = version.data();
    pages.used_P = used.data();
  }
  void write(const std::vector<std::int64_t>& slots, float value) {
    const auto n = static_cast<std::int64_t>(slots.size());
    const std::vector<float> x(slots.size() * 4, value);
    const Tensor rows = Tensor::of(std::span<const float>(x), {n, 1, 4});
    kv_write(pages, rows, rows, index_of(slots, {n}));
  }
  KvView view() const {
    KvView kv;
    kv.k_pages = k.data();
    kv.v_pages = v.data();
    kv.k_strides = kv.v_strides = pages.k_strides;
    kv.P = 3;
    kv.Z = kv.K = kv.U = 4;
    kv.G = 1;
    kv.table = table.data();
    kv.W = 2;
    kv.length_BG = &length;
    kv.version_P = version.data();
    return kv;
  }
  std::vector<float> k = std::vector<float>(48), v = k;
  std::vector<std::uint64_t> version = std::vector<std::uint64_t>(3);
  std::vector<std::int64_t> used = std::vector<std::int64_t>(3);
  std::vector<std::int32_t> table = {2, 0};
  std::int64_t length = 6;
  KvPages pages;
};

TEST(KvSnapshot, APageOverwrittenAfterForwardIsAnErrorInBackward) {
  Pool pool;
  pool.write({8, 9, 10, 11, 0, 1}, 1);
  const KvSnapshot snapshot(pool.view(), 1);
  EXPECT_NO_THROW(snapshot.view());
  pool.write({9}, 2);
  EXPECT_THAT(
      [&] { snapshot.view(); },
      ThrowsMessage<ArgumentError>(HasSubstr(
          "page 2 was overwritten after the forward that read it: its version was 0 and is 1")));
}

TEST(KvSnapshot, AppendingAndPagesOfOthersAreNoOverwriting) {
  Pool pool;
  pool.write({8, 9, 10, 11, 0, 1}, 1);
  const KvSnapshot snapshot(pool.view(), 1);
  pool.write({2, 3}, 2);  // behind what the forward saw
  pool.write({4, 5}, 3);  // page 1, which it did not see
  pool.write({4}, 4);     // and once more
  EXPECT_NO_THROW(snapshot.view());
  EXPECT_EQ(pool.version, (std::vector<std::uint64_t>{0, 1, 0}));
  EXPECT_EQ(pool.used, (std::vector<std::int64_t>{4, 2, 4}));
}

TEST(KvSnapshot, WithoutAUsedCountEveryWriteCounts) {
  Pool pool;
  pool.pages.used_P = nullptr;
  pool.write({8, 9, -1, 0}, 1);
  EXPECT_EQ(pool.version, (std::vector<std::uint64_t>{1, 0, 2}));
}

TEST(KvSnapshot, KeepsTablesAndLengthsOfEveryForm) {
  for (const Table table : {Table::kNone, Table::kSequences, Table::kHeads, Table::kCsr}) {
    for (const bool per_head : {false, true}) {
      PagedForm form;
      form.table = table;
      form.Z = table == Table::kNone ? 40 : 4;
      form.G = 2;
      form.lengths_per_head = per_head;
      const std::vector<std::int64_t> lengths =
          per_head ? std::vector<std::int64_t>{20, 4, 0, 7} : std::vector<std::int64_t>{20, 5};
      const PagedCase kv(form, lengths, lengths);
      KvView view = kv.view();
      const std::vector<std::uint64_t> version(ref::flat(view.P), 7);
      view.version_P = version.data();
      PagedCase moved = kv;
      KvView short_lived = moved.view();
      short_lived.k_pages = view.k_pages;
      short_lived.v_pages = view.v_pages;
      short_lived.version_P = version.data();
      const KvSnapshot snapshot(short_lived, 2);
      for (std::int32_t& page : moved.table()) page = 0;
      for (std::int64_t& length : moved.lengths()) length = 1;
      const Queries queries({5, 3}, 4, 16);
      EXPECT_TRUE(
          same_bits(queries.attend(snapshot.view(), causal()), queries.attend(view, causal())));
    }
  }
}

TEST(KvSnapshot, Errors) {
  Pool pool;
  pool.table[1] = 3;
  EXPECT_THAT([&] { KvSnapshot(pool.view(), 1); },
              ThrowsMessage<ArgumentError>(HasSubstr("page 1 of sequence 0 is 3")));
  KvView kv = pool.view();
  kv.length_BG = nullptr;
  EXPECT_THAT([&] { KvSnapshot(kv, 1); },
              ThrowsMessage<ArgumentError>(HasSubstr("kv.length_BG is missing")));
}

}  // namespace
}  // namespace quire::test

#include "quire/eval/lockstep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quire/base/error.h"
#include "tests/eval/tiny.h"

namespace quire::eval {
namespace {

using Ids = std::vector<std::int32_t>;

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous_copy(), y = b.contiguous_copy();
  return x.shape() == y.shape() &&
         std::memcmp(x.data<float>(), y.data<float>(), static_cast<std::size_t>(x.bytes())) == 0;
}

TEST(Lockstep, GivesEachCacheTheBitsThatItHasAlone) {
  const auto model = test::tiny_llama();
  const Ids text = test::random_ids(60, 320), asked = test::random_ids(7, 320, 4);
  std::vector<Candidate> candidates{test::contiguous(*model), test::policy(*model, "window", 9),
                                    test::policy(*model, "oracle", 12)};
  std::vector<std::unique_ptr<cache::KvCache>> alone, together;
  std::vector<cache::KvCache*> caches;
  for (const Candidate& candidate : candidates) {
    for (auto* list : {&alone, &together}) {
      list->push_back(candidate.make(60, 80));
      // The last one has read less: lengths may differ.
      const std::size_t read = list->size() == 3 ? 50 : 60;
      model->forward(std::span(text).first(read), *list->back());
      list->back()->end_reading();
    }
    caches.push_back(together.back().get());
  }
  Lockstep lockstep(caches);
  EXPECT_EQ(lockstep.length(), 60);
  EXPECT_EQ(lockstep.capacity(), 80);
  EXPECT_THAT(lockstep.positions(3), testing::ElementsAre(60, 60, 50));
  for (const std::int32_t id : asked) {
    const Tensor hidden_CD = model->forward(Ids{id, 5, id}, lockstep);
    for (std::size_t c = 0; c < 3; ++c) {
      const std::int32_t own = c == 1 ? 5 : id;
      const auto row = static_cast<std::int64_t>(c);
      EXPECT_TRUE(same_bits(model->forward({&own, 1}, *alone[c]), hidden_CD.slice(0, row, row + 1)))
          << candidates[c].cache;
    }
  }
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(together[c]->length(), alone[c]->length());
    EXPECT_EQ(together[c]->report().bytes_read, alone[c]->report().bytes_read);
  }
  EXPECT_EQ(lockstep.bytes(), alone[0]->bytes() + alone[1]->bytes() + alone[2]->bytes());
}

TEST(Lockstep, Refuses) {
  const auto model = test::tiny_llama();
  const auto a = model->make_cache(8, DType::kF32), b = model->make_cache(6, DType::kF32);
  EXPECT_THROW(Lockstep({}), ArgumentError);
  EXPECT_THROW(Lockstep({a.get(), a.get()}), ArgumentError);
  Lockstep lockstep({a.get(), b.get()});
  EXPECT_EQ(lockstep.capacity(), 6);
  EXPECT_THROW(model->forward(Ids{1}, lockstep), ArgumentError);
  EXPECT_THROW(model->forward(Ids{1, 2, 3}, lockstep), ArgumentError);
  EXPECT_THROW(lockstep.truncate(0), ArgumentError);
  for (int i = 0; i < 6; ++i) model->forward(Ids{1, 2}, lockstep);
  EXPECT_THROW(model->forward(Ids{1, 2}, lockstep), ArgumentError) << "one of them is full";
}

}  // namespace
}  // namespace quire::eval

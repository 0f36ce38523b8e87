#include "quire/model/reread.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/contiguous.h"

namespace quire::model {
namespace {

using Ids = std::vector<std::int32_t>;

/// A full cache that wants pieces of 30 tokens twice, and counts what comes.
class Wanting : public cache::ContiguousCache {
 public:
  using ContiguousCache::ContiguousCache;
  std::int64_t reread_tokens() const override { return 30; }
  void begin_reread() override { before = length(); }
  void end_reread() override {
    again.push_back(length() - before);
    truncate(before);
  }

  std::int64_t before = 0;
  std::vector<std::int64_t> again;
};

class Reread : public testing::Test {
 protected:
  std::unique_ptr<Model> model = Model::load(
      ModelFile::open(QUIRE_SOURCE_DIR "/tests/goldens/tiny/llama.gguf"), {Mode::kExact, {}});
  Wanting make(std::int64_t capacity) const {
    return Wanting(model->paged_spec(DType::kF32).layers, capacity, DType::kF32);
  }
  static Ids some(std::int64_t count) {
    Ids ids(static_cast<std::size_t>(count));
    std::iota(ids.begin(), ids.end(), 1);
    return ids;
  }
};

TEST_F(Reread, PiecesEndWhereTheyAreToldAndAtTheEnd) {
  Wanting cache = make(100);
  cache::ContiguousCache other(model->paged_spec(DType::kF32).layers, 100, DType::kF32);
  EXPECT_EQ(until_reread(other, 50), 50);
  EXPECT_EQ(until_reread(cache, 50), 30);
  const Ids ids = some(70);
  model->forward(ids, cache);
  EXPECT_EQ(until_reread(cache, 50), 20);
  EXPECT_EQ(until_reread(cache, 7), 7);
  EXPECT_TRUE(piece_to_reread(cache, ids, false).empty()) << "a piece that is not complete";
  EXPECT_EQ(piece_to_reread(cache, ids, true).size(), 10u);
  EXPECT_EQ(piece_to_reread(cache, ids, true).front(), 61);
  EXPECT_EQ(piece_to_reread(cache, std::span(ids).first(60), false).front(), 31);
  EXPECT_EQ(piece_to_reread(cache, std::span(ids).first(60), true).size(), 30u);
  EXPECT_TRUE(piece_to_reread(cache, {}, true).empty());
  EXPECT_TRUE(piece_to_reread(other, ids, true).empty());
}

TEST_F(Reread, ReadsAgainAsFarAsThereIsRoomAndStops) {
  Wanting cache = make(75);
  const Ids ids = some(60);
  model->forward(ids, cache);
  EXPECT_TRUE(reread(*model, std::span(ids).last(30), cache)) << "room for 15 of them";
  EXPECT_TRUE(reread(*model, std::span(ids).last(10), cache));
  EXPECT_TRUE(reread(*model, {}, cache));
  EXPECT_FALSE(reread(*model, std::span(ids).last(10), cache, [](std::int64_t) { return false; }));
  EXPECT_EQ(cache.again, (std::vector<std::int64_t>{15, 10, 10}));
  EXPECT_EQ(cache.length(), 60);
  EXPECT_THROW(reread(*model, Ids{1 << 30}, cache), ArgumentError);
  EXPECT_EQ(cache.length(), 60) << "what failed leaves nothing either";
  // The model's own context of 256 is an end, too.
  Wanting full = make(400);
  const Ids long_ids = some(250);
  model->forward(long_ids, full);
  EXPECT_TRUE(reread(*model, std::span(long_ids).last(10), full));
  EXPECT_EQ(full.again, (std::vector<std::int64_t>{6}));
}

}  // namespace
}  // namespace quire::model

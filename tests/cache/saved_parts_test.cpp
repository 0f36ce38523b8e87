// Saved caches that are not made of pages: tiered and merged ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <sstream>

#include "quire/cache/merged.h"
#include "quire/cache/paged.h"
#include "quire/cache/saved.h"
#include "quire/cache/tiered.h"
#include "quire/cache/tiered_pages.h"
#include "tests/cache/steps.h"
#include "tests/cache/tiered.h"
#include "tests/support/fault_file_ops.h"

namespace quire::cache {
namespace {

using test::feed;
using test::Folder;
using test::layer_of;
using test::message_of;
using test::part;
using test::random_step;
using test::same_bits;
using test::Step;
using testing::HasSubstr;

constexpr std::int64_t kDocument = 300, kTokens = 360;

std::vector<LayerSpec> some_layers() { return {layer_of(4, 2, 16, 16), layer_of(2, 2, 20, 12)}; }

TieredSpec tiered_spec() { return test::small_zones({.tokens = 60}); }

std::unique_ptr<KvCache> make(const std::string& form, DType kv) {
  if (form == "tiered")
    return std::make_unique<TieredCache>(some_layers(), tiered_spec(), kTokens, kv);
  MergeOptions options = merge_options("merged");
  options.recent = 16;
  const bool whole = form == "merged, first layer whole";
  if (whole) options.whole_first = 1;
  return std::make_unique<MergedCache>(some_layers(), options, Budget{.tokens = whole ? 200 : 120},
                                       kTokens, kv);
}

void save(const KvCache& cache, const std::string& path, const std::string& form, DType kv) {
  SavedParts parts;
  parts.info.model = "a model";
  parts.info.identity = "an identity";
  parts.info.kv = kv;
  parts.info.form = form;
  parts.info.budget_tokens = 120;
  parts.info.created = 5;
  parts.layers = some_layers();
  const std::vector<std::int32_t> ids = test::ids_of(cache.length());
  parts.tokens = ids;
  parts.part = [&](std::int64_t layer) { return cache.layer_bytes(layer); };
  save_parts(parts, path);
}

void load(const std::string& path, const std::string& form, KvCache& cache) {
  const SavedCache saved(path);
  saved.check(form, "an identity", some_layers());
  cache.restore(saved.info().tokens, [&](std::int64_t layer) { return saved.part(layer); });
}

Step text() {
  Rng rng(1);
  return random_step(rng, some_layers(), kTokens);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(SavedParts, INF_11_I7_tiered_and_merged_caches_go_on_with_the_same_bits) {
  const Folder folder;
  const Step all = text();
  for (const std::string form : {"tiered", "merged", "merged, first layer whole"}) {
    for (const DType kv : {DType::kF32, DType::kF16, DType::kI8}) {
      const auto before = make(form, kv);
      feed(*before, part(all, 0, kDocument));
      before->end_reading();
      const std::string path = folder.path() + "/a", again = folder.path() + "/b";
      save(*before, path, form, kv);
      const auto after = make(form, kv);
      load(path, form, *after);
      EXPECT_EQ(after->length(), kDocument);
      EXPECT_EQ(after->report().bytes_stored, before->report().bytes_stored);
      EXPECT_NEAR(after->report().mass, before->report().mass, 1e-12);
      // And saved again it is the same file.
      save(*after, again, form, kv);
      EXPECT_EQ(content_of(path), content_of(again)) << form;
      for (const auto& [begin, end] : {std::pair{300, 301}, {301, 340}, {340, 360}})
        EXPECT_TRUE(
            same_bits(feed(*before, part(all, begin, end)), feed(*after, part(all, begin, end))))
            << form << " " << to_string(kv) << " " << begin;
      // An answer is taken back, another one begins.
      after->truncate(kDocument);
      before->truncate(kDocument);
      EXPECT_TRUE(same_bits(feed(*before, part(all, 300, 320)), feed(*after, part(all, 300, 320))));
      const SavedCache saved(path);
      saved.verify();
      EXPECT_EQ(saved.info().form, form);
      EXPECT_EQ(saved.info().model, "a model");
      EXPECT_EQ(saved.info().budget_tokens, 120);
      EXPECT_EQ(saved.tokens()[299], 299);
    }
  }
}

TEST(SavedParts, HET_06_I7_saved_without_a_limit_restored_with_one_and_back) {
  const Folder folder;
  const std::vector<LayerSpec> layers(5, layer_of(4, 2, 16, 16));
  Rng rng(2);
  const Step all = random_step(rng, layers, kTokens);
  TieredSpec limited = tiered_spec();
  limited.memory = {TieredPages::least_ram_bytes(layers, kTokens, DType::kI8), folder.path(), 0};
  TieredCache plain(layers, tiered_spec(), kTokens, DType::kI8),
      tight(layers, limited, kTokens, DType::kI8),
      from_tight(layers, tiered_spec(), kTokens, DType::kI8);
  feed(plain, part(all, 0, kDocument));
  plain.end_reading();
  tight.restore(kDocument, [&](std::int64_t layer) { return plain.layer_bytes(layer); });
  from_tight.restore(kDocument, [&](std::int64_t layer) { return tight.layer_bytes(layer); });
  ASSERT_TRUE(tight.tier_counts().has_value());
  const std::vector<float> expected = feed(plain, part(all, 300, 340));
  EXPECT_TRUE(same_bits(feed(tight, part(all, 300, 340)), expected));
  EXPECT_TRUE(same_bits(feed(from_tight, part(all, 300, 340)), expected));
  EXPECT_GT(tight.tier_counts()->bytes_read, 0);
}

TEST(SavedParts, D4_D3_a_flip_of_any_byte_and_any_shorter_file_is_refused) {
  const Folder folder;
  const Step all = text();
  for (const std::string form : {"tiered", "merged"}) {
    const auto cache = make(form, DType::kF16);
    feed(*cache, part(all, 0, kDocument));
    cache->end_reading();
    const std::string path = folder.path() + "/whole", bad = folder.path() + "/bad";
    save(*cache, path, form, DType::kF16);
    const std::string whole = content_of(path);
    Rng rng(3);
    for (int i = 0; i < 120; ++i) {
      std::string bytes = whole;
      // The header densely, the rest here and there.
      const std::size_t at =
          i < 60 ? static_cast<std::size_t>(i * 7)
                 : static_cast<std::size_t>(rng.below(static_cast<std::uint64_t>(whole.size())));
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (i % 8)));
      std::ofstream(bad, std::ios::binary) << bytes;
      EXPECT_THROW(SavedCache(bad).verify(), FormatError) << at;
      const auto into = make(form, DType::kF16);
      EXPECT_THROW(load(bad, form, *into), FormatError) << at;
      EXPECT_EQ(into->length(), 0) << "nothing has changed";
    }
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{7}, std::size_t{63}, whole.size() / 2, whole.size() - 1}) {
      std::ofstream(bad, std::ios::binary) << whole.substr(0, length);
      EXPECT_THROW(SavedCache{bad}, FormatError) << length;
    }
    // What could not be loaded was left empty: it reads as if nothing had been.
    const auto into = make(form, DType::kF16);
    std::string bytes = whole;
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    std::ofstream(bad, std::ios::binary) << bytes;
    EXPECT_THROW(load(bad, form, *into), FormatError);
    const auto fresh = make(form, DType::kF16);
    EXPECT_TRUE(same_bits(feed(*into, part(all, 0, 50)), feed(*fresh, part(all, 0, 50))));
  }
}

/// The file of a tiered cache that has read the document.
std::string saved_tiered(const Folder& folder) {
  const auto cache = make("tiered", DType::kF16);
  feed(*cache, part(text(), 0, kDocument));
  cache->end_reading();
  const std::string path = folder.path() + "/a";
  save(*cache, path, "tiered", DType::kF16);
  return path;
}

TEST(SavedParts, D9_D15_another_form_model_or_layout_is_refused) {
  const Folder folder;
  const std::string path = saved_tiered(folder);
  const SavedCache saved(path);
  const auto refused = [&](const std::string& form, const std::string& identity,
                           const std::vector<LayerSpec>& layers) {
    return message_of<FormatError>([&] { saved.check(form, identity, layers); });
  };
  EXPECT_THAT(refused("merged", "an identity", some_layers()),
              HasSubstr("saved by --cache tiered; this is --cache merged"));
  EXPECT_THAT(refused("tiered", "another", some_layers()), HasSubstr("another model or mode"));
  EXPECT_THAT(refused("tiered", "an identity", {layer_of(4, 2, 16, 16)}), HasSubstr("2 layers"));
  PagedSpec spec = test::spec_of(some_layers(), 400, 64, DType::kF16);
  const auto pool = std::make_shared<PagedPool>(spec);
  EXPECT_THAT(message_of<FormatError>([&] { saved.load(pool, 400); }),
              HasSubstr("give --cache tiered"));
  // Another type of numbers has other sizes.
  const auto other = make("tiered", DType::kF32);
  EXPECT_THROW(load(path, "tiered", *other), ArgumentError);
  EXPECT_EQ(other->length(), 0);
}

/// Bytes that a file with right checksums may hold, made by somebody else.
TEST(SavedParts, D17_layers_that_lie_about_themselves_are_refused) {
  const Step all = text();
  const auto cache = make("merged", DType::kF16);
  feed(*cache, part(all, 0, kDocument));
  cache->end_reading();
  const std::vector<std::byte> right = cache->layer_bytes(0);
  const auto refused = [&](const std::vector<std::byte>& bytes) {
    const auto into = make("merged", DType::kF16);
    EXPECT_THROW(into->restore(kDocument,
                               [&](std::int64_t layer) {
                                 return layer == 0 ? bytes : cache->layer_bytes(layer);
                               }),
                 ArgumentError);
    EXPECT_EQ(into->length(), 0);
  };
  const auto with = [&](std::size_t at, auto value) {
    std::vector<std::byte> bytes = right;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  };
  for (const std::int64_t entries : {std::int64_t{0}, std::int64_t{-2}, std::int64_t{301},
                                     std::int64_t{100}, INT64_MAX, std::int64_t{-1}})
    refused(with(8, entries));
  refused(with(0, std::int64_t{7}));  // a budget that the other layer does not have
  refused(with(16, std::int64_t{-1}));
  refused(with(24, std::numeric_limits<double>::quiet_NaN()));
  refused(with(right.size() - 8, std::int64_t{300}));  // a position behind the end
  refused(with(right.size() - 8, std::int64_t{-1}));
  refused({right.begin(), right.end() - 1});
  refused({right.begin(), right.begin() + 20});
  std::vector<std::byte> longer = right;
  longer.push_back(std::byte{0});
  refused(longer);
}

TEST(SavedParts, what_was_not_read_to_its_end_or_went_on_is_not_saved) {
  const Step all = text();
  for (const std::string form : {"tiered", "merged"}) {
    const auto cache = make(form, DType::kF16);
    feed(*cache, part(all, 0, kDocument));
    EXPECT_THROW(static_cast<void>(cache->layer_bytes(0)), ArgumentError) << form;
    cache->end_reading();
    EXPECT_FALSE(cache->layer_bytes(0).empty());
    EXPECT_THROW(cache->restore(kDocument, [&](std::int64_t) { return std::vector<std::byte>(); }),
                 ArgumentError);
    feed(*cache, part(all, kDocument, kDocument + 1));
    EXPECT_THAT(message_of([&] { static_cast<void>(cache->layer_bytes(0)); }),
                HasSubstr("cannot be saved"));
  }
}

TEST(SavedParts, D2_D14_a_fault_at_any_operation_leaves_no_half_file_and_no_half_cache) {
  const Folder folder;
  const std::string path = saved_tiered(folder);
  int failed = 0;
  for (std::int64_t n = 1; n < 40; ++n) {
    const quire::test::FaultFileOps faults(n);
    const auto into = make("tiered", DType::kF16);
    try {
      load(path, "tiered", *into);
      EXPECT_EQ(into->length(), kDocument);
    } catch (const IoError&) {
      ++failed;
      EXPECT_EQ(into->length(), 0);
    }
  }
  EXPECT_GT(failed, 3);
}

}  // namespace
}  // namespace quire::cache

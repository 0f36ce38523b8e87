#include "quire/cache/saved.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "quire/base/isa.h"
#include "quire/base/thread_pool.h"
#include "quire/cache/contiguous.h"
#include "quire/ops/attention/kv_format.h"
#include "tests/cache/steps.h"
#include "tests/support/fault_file_ops.h"
#include "tests/support/folder.h"
#include "tests/support/memory_file_ops.h"

namespace quire::cache {
namespace {

using quire::test::FaultFileOps;
using quire::test::MemoryFileOps;
using test::feed;
using test::layer_of;
using test::message_of;
using test::random_step;
using test::same_bits;
using test::Step;
using testing::AllOf;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

std::vector<LayerSpec> some_layers() { return {layer_of(4, 2, 16, 16), layer_of(3, 1, 20, 12)}; }

PagedSpec spec_of(DType kv = DType::kF16, std::int64_t page = 16) {
  PagedSpec spec;
  spec.layers = some_layers();
  spec.kv = kv;
  spec.budget_tokens = 160;
  spec.page_tokens = page;
  spec.identity = "of this model";
  return spec;
}
std::shared_ptr<PagedPool> pool_of(const PagedSpec& spec) {
  return std::make_shared<PagedPool>(spec);
}

Ids ids_of(std::int64_t count) {
  Ids ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

/// A cache of 40 tokens and the contiguous one with the same.
struct Pair {
  explicit Pair(const PagedSpec& spec, std::int64_t tokens = 40)
      : rng(7), paged(pool_of(spec), 160), plain(spec.layers, 160, spec.kv) {
    const Step step = random_step(rng, spec.layers, tokens);
    feed(paged, step, ids_of(tokens));
    feed(plain, step);
  }
  Rng rng;
  PagedCache paged;
  ContiguousCache plain;
};

/// The bytes of a saved cache of 40 tokens.
std::string saved_bytes(const PagedSpec& spec, std::int64_t tokens = 40) {
  MemoryFileOps files;
  const Pair pair(spec, tokens);
  save_cache(pair.paged, "f", "Model", 1'000'000);
  return files.content("f");
}

/// Loading these bytes: "" or what the error says. Whatever happens, a pool that held something
/// before holds the same.
std::string refusal(const std::string& bytes, const PagedSpec& spec = spec_of(),
                    std::int64_t capacity = 160) {
  MemoryFileOps files;
  files.put("f", bytes);
  const auto pool = pool_of(spec);
  Rng rng(3);
  PagedCache live(pool, 160);
  feed(live, random_step(rng, spec.layers, 20), ids_of(20));
  const BlockCounts before = pool->counts();
  try {
    const SavedCache saved("f");
    saved.verify();
    const auto loaded = saved.load(pool, capacity);
    EXPECT_EQ(loaded->length(), saved.info().tokens);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(pool->counts().held, before.held);
    EXPECT_EQ(pool->counts().free, before.free);
    EXPECT_EQ(live.length(), 20);
    return error.what();
  }
}

TEST(SavedCache, INF_11_I7_goes_on_with_the_same_bits) {
  for (const DType kv : kKvForms) {
    for (const std::int64_t page : {7, 16, 64}) {
      for (const std::int64_t tokens : {1, 16, 40, 64}) {
        MemoryFileOps files;
        const PagedSpec spec = spec_of(kv, page);
        Pair pair(spec, tokens);
        save_cache(pair.paged, "f", "Model", 5);
        const SavedCache saved("f");
        EXPECT_EQ(saved.info().model, "Model");
        EXPECT_EQ(saved.info().tokens, tokens);
        EXPECT_EQ(saved.info().created, 5);
        EXPECT_EQ(saved.info().isa, to_string(isa()));
        const auto loaded = saved.load(pool_of(spec), 160);
        EXPECT_THAT(Ids(loaded->tokens().begin(), loaded->tokens().end()), ids_of(tokens));
        const Step next = random_step(pair.rng, spec.layers, 30);
        const std::vector<float> expected = feed(pair.plain, next);
        EXPECT_TRUE(same_bits(feed(*loaded, next), expected))
            << to_string(kv) << ", pages of " << page << ", " << tokens << " tokens";
      }
    }
  }
}

TEST(SavedCache, resumes_after_an_edited_tail) {
  MemoryFileOps files;
  const PagedSpec spec = spec_of();
  Pair pair(spec);
  save_cache(pair.paged, "f", "Model", 5);
  const auto loaded = SavedCache("f").load(pool_of(spec), 160);
  loaded->truncate(21);
  pair.plain.truncate(21);
  const Step next = random_step(pair.rng, spec.layers, 30);
  EXPECT_TRUE(same_bits(feed(*loaded, next), feed(pair.plain, next)));
}

TEST(SavedCache, I2_the_same_cache_gives_the_same_bytes) {
  for (const DType kv : kKvForms) {
    const PagedSpec spec = spec_of(kv);
    const std::string first = saved_bytes(spec);
    MemoryFileOps files;
    files.put("f", first);
    // Pages that held other numbers before: the unused slots of the last one are zeros all the
    // same.
    const auto pool = pool_of(spec);
    {
      Rng rng(9);
      PagedCache before(pool, 160);
      feed(before, random_step(rng, spec.layers, 160));
    }
    const auto loaded = SavedCache("f").load(pool, 160);
    loaded->truncate(39);
    Rng rng(7);
    const Step all = random_step(rng, spec.layers, 40);
    feed(*loaded, test::part(all, 39, 40), {139});
    save_cache(*loaded, "g", "Model", 1'000'000);
    EXPECT_TRUE(files.content("g") == first) << to_string(kv);
  }
}

TEST(SavedCache, D16_full_pages_are_found_by_others_at_once) {
  MemoryFileOps files;
  const PagedSpec spec = spec_of();
  save_cache(Pair(spec).paged, "f", "Model", 5);
  const auto pool = pool_of(spec);
  const auto loaded = SavedCache("f").load(pool, 160);
  PagedCache other(pool, 160);
  EXPECT_EQ(other.adopt(ids_of(40)), 32);
  EXPECT_EQ(pool->counts().held, 3);
}

TEST(SavedCache, D4_a_flip_of_any_byte_is_refused) {
  for (const DType kv : {DType::kF16, DType::kI8}) {
    const PagedSpec spec = spec_of(kv);
    std::string bytes = saved_bytes(spec, 20);
    ASSERT_EQ(refusal(bytes, spec), "");
    MemoryFileOps files;
    files.put("f", bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << (i % 8)));
      EXPECT_THROW(SavedCache("f").verify(), FormatError) << "byte " << i;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << (i % 8)));
    }
    // What verify() finds, load() finds too.
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    EXPECT_THAT(refusal(bytes, spec), HasSubstr("page 1 of 2 is damaged"));
  }
}

TEST(SavedCache, D3_D15_a_file_of_any_shorter_length_is_refused) {
  const std::string bytes = saved_bytes(spec_of(), 20);
  MemoryFileOps files;
  for (std::size_t length = 0; length < bytes.size(); length += length < 5000 ? 1 : 61) {
    files.put("f", bytes, length);
    EXPECT_THROW(SavedCache("f").verify(), FormatError) << length;
  }
  files.put("f", bytes, bytes.size() + 1);
  EXPECT_THAT(message_of<FormatError>([] { SavedCache("f"); }), HasSubstr("but was written with"));
}

TEST(SavedCache, D3_a_sector_that_was_never_written_is_found) {
  const std::string bytes = saved_bytes(spec_of());
  for (std::size_t sector = 0; sector + 512 <= bytes.size(); sector += 512) {
    std::string torn = bytes;
    torn.replace(sector, 512, 512, '\0');
    if (torn == bytes) continue;
    EXPECT_NE(refusal(torn), "") << sector;
  }
}

TEST(SavedCache, D9_other_versions_and_machines_are_told_by_name) {
  std::string bytes = saved_bytes(spec_of());
  const auto with = [&](std::size_t at, char value) {
    std::string other = bytes;
    other[at] = value;
    return refusal(other);
  };
  EXPECT_THAT(with(8, 0), HasSubstr("has version 0; this program reads version 1"));
  EXPECT_THAT(with(8, 3), HasSubstr("has version 3; this program reads version 1 and 2"));
  std::string swapped = bytes;
  std::reverse(swapped.begin() + 12, swapped.begin() + 16);
  EXPECT_THAT(refusal(swapped), HasSubstr("another byte order"));
  EXPECT_THAT(with(0, 'q'), HasSubstr("is no saved cache"));
  EXPECT_THAT(refusal("GGUF"), HasSubstr("is no saved cache"));
}

TEST(SavedCache, D9_D15_another_model_type_or_layout_is_refused) {
  const std::string bytes = saved_bytes(spec_of());
  EXPECT_EQ(refusal(bytes), "");
  PagedSpec other = spec_of();
  other.identity = "of that model";
  EXPECT_THAT(refusal(bytes, other), HasSubstr("another model or mode"));
  EXPECT_THAT(refusal(bytes, spec_of(DType::kBF16)), HasSubstr("holds f16"));
  EXPECT_THAT(refusal(bytes, spec_of(DType::kF16, 32)), HasSubstr("pages of 16"));
  other = spec_of();
  other.layers.pop_back();
  EXPECT_THAT(refusal(bytes, other), HasSubstr("has 2 layers"));
  other = spec_of();
  std::swap(other.layers[1].K, other.layers[1].U);
  EXPECT_THAT(refusal(bytes, other), HasSubstr("of other sizes"));
}

TEST(SavedCache, D15_more_tokens_than_there_is_room_for_are_refused) {
  PagedSpec large = spec_of();
  large.budget_tokens = 320;
  const std::string bytes = saved_bytes(large, 150);
  EXPECT_THAT(refusal(bytes, large, 100), HasSubstr("holds 150 tokens, but the context only 100"));
  EXPECT_THAT(refusal(bytes), HasSubstr("budget of 160 tokens"));  // 20 of them are taken
}

TEST(SavedCache, D15_a_damaged_file_does_not_push_out_what_the_pool_keeps) {
  const PagedSpec spec = spec_of();
  std::string bytes = saved_bytes(spec);
  MemoryFileOps files;
  const auto pool = pool_of(spec);  // of ten pages
  Rng rng(4);
  {
    PagedCache kept(pool, 160);
    feed(kept, random_step(rng, spec.layers, 150), ids_of(150));
  }
  EXPECT_EQ(pool->counts().cached, 9);
  for (const std::size_t from_end : {1u, 4000u, 9000u}) {  // in any of its three pages
    std::string damaged = bytes;
    char& flipped = damaged[bytes.size() - from_end];
    flipped = static_cast<char>(flipped ^ 1);
    files.put("f", damaged);
    EXPECT_THROW((void)SavedCache("f").load(pool, 160), FormatError);
    EXPECT_EQ(pool->counts().cached, 9);
    EXPECT_EQ(pool->counts().evictions, 0);
    EXPECT_EQ(PagedCache(pool, 160).adopt(ids_of(150)), 144);
  }
  files.put("f", bytes);
  const auto loaded = SavedCache("f").load(pool, 160);
  EXPECT_EQ(pool->counts().evictions, 2);
}

TEST(SavedCache, D15_a_cache_without_tokens_is_not_saved) {
  MemoryFileOps files;
  const PagedSpec spec = spec_of();
  const PagedCache empty(pool_of(spec), 10);
  EXPECT_THROW(save_cache(empty, "f", "Model", 5), ArgumentError);
  PagedCache silent(pool_of(spec), 10);
  Rng rng(1);
  feed(silent, random_step(rng, spec.layers, 5));
  EXPECT_THAT(message_of<ArgumentError>([&] { save_cache(silent, "f", "Model", 5); }),
              HasSubstr("not told"));
  EXPECT_FALSE(files.exists("f"));
}

/// The file with another header or list, and checksums that agree: what only a forger writes.
std::string forged(const std::string& bytes, const std::string& from, const std::string& to) {
  std::uint64_t json = 0, pages = 0;
  std::memcpy(&json, bytes.data() + 24, 8);
  std::memcpy(&pages, bytes.data() + 32, 8);
  std::string out = bytes;
  const std::size_t at = out.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  EXPECT_EQ(from.size(), to.size());
  out.replace(at, from.size(), to);
  const auto sum = [](std::string_view text) {
    return checksum(std::as_bytes(std::span(text.data(), text.size())));
  };
  const Hash128 meta = sum(std::string_view(out).substr(64, pages - 64));
  std::memcpy(out.data() + 40, &meta, 16);
  const std::uint64_t own = sum(std::string_view(out).substr(0, 56)).low;
  std::memcpy(out.data() + 56, &own, 8);
  return out;
}

TEST(SavedCache, D17_sizes_that_the_file_does_not_have_are_refused_before_memory_is_taken) {
  const std::string bytes = saved_bytes(spec_of(), 20);
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"tokens\":20", "\"tokens\":99"},
           {"\"tokens\":20", "\"tokens\":-1"},
           {"\"tokens\":20", "\"tokens\":17"},
           {"\"tokens\":20", "\"tokens\":{}"},
           {"\"page_tokens\":16", "\"page_tokens\":99"},
           {"\"created\":1000000", "\"created\":9e99999"},
           {"\"scale_bytes\":0", "\"scale_bytes\":9"},
           {"[[2,16,16]", "[[0,16,16]"},
           {"[[2,16,16]", "[[9,99,99]"},
           {"\"kv\":\"f16\"", "\"kv\":\"f99\""},
           {"\"model\"", "\"mod\\u\""},
           {"\"isa\"", "\"is1\""}})
    EXPECT_NE(refusal(forged(bytes, from, to)), "") << to;
  // A length beyond any file.
  std::string huge = bytes;
  const std::uint64_t length = std::uint64_t{1} << 63;
  for (const std::size_t at : {16u, 24u, 32u}) {
    huge = bytes;
    std::memcpy(huge.data() + at, &length, 8);
    const std::uint64_t own =
        checksum(std::as_bytes(std::span(huge.data(), huge.size())).first(56)).low;
    std::memcpy(huge.data() + 56, &own, 8);
    EXPECT_NE(refusal(huge), "") << at;
  }
}

TEST(SavedCache, D9_another_instruction_set_is_told_by_name) {
  const std::string bytes = saved_bytes(spec_of(), 20);
  const std::string name(to_string(isa()));
  const std::string other(name.size(), 'z');
  EXPECT_THAT(refusal(forged(bytes, concat("\"isa\":\"", name), concat("\"isa\":\"", other))),
              AllOf(HasSubstr(concat("instruction set ", other)), HasSubstr(name)));
}

TEST(SavedCache, K11_positions_with_holes_are_refused) {
  const std::string bytes = saved_bytes(spec_of(), 20);
  const auto position = [](std::int64_t p) {
    return std::string(reinterpret_cast<const char*>(&p), 8);
  };
  for (const std::int64_t wrong : {std::int64_t{4}, std::int64_t{6}, std::int64_t{-1}, INT64_MAX})
    EXPECT_THAT(refusal(forged(bytes, position(4) + position(5), position(4) + position(wrong))),
                HasSubstr("token 5 stands at position " + std::to_string(wrong)));
}

TEST(SavedCache, D2_D14_a_fault_at_any_operation_is_an_error_and_leaves_the_old_file) {
  const quire::test::Folder folder;
  const std::string path = folder.path() + "/f";
  const PagedSpec spec = spec_of(DType::kI8);
  const Pair pair(spec);
  const auto read = [&] {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  save_cache(pair.paged, path, "Model", 5);
  const std::string old = read();
  // Half of it is all that the disk takes.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit low = before;
  low.rlim_cur = old.size() / 2;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  EXPECT_THROW(save_cache(pair.paged, path, "Model", 6), IoError);
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_TRUE(read() == old);
  set_threads(1);
  for (int fail_at = 1;; ++fail_at) {
    const auto pool = pool_of(spec);
    FaultFileOps faults(fail_at);
    try {
      EXPECT_EQ(SavedCache(path).load(pool, 160)->length(), 40);
      EXPECT_EQ(fail_at, 1 + 1 + 2 + 3 * 2);  // open, head, lists, three pages with scales
      break;
    } catch (const IoError&) {
      EXPECT_EQ(pool->counts().held, 0);
      EXPECT_EQ(pool->counts().free, 10);
    }
  }
}

}  // namespace
}  // namespace quire::cache

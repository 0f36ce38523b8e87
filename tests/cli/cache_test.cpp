// Paged caches, questions and saved caches from the command line, with a tiny model.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "quire/base/json.h"
#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kText = "the quick brown fox jumps over the lazy dog and runs away\n";

const Json& at(const Json& object, const char* key) {
  const Json* value = object.find(key);
  if (value == nullptr) throw std::runtime_error(std::string("no key ") + key);
  return *value;
}

std::vector<Json> objects(const std::string& out) {
  std::vector<Json> all;
  for (std::size_t begin = 0; begin < out.size();) {
    const std::size_t end = out.find('\n', begin);
    all.push_back(Json::parse(out.substr(begin, end - begin), "stdout"));
    begin = end + 1;
  }
  return all;
}

/// A home of this test alone, and runs of the program in it.
class CacheCommand : public testing::Test {
 protected:
  CacheCommand()
      : model_(tiny_model()),
        document_(scratch_file("document", kText)),
        home_(scratch_folder() + "/home") {
    std::filesystem::remove_all(home_);
  }
  Ended call(const std::vector<std::string>& arguments) const {
    return quire(arguments, {.environment = {{"XDG_CACHE_HOME", home_}}});
  }
  Json json(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const Ended ended = call(arguments);
    EXPECT_EQ(ended.code, 0) << ended.err;
    return objects(ended.out).back();
  }
  std::vector<std::string> run(std::vector<std::string> more) const {
    std::vector<std::string> out{"run", model_, "--raw", "--ignore-eos", "--max-tokens", "6"};
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }
  std::string ids(const std::vector<std::string>& arguments) const {
    return at(json(run(arguments)), "ids").dump();
  }
  std::string caches() const { return home_ + "/quire/caches"; }

  std::string model_, document_, home_;
};

TEST_F(CacheCommand, I7_paged_writes_what_full_writes) {
  for (const char* kv : {"f32", "f16", "i8"}) {
    const std::string full = ids({"--file", document_, "why", "--kv", kv});
    EXPECT_EQ(ids({"--file", document_, "why", "--kv", kv, "--cache", "paged"}), full);
    EXPECT_EQ(ids({"--file", document_, "why", "--kv", kv, "--cache", "paged", "--threads", "1"}),
              full);
  }
  const Json out = json(run({"--file", document_, "why", "--cache", "paged", "--budget", "128"}));
  EXPECT_EQ(at(at(out, "cache"), "policy").as_string(), "paged");
  EXPECT_EQ(at(at(out, "cache"), "budget_tokens").as_int(), 128);
  EXPECT_EQ(at(at(out, "cache"), "tokens").as_int(), at(out, "prompt_tokens").as_int() + 6);
}

TEST_F(CacheCommand, K7_a_budget_that_is_too_small_is_named) {
  const Ended ended = call(
      run({"--file", document_, "--file", document_, "why", "--cache", "paged", "--budget", "1"}));
  EXPECT_EQ(ended.code, 4);
  EXPECT_THAT(ended.err, HasSubstr("budget of 64 tokens"));
}

TEST_F(CacheCommand, a_memory_limit_below_two_layers_names_the_floor_before_anything_is_loaded) {
  const Ended ended = call(run({"--file", document_, "why", "--cache-ram", "1k"}));
  EXPECT_EQ(ended.code, 2);
  EXPECT_THAT(ended.err, AllOf(HasSubstr("--cache-ram is 1000"), HasSubstr("needs at least ")));
  const std::size_t at_least = ended.err.find("at least ") + 9;
  const std::string floor = ended.err.substr(at_least, ended.err.find(',', at_least) - at_least);
  // Of a model of two layers that is all of it: no file is needed.
  const std::string full = ids({"--file", document_, "why"});
  EXPECT_EQ(ids({"--file", document_, "why", "--cache-ram", floor}), full);
  const Json out = json(run({"--file", document_, "why", "--cache-ram", "1Gi"}));
  EXPECT_EQ(at(out, "cache").find("tier"), nullptr);
  EXPECT_EQ(at(at(out, "cache"), "disk_bytes").as_int(), 0);
  EXPECT_GT(at(at(out, "cache"), "ram_bytes").as_int(), 0);
}

TEST_F(CacheCommand, I11_answers_are_those_that_are_given_alone) {
  const std::string file = scratch_file("questions", "why\n\nwhere is the dog\r\nwho\n");
  const Ended ended = call(run({"--file", document_, "--questions", file, "--json"}));
  ASSERT_EQ(ended.code, 0) << ended.err;
  const std::vector<Json> all = objects(ended.out);
  ASSERT_EQ(all.size(), 4u);
  const std::vector<std::string> questions = {"why", "where is the dog", "who"};
  std::string expected;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(at(all[i], "question").as_string(), questions[i]);
    const Json alone = json(run({"--file", document_, questions[i]}));
    EXPECT_EQ(at(all[i], "ids").dump(), at(alone, "ids").dump());
    EXPECT_EQ(at(all[i], "text").dump(), at(alone, "text").dump());
    EXPECT_EQ(at(all[i], "prompt_tokens").dump(), at(alone, "prompt_tokens").dump());
    EXPECT_EQ(at(all[i], "finish_reason").as_string(), "length");
    const Ended text = call(run({"--file", document_, questions[i]}));
    expected += "> " + questions[i] + "\n" + text.out + "\n";
  }
  EXPECT_EQ(at(all[3], "questions").as_int(), 3);
  EXPECT_EQ(at(all[3], "generated_tokens").as_int(), 18);
  const Ended text = call(run({"--file", document_, "--questions", file}));
  EXPECT_EQ(text.out, expected);
}

TEST_F(CacheCommand, a_file_of_questions_may_be_written_by_anything) {
  std::string long_one = "who";
  for (int i = 0; i < 40; ++i) long_one += " and who";
  const std::vector<std::string> questions = {"why", "who \xff\xfe is", long_one};
  const std::string file = scratch_file("strange", "\xef\xbb\xbf" + questions[0] + "\r\n \t\r\n\n" +
                                                       questions[1] + "\n" + questions[2]);
  ASSERT_EQ(call(run({"--file", document_, "why", "--save-cache", "strange"})).code, 0);
  const std::vector<std::string> sources[] = {{"--file", document_}, {"--load-cache", "strange"}};
  for (const std::vector<std::string>& source : sources) {
    std::vector<std::string> arguments = {"--questions", file, "--json"};
    arguments.insert(arguments.end(), source.begin(), source.end());
    const Ended ended = call(run(arguments));
    ASSERT_EQ(ended.code, 0) << ended.err;
    const std::vector<Json> all = objects(ended.out);
    ASSERT_EQ(all.size(), 4u);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_EQ(at(all[i], "ids").dump(), ids({"--file", document_, questions[i]})) << i;
  }
}

TEST_F(CacheCommand, INF_11_a_saved_document_is_reopened_and_asked) {
  const std::string expected = ids({"--file", document_, "why"});
  EXPECT_EQ(ids({"--file", document_, "why", "--save-cache", "doc"}), expected);
  struct stat folder {};
  ASSERT_EQ(::stat(caches().c_str(), &folder), 0);
  EXPECT_EQ(folder.st_mode & 0777, 0700u);
  const Json out = json(run({"why", "--load-cache", "doc"}));
  EXPECT_EQ(at(out, "ids").dump(), expected);
  EXPECT_GE(at(out, "reopen_s").as_double(), 0);
  // With the file too; with one that was edited near its end; and another question.
  EXPECT_EQ(ids({"--file", document_, "why", "--load-cache", "doc"}), expected);
  const std::string edited =
      scratch_file("edited", kText.substr(0, kText.size() - 10) + " walks home\n");
  EXPECT_EQ(ids({"--file", edited, "why", "--load-cache", "doc"}), ids({"--file", edited, "why"}));
  EXPECT_EQ(ids({"who", "--load-cache", "doc"}), ids({"--file", document_, "who"}));
  const std::string file = scratch_file("questions", "why\nwho\n");
  const Ended asked = call(run({"--questions", file, "--load-cache", "doc", "--json"}));
  ASSERT_EQ(asked.code, 0) << asked.err;
  EXPECT_EQ(at(objects(asked.out)[0], "ids").dump(), expected);
}

TEST_F(CacheCommand, a_saved_cache_is_listed_verified_and_removed) {
  EXPECT_EQ(call({"cache", "list"}).out, "");
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  std::ofstream(caches() + "/foreign") << "something else";
  EXPECT_THAT(call({"cache", "list"}).out, HasSubstr("doc"));
  EXPECT_THAT(call({"cache", "list"}).err, HasSubstr("1 other files"));
  const Json list = json({"cache", "list"});
  ASSERT_EQ(at(list, "rows").as_array().size(), 1u);
  const Json& row = at(list, "rows").as_array()[0];
  EXPECT_EQ(at(row, "file").as_string(), "doc");
  EXPECT_GT(at(row, "tokens").as_int(), 10);
  EXPECT_EQ(at(row, "bytes").as_int(),
            static_cast<std::int64_t>(std::filesystem::file_size(caches() + "/doc")));
  EXPECT_FALSE(at(row, "pinned").as_bool());
  EXPECT_EQ(at(list, "foreign").as_int(), 1);
  EXPECT_TRUE(at(list, "unreadable").as_array().empty());
  EXPECT_EQ(call({"cache", "verify", "doc"}).code, 0);
  EXPECT_EQ(call({"cache", "verify", "foreign"}).code, 3) << "it is no saved cache";
  EXPECT_EQ(call({"cache", "rm", "foreign"}).code, 3);
  EXPECT_TRUE(std::filesystem::exists(caches() + "/foreign"));
  ASSERT_EQ(::chmod((caches() + "/doc").c_str(), 0400), 0);
  EXPECT_TRUE(at(at(json({"cache", "list"}), "rows").as_array()[0], "pinned").as_bool());
  EXPECT_THAT(call({"cache", "rm", "doc"}).err, HasSubstr("pinned"));
  ASSERT_EQ(::chmod((caches() + "/doc").c_str(), 0600), 0);
  EXPECT_EQ(call({"cache", "rm", "doc"}).code, 0);
  EXPECT_FALSE(std::filesystem::exists(caches() + "/doc"));
  EXPECT_EQ(call({"cache", "rm", "doc"}).code, 5);
}

TEST_F(CacheCommand, D4_D13_all_caches_of_the_folder_are_verified_and_files_of_others_passed_over) {
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", "b"})).code, 0);
  const std::string bytes = read_file(caches() + "/b");
  std::string damaged = bytes;
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  std::ofstream(caches() + "/a", std::ios::binary) << damaged;
  std::ofstream(caches() + "/c", std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  std::ofstream(caches() + "/d") << "QUIREKV\n";
  std::ofstream(caches() + "/foreign") << "something else";
  std::filesystem::create_directory(caches() + "/folder");
  std::filesystem::create_symlink(caches() + "/absent", caches() + "/dangling");
  ASSERT_EQ(::mkfifo((caches() + "/pipe").c_str(), 0600), 0);
  const Ended ended = call({"cache", "verify"});
  EXPECT_EQ(ended.code, 3);
  EXPECT_THAT(ended.out, HasSubstr("/b: "));
  EXPECT_THAT(ended.out, Not(HasSubstr("/a: ")));
  EXPECT_THAT(ended.err, AllOf(HasSubstr("/a"), HasSubstr("/c"), HasSubstr("/d"),
                               HasSubstr("1 other files"), Not(HasSubstr("pipe"))));
  const Ended told = call({"cache", "verify", "--json"});
  EXPECT_EQ(told.code, 3);
  EXPECT_EQ(at(objects(told.out).back(), "verified").as_array().size(), 1u);
  EXPECT_EQ(at(objects(told.out).back(), "failed").as_array().size(), 3u);
  EXPECT_EQ(at(objects(told.out).back(), "foreign").as_int(), 1);
  EXPECT_EQ(objects(told.err).size(), 3u);
  // A list shows what a look at the beginning shows: that of `a` is whole.
  const Json list = json({"cache", "list"});
  EXPECT_EQ(at(list, "rows").as_array().size(), 2u);
  EXPECT_EQ(at(list, "unreadable").as_array().size(), 2u);
  EXPECT_EQ(at(list, "foreign").as_int(), 1);
  EXPECT_THAT(call({"cache", "list"}).err, HasSubstr("quire cache verify"));
  // What is left of a saved cache can be removed, and nothing else.
  for (const char* name : {"a", "c", "d"}) EXPECT_EQ(call({"cache", "rm", name}).code, 0);
  for (const char* name : {"foreign", "folder", "dangling", "pipe"})
    EXPECT_NE(call({"cache", "rm", name}).code, 0) << name;
  EXPECT_EQ(call({"cache", "verify"}).code, 0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(caches()), {}), 5);
}

TEST_F(CacheCommand, I7_INF_11_every_form_of_storage_is_saved_and_reopened_by_others) {
  for (const char* kv : {"f32", "bf16", "f16", "i8", "i4", "i4h", "i8h"}) {
    const std::string expected = ids({"--file", document_, "why", "--kv", kv});
    EXPECT_EQ(ids({"--file", document_, "why", "--kv", kv, "--save-cache", "doc"}), expected) << kv;
    EXPECT_EQ(ids({"why", "--load-cache", "doc", "--threads", "1"}), expected) << kv;
    EXPECT_EQ(at(at(json({"cache", "list"}), "rows").as_array()[0], "kv").as_string(), kv);
  }
}

TEST_F(CacheCommand, D1_D14_a_cache_that_has_no_room_is_not_saved_and_the_old_one_stays) {
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  const std::string old = read_file(caches() + "/doc");
  std::vector<std::string> arguments =
      run({"--file", document_, "--file", document_, "--save-cache", "doc"});
  const Ended ended = quire(
      arguments, {.environment = {{"XDG_CACHE_HOME", home_}}, .most_file_bytes = old.size() / 2});
  EXPECT_EQ(ended.code, 5);
  EXPECT_THAT(ended.err, HasSubstr("File too large"));
  EXPECT_EQ(read_file(caches() + "/doc"), old);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(caches()), {}), 1);
}

TEST_F(CacheCommand, D4_D9_a_damaged_or_foreign_cache_answers_nothing) {
  const std::string path = scratch_folder() + "/doc";
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", path})).code, 0);
  const std::string bytes = read_file(path);
  std::string damaged = bytes;
  damaged[damaged.size() - 5000] = static_cast<char>(damaged[damaged.size() - 5000] ^ 4);
  std::ofstream(path, std::ios::binary) << damaged;
  const Ended flipped = call(run({"why", "--load-cache", path}));
  EXPECT_EQ(flipped.code, 3);
  EXPECT_EQ(flipped.out, "");
  EXPECT_THAT(flipped.err, HasSubstr("is damaged"));
  EXPECT_EQ(call({"cache", "verify", path}).code, 3);
  std::ofstream(path, std::ios::binary) << bytes;
  EXPECT_EQ(call(run({"why", "--load-cache", path})).code, 0);
  EXPECT_EQ(call(run({"why", "--load-cache", path, "--mode", "exact"})).code, 3);
  EXPECT_EQ(call(run({"why", "--load-cache", path, "--kv", "i8"})).code, 2);
  EXPECT_EQ(call(run({"why", "--load-cache", document_})).code, 3);
  EXPECT_EQ(call(run({"why", "--load-cache", "absent"})).code, 5);
}

TEST_F(CacheCommand, a_policy_applies_its_budget_after_the_last_file) {
  const std::vector<std::string> about{"--file", document_, "--file", document_, "why"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = about;
    all.insert(all.end(), more.begin(), more.end());
    return json(run(all));
  };
  const Json full = with({});
  const Json window = with({"--cache", "window", "--budget", "9", "--kv", "f16"});
  const Json& cache = at(window, "cache");
  const std::int64_t prompt = at(full, "prompt_tokens").as_int(),
                     context = at(cache, "context_tokens").as_int(),
                     after = prompt + 5 - context;  // the last token is never read
  EXPECT_EQ(at(cache, "policy").as_string(), "window");
  EXPECT_EQ(at(cache, "budget_tokens").as_int(), 9);
  EXPECT_LT(context, prompt);
  EXPECT_GT(context, 20);
  const std::int64_t token_bytes = at(at(full, "bytes"), "cache").as_int() / (prompt + 5);
  EXPECT_EQ(at(cache, "bytes_stored").as_int(), token_bytes * (9 + after));
  EXPECT_EQ(at(cache, "bytes_read").as_int(), token_bytes * (9 + after));
  EXPECT_EQ(at(at(window, "bytes"), "cache").as_int(), token_bytes * (9 + after));
  // A budget that covers the documents is the full cache.
  for (const char* policy : {"window", "oracle", "quest", "h2o", "snapkv", "kvzip",
                             "expected_attention", "merged", "keepkv", "asymkv", "notebook_merge"})
    EXPECT_EQ(at(with({"--cache", policy, "--budget", "100%"}), "ids").dump(),
              at(full, "ids").dump());
  EXPECT_EQ(
      at(at(with({"--cache", "random", "--budget", "50%"}), "cache"), "budget_tokens").as_int(),
      context / 2);
}

TEST_F(CacheCommand, the_tiered_cache_has_a_budget_of_its_own_and_tells_what_it_read) {
  const std::vector<std::string> about{"--file", document_, "--file", document_, "why"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = about;
    all.insert(all.end(), more.begin(), more.end());
    return json(run(all));
  };
  const std::string full = at(with({}), "ids").dump();
  for (const char* budget : {"100%", "mass:1", "read:100%"})
    EXPECT_EQ(at(with({"--cache", "tiered", "--budget", budget}), "ids").dump(), full) << budget;
  const Json cache = at(with({"--cache", "tiered"}), "cache");
  EXPECT_EQ(at(cache, "policy").as_string(), "tiered");
  std::int64_t tokens = 0;
  for (const char* zone : {"sink", "context", "staging", "recent"})
    tokens += at(at(cache, "zones"), zone).as_int();
  EXPECT_EQ(tokens, at(cache, "tokens").as_int());
  EXPECT_GT(at(cache, "bytes_read").as_int(), 0);
  for (const char* budget : {"mass:0", "mass:1.5", "read:", "room:5"}) {
    std::vector<std::string> all = about;
    all.insert(all.end(), {"--cache", "tiered", "--budget", budget});
    const Ended ended = call(run(all));
    EXPECT_EQ(ended.code, 2) << budget;
    EXPECT_THAT(ended.err, HasSubstr("--budget")) << budget;
  }
  for (const char* kind : {"window", "paged", "full"}) {
    std::vector<std::string> all = about;
    all.insert(all.end(), {"--cache", kind, "--budget", "mass:0.5"});
    EXPECT_THAT(call(run(all)).err, HasSubstr("only --cache tiered")) << kind;
  }
}

TEST_F(CacheCommand, questions_have_the_same_answers_under_every_cache_as_when_asked_alone) {
  const std::string file = scratch_file("questions", "why\nwho is it?\n\nwhen\n");
  for (const std::vector<std::string>& kind : {std::vector<std::string>{"--cache", "tiered"},
                                               {"--cache", "tiered", "--budget", "20"},
                                               {"--cache", "merged", "--budget", "80%"},
                                               {"--cache", "window", "--budget", "30"}}) {
    std::vector<std::string> all{"--questions", file, "--file", document_, "--file", document_};
    all.insert(all.end(), kind.begin(), kind.end());
    all.emplace_back("--json");
    const Ended ended = call(run(all));
    ASSERT_EQ(ended.code, 0) << ended.err;
    const std::vector<Json> lines = objects(ended.out);
    ASSERT_EQ(lines.size(), 4u);
    const std::vector<std::string> questions{"why", "who is it?", "when"};
    for (std::size_t i = 0; i < 3; ++i) {
      all = {"--file", document_, "--file", document_, questions[i]};
      all.insert(all.end(), kind.begin(), kind.end());
      EXPECT_EQ(at(lines[i], "ids").dump(), ids(all)) << kind[1] << " " << i;
    }
    EXPECT_EQ(at(at(lines[3], "cache"), "policy").as_string(), kind[1]);
    if (kind[1] == "merged") {
      EXPECT_GT(at(at(lines[3], "cache"), "reread_tokens").as_int(), 40) << "the document, twice";
    }
  }
}

TEST_F(CacheCommand, INF_11_tiered_and_merged_caches_are_saved_and_reopened) {
  for (const std::vector<std::string>& kind :
       {std::vector<std::string>{"tiered"}, {"merged", "--budget", "80%"}}) {
    const std::string& name = kind[0];
    std::vector<std::string> first{"--file", document_, "--file", document_, "why", "--cache"};
    first.insert(first.end(), kind.begin(), kind.end());
    const std::string expected = ids(first);
    first.insert(first.end(), {"--save-cache", name});
    EXPECT_EQ(ids(first), expected);
    EXPECT_EQ(ids({"why", "--cache", name, "--load-cache", name}), expected);
    // With the same files too; other ones are not what was read.
    EXPECT_EQ(ids({"why", "--file", document_, "--file", document_, "--cache", name, "--load-cache",
                   name}),
              expected);
    EXPECT_THAT(call(run({"why", "--file", document_, "--cache", name, "--load-cache", name})).err,
                HasSubstr("holds other documents"));
    const std::string file = scratch_file("questions", "why\nwho\n");
    const Ended asked =
        call(run({"--questions", file, "--cache", name, "--load-cache", name, "--json"}));
    ASSERT_EQ(asked.code, 0) << asked.err;
    EXPECT_EQ(at(objects(asked.out)[0], "ids").dump(), expected);
    const Ended other = call(run({"why", "--load-cache", name}));
    EXPECT_EQ(other.code, 3);
    EXPECT_THAT(other.err, HasSubstr("give --cache " + name));
  }
  EXPECT_EQ(call(run({"why", "--cache", "tiered", "--load-cache", "merged"})).code, 3);
  EXPECT_EQ(call(run({"why", "--cache", "tiered", "--load-cache", "tiered", "--mode", "exact",
                      "--kv", "f16"}))
                .code,
            3);
  EXPECT_THAT(
      call(run({"why", "--cache", "merged", "--budget", "9", "--load-cache", "merged"})).err,
      HasSubstr("the budget it was merged to"));
  const Json list = json({"cache", "list"});
  EXPECT_EQ(at(list, "rows").as_array().size(), 2u);
  EXPECT_EQ(at(at(list, "rows").as_array()[0], "cache").as_string(), "merged");
  EXPECT_EQ(call({"cache", "verify"}).code, 0);
}

TEST_F(CacheCommand, the_tiered_cache_answers_the_same_under_a_memory_limit) {
  std::vector<std::string> all{"--file",  document_, "--file",   document_, "why",
                               "--cache", "tiered",  "--budget", "20"};
  const Json without = json(run(all));
  EXPECT_EQ(at(without, "cache").find("tier"), nullptr);
  const Ended least = [&] {
    std::vector<std::string> small = all;
    small.insert(small.end(), {"--cache-ram", "1"});
    return call(run(small));
  }();
  const std::string word = "needs at least ";
  ASSERT_NE(least.err.find(word), std::string::npos) << least.err;
  const std::string bytes =
      std::to_string(std::stoll(least.err.substr(least.err.find(word) + word.size())));
  all.insert(all.end(), {"--cache-ram", bytes, "--cache-disk", scratch_folder() + "/tier"});
  const Json limited = json(run(all));
  EXPECT_EQ(at(limited, "ids").dump(), at(without, "ids").dump());
}

TEST_F(CacheCommand, a_policy_is_refused_what_it_cannot_do) {
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& word) {
    const Ended ended = call(run(arguments));
    EXPECT_EQ(ended.code, 2) << word;
    EXPECT_THAT(ended.err, HasSubstr(word));
  };
  const std::string file = scratch_file("questions", "why\n");
  refused({"why", "--file", document_, "--cache", "windw", "--budget", "9"},
          "did you mean window?");
  refused({"why", "--file", document_, "--cache", "window"}, "--cache window needs a --budget");
  refused({"why", "--file", document_, "--cache", "window", "--budget", "4"},
          "--budget is 4; window needs at least 5 tokens");
  refused({"why", "--file", document_, "--cache", "merged", "--budget", "69"},
          "--budget is 69; merged needs at least 70 tokens");
  refused({"why", "--file", document_, "--cache", "window", "--budget", "1%"},
          "window needs at least 5");
  refused({"why", "--file", document_, "--cache", "window", "--budget", "0%"}, "--budget");
  refused({"why", "--file", document_, "--cache", "paged", "--budget", "10%"},
          "--budget is a share");
  refused({"why", "--cache", "window", "--budget", "9"}, "there is no document");
  refused({"why", "--file", document_, "--cache", "window", "--budget", "9", "--cache-ram", "1M"},
          "--cache window has no slow tier");
  refused({"why", "--file", document_, "--cache", "tiered", "--cache-ram", "10"}, "needs at least");
  refused({"why", "--file", document_, "--cache", "tiered", "--cache-disk", "/tmp"},
          "--cache-ram too");
  refused({"why", "--file", document_, "--cache", "window", "--budget", "9", "--save-cache", "x"},
          "--cache window cannot be saved");
}

TEST_F(CacheCommand, L5_a_document_is_never_overwritten_by_what_is_saved_of_it) {
  const Ended ended = call(run({"--file", document_, "--save-cache", document_}));
  EXPECT_EQ(ended.code, 2);
  EXPECT_EQ(ended.out, "");
  EXPECT_THAT(ended.err, HasSubstr("exists and is no saved cache"));
  EXPECT_NE(read_file(document_), "");
  EXPECT_EQ(call(run({"--file", document_, "--save-cache", "/nosuch/folder/doc"})).code, 5);
  EXPECT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  EXPECT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  ASSERT_EQ(::chmod((caches() + "/doc").c_str(), 0400), 0);
  EXPECT_THAT(call(run({"--file", document_, "--save-cache", "doc"})).err,
              HasSubstr("is write-protected"));
  std::ofstream(caches() + "/foreign") << "something else";
  EXPECT_EQ(call({"cache", "list", "--quiet"}).err, "");
}

TEST_F(CacheCommand, D6_what_a_killed_save_left_is_removed) {
  const auto names = [&] {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(caches()))
      out.push_back(entry.path().filename());
    return out;
  };
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  const auto leave = [&](const std::string& name) {
    std::ofstream(caches() + "/" + name) << "QUIREKV\nhalf of it";
  };
  leave("doc.tmp-1-0");
  ASSERT_EQ(call(run({"--file", document_, "--save-cache", "doc"})).code, 0);
  EXPECT_THAT(names(), testing::ElementsAre("doc"));
  leave("doc.tmp-1-0");
  leave("other.tmp-99-3");
  const Ended listed = call({"cache", "list"});
  EXPECT_THAT(listed.err, HasSubstr("removed 2 unfinished files"));
  EXPECT_THAT(names(), testing::ElementsAre("doc"));
  leave("doc.tmp-1-0");
  EXPECT_EQ(call({"cache", "rm", "doc"}).code, 0);
  EXPECT_THAT(names(), testing::IsEmpty());
}

TEST_F(CacheCommand, refuses_options_that_contradict_each_other) {
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& word) {
    const Ended ended = call(run(arguments));
    EXPECT_EQ(ended.code, 2) << word;
    EXPECT_THAT(ended.err, HasSubstr(word));
  };
  const std::string file = scratch_file("questions", "why\n");
  refused({"why", "--cache", "full", "--save-cache", "x"}, "--cache full");
  refused({"why", "--budget", "100"}, "--budget");
  refused({"why", "--cache", "full", "--cache-ram", "1M"}, "--cache full");
  refused({"why", "--cache-disk", "/tmp"}, "--cache-ram too");
  refused({"why", "--cache-ram", "0"}, "--cache-ram");
  refused({"why", "--cache-ram", "1M", "--cache-disk", "/tmp:7X"}, "--cache-disk");
  refused({"why", "--cache-ram", "1M", "--cache-disk", ":7M"}, "names no folder");
  refused({"why", "--questions", file}, "PROMPT and --questions");
  refused({"why", "--file", document_, "--save-cache", "x y"}, "cannot name");
  refused({"why", "--file", document_, "--save-cache", ".hidden"}, "cannot name");
  refused({"why", "--save-cache", "x"}, "no document");
  EXPECT_EQ(call(run({"--questions", scratch_file("none", "\n \n")})).code, 3);
  EXPECT_EQ(call({"cache"}).code, 2);
  EXPECT_EQ(call({"cache", "burn"}).code, 2);
  EXPECT_EQ(call({"cache", "rm"}).code, 2);
  EXPECT_EQ(call({"cache", "list", "x"}).code, 2);
}

}  // namespace
}  // namespace quire::test

// What the commands print, with a tiny model.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::HasSubstr;

Json json(const std::vector<std::string>& arguments, const Start& start = {}) {
  const Ended ended = quire(arguments, start);
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  EXPECT_EQ(lines(ended.out), 1);
  return Json::parse(ended.out, "stdout");
}

std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.as_object()) out.push_back(key);
  return out;
}

const Json& at(const Json& object, const char* key) {
  const Json* value = object.find(key);
  if (value == nullptr) throw std::runtime_error(std::string("no key ") + key);
  return *value;
}

TEST(Run, JsonHasTheDocumentedShape) {
  const Json out = json({"run", tiny_model(), "hello world", "--raw", "--max-tokens", "5",
                         "--ignore-eos", "--seed", "7", "--json"});
  EXPECT_THAT(keys(out),
              testing::ElementsAre("text", "ids", "prompt_tokens", "generated_tokens",
                                   "finish_reason", "read_tok_s", "write_tok_s", "load_s", "bytes",
                                   "cache", "mode", "seed", "threads", "isa"));
  EXPECT_EQ(at(out, "ids").as_array().size(), 5u);
  EXPECT_EQ(at(out, "generated_tokens").as_int(), 5);
  EXPECT_EQ(at(out, "finish_reason").as_string(), "length");
  EXPECT_THAT(keys(at(out, "bytes")), testing::ElementsAre("weights", "cache", "peak"));
  EXPECT_EQ(at(at(out, "cache"), "policy").as_string(), "full");
  EXPECT_EQ(at(at(out, "cache"), "tokens").as_int(), at(out, "prompt_tokens").as_int() + 5);
  EXPECT_GT(at(at(out, "bytes"), "peak").as_int(), 0);
}

TEST(Run, TextOnOutputTableOnErrorOnlyWhenAskedFor) {
  const std::vector<std::string> command{"run",   tiny_model(),   "hello",
                                         "--raw", "--max-tokens", "3"};
  const Ended silent = quire(command);
  EXPECT_EQ(silent.code, 0);
  EXPECT_EQ(silent.err, "");
  std::vector<std::string> verbose = command;
  verbose.push_back("--verbose");
  const Ended told = quire(verbose);
  EXPECT_EQ(told.out, silent.out);
  for (const char* word : {"read", "wrote", "tok/s", "loaded", "weights", "cache", "peak"}) {
    EXPECT_THAT(told.err, HasSubstr(word));
  }
  verbose.push_back("--quiet");
  EXPECT_EQ(quire(verbose).err, "");
}

TEST(Run, SameSeedSameAnswer) {
  const auto ids = [](const char* seed) {
    return at(json({"run", tiny_model(), "hello", "--raw", "--max-tokens", "20", "--temperature",
                    "5", "--seed", seed, "--ignore-eos", "--json"}),
              "ids")
        .dump();
  };
  EXPECT_EQ(ids("1"), ids("1"));
  EXPECT_NE(ids("1"), ids("2"));
}

TEST(Run, IdsAreTheWholePrompt) {
  const std::string file = scratch_file("ids", " 5\n6\t7 ");
  const std::vector<std::string> command{"run",    tiny_model(),   "--ids", file,
                                         "--json", "--max-tokens", "2"};
  EXPECT_EQ(at(json(command), "prompt_tokens").as_int(), 3);
  const Ended far = quire({"run", tiny_model(), "--ids", scratch_file("far", "5 320")});
  EXPECT_EQ(far.code, 3);
  EXPECT_THAT(far.err, HasSubstr("token 1 is '320'"));
}

TEST(Run, FilesAndStandardInput) {
  const std::string file = scratch_file("document", "hello");
  const auto prompt_tokens = [](const std::vector<std::string>& more, const std::string& input) {
    std::vector<std::string> arguments{"run", tiny_model(), "--raw", "--json", "--max-tokens", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return at(json(arguments, {.input = input}), "prompt_tokens").as_int();
  };
  EXPECT_EQ(prompt_tokens({"--file", file}, ""), prompt_tokens({"--file", "-"}, "hello"));
  EXPECT_EQ(prompt_tokens({"hello"}, ""), prompt_tokens({"-"}, "hello"));
  const Ended absent = quire({"run", tiny_model(), "--raw", "--file", "/nosuch/file"});
  EXPECT_EQ(absent.code, 5);
  EXPECT_THAT(absent.err, HasSubstr("/nosuch/file"));
  EXPECT_EQ(quire({"run", tiny_model(), "--raw", "--file", scratch_folder()}).code, 5);
}

TEST(Run, APromptBeyondTheContextIsRefusedWithBothCounts) {
  std::string ids;
  for (int i = 0; i < 257; ++i) ids += "5 ";
  const std::string file = scratch_file("ids", ids);
  const Ended over = quire({"run", tiny_model(), "--ids", file});
  EXPECT_EQ(over.code, 2);
  EXPECT_THAT(over.err, HasSubstr("the prompt has 257 tokens, the context has room for 256"));
  const Ended less = quire({"run", tiny_model(), "--ids", file, "--context", "100"});
  EXPECT_THAT(less.err, HasSubstr("257 tokens, the context has room for 100"));
  const Ended more = quire({"run", tiny_model(), "--ids", file, "--context", "300"});
  EXPECT_EQ(more.code, 2);
  EXPECT_THAT(more.err, HasSubstr("--context is 300; this model's context is 256"));
}

TEST(Run, StopsAreNotPartOfTheText) {
  const std::vector<std::string> command{"run",          tiny_model(), "hello",        "--raw",
                                         "--max-tokens", "40",         "--ignore-eos", "--json"};
  const std::string all = at(json(command), "text").as_string();
  ASSERT_GT(all.size(), 8u);
  std::size_t begin = 4;
  while (begin < all.size() && (static_cast<unsigned char>(all[begin]) & 0xC0) == 0x80) ++begin;
  std::size_t end = begin + 2;
  while (end < all.size() && (static_cast<unsigned char>(all[end]) & 0xC0) == 0x80) ++end;
  const std::string stop = all.substr(begin, end - begin);
  std::vector<std::string> stopped = command;
  stopped.insert(stopped.end(), {"--stop", stop});
  const Json out = json(stopped);
  EXPECT_EQ(at(out, "text").as_string(), all.substr(0, all.find(stop)));
  EXPECT_EQ(at(out, "finish_reason").as_string(), "stop");
}

TEST(Run, OutputThatCannotBeWritten) {
  const std::vector<std::string> command{"run", tiny_model(), "hello", "--raw", "--ignore-eos"};
  const Ended full = quire(command, {.output_file = "/dev/full"});
  EXPECT_EQ(full.code, 5);
  EXPECT_THAT(full.err, HasSubstr("No space left"));
  const Ended closed = quire(command, {.close_output = true});
  EXPECT_EQ(closed.code, 0);
  EXPECT_EQ(closed.err, "");
}

TEST(Info, JsonHasTheDocumentedShape) {
  const Json out = json({"info", tiny_model(), "--json", "--context", "128"});
  EXPECT_EQ(at(out, "architecture").as_string(), "llama");
  EXPECT_EQ(at(out, "parameters").as_int(), 45'216);
  EXPECT_EQ(at(out, "context").as_int(), 256);
  ASSERT_EQ(at(out, "tensors").as_array().size(), 21u);
  EXPECT_THAT(keys(at(out, "tensors").as_array().front()),
              testing::ElementsAre("name", "type", "shape", "bytes"));
  EXPECT_EQ(at(at(out, "tokenizer"), "tokens").as_int(), 320);
  const Json& plan = at(out, "plan");
  EXPECT_EQ(at(plan, "cache_per_token").as_int(), 2 * 2 * 16 * 2 * 2);  // layers heads size f16 k+v
  EXPECT_EQ(at(plan, "cache").as_int(), 128 * 256);
  EXPECT_EQ(at(plan, "total").as_int(),
            at(plan, "weights").as_int() + at(plan, "cache").as_int() + at(plan, "work").as_int());
  EXPECT_GT(at(plan, "available").as_int(), 0);
  EXPECT_THAT(quire({"info", tiny_model()}).out, HasSubstr("general.architecture"));
}

TEST(Score, ValuesAndFileAgree) {
  const std::string ids = scratch_file("ids", "5 6 7 8 9 10");
  const std::string file = scratch_folder() + "/out.safetensors";
  const Json out = json({"score", tiny_model(), "--ids", ids, "--nll", "--at", "0,3", "--out", file,
                         "--mode", "exact", "--json"});
  EXPECT_EQ(at(out, "tokens").as_int(), 6);
  const auto& nll = at(out, "nll").as_array();
  ASSERT_EQ(nll.size(), 5u);
  double sum = 0;
  for (const Json& value : nll) sum += value.as_double();
  EXPECT_NEAR(at(out, "nll_mean").as_double(), sum / 5, 1e-12);
  EXPECT_NEAR(at(out, "perplexity").as_double(), std::exp(sum / 5), 1e-9);
  const io::SafetensorsFile written(file);
  EXPECT_EQ(written.read("ids").shape(), Shape({6}));
  EXPECT_EQ(written.read("at").data<std::int32_t>()[1], 3);
  EXPECT_EQ(written.read("logits").shape(), Shape({2, 320}));
  EXPECT_EQ(written.read("nll").data<double>()[4], nll[4].as_double());
  const Json by_one = json(
      {"score", tiny_model(), "--ids", ids, "--nll", "--chunk", "1", "--mode", "exact", "--json"});
  EXPECT_EQ(at(by_one, "nll").dump(), at(out, "nll").dump());
}

TEST(Score, RefusesWhatItCannotScore) {
  EXPECT_THAT(quire({"score", tiny_model(), "--ids", scratch_file("one", "5")}).err,
              HasSubstr("at least 2"));
  const std::string ids = scratch_file("ids", "5 6 7");
  const Ended far = quire({"score", tiny_model(), "--ids", ids, "--at", "3", "--out", "x"});
  EXPECT_EQ(far.code, 2);
  EXPECT_THAT(far.err, HasSubstr("positions 0 to 2"));
  const Ended twice = quire({"score", tiny_model(), "--ids", ids, "--at", "1,1", "--out", "x"});
  EXPECT_THAT(twice.err, HasSubstr("must ascend"));
  const Ended nowhere =
      quire({"score", tiny_model(), "--ids", ids, "--out", "/nosuch/folder/out.safetensors"});
  EXPECT_EQ(nowhere.code, 5);
}

TEST(Score, L5_OverwritesNoFileOfAnotherKind) {
  const std::string ids = scratch_file("ids", "5 6 7 8 9 10 11 12");
  const auto score = [&](const std::string& out) {
    return quire({"score", tiny_model(), "--ids", ids, "--out", out});
  };
  const Ended refused = score(ids);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("exists and is no safetensors file"));
  EXPECT_EQ(read_file(ids), "5 6 7 8 9 10 11 12");
  const std::string empty = scratch_file("empty", "");
  EXPECT_EQ(score(empty).code, 0);
  EXPECT_EQ(score(empty).code, 0) << "one of the same kind is replaced";
  EXPECT_EQ(score("/dev/full").code, 5);
  EXPECT_EQ(score(scratch_folder()).code, 5);
}

TEST(Tokenize, ThereAndBack) {
  const std::string model = tiny_model();
  const std::string text = "hello wörld \xF0\x9F\x98\x80";
  const std::string ids = quire({"tokenize", model, text}).out;
  EXPECT_EQ(lines(ids), 1);
  EXPECT_EQ(quire({"tokenize", model, "--decode", ids}).out, text);
  EXPECT_EQ(quire({"tokenize", model, "-"}, {.input = text}).out, ids);
  EXPECT_EQ(quire({"tokenize", model, "--file", scratch_file("t", text)}).out, ids);
  EXPECT_EQ(quire({"tokenize", model, "--bos", text}).out, "0 " + ids);
  const Json object = json({"tokenize", model, "--json", "--decode", ids});
  EXPECT_EQ(at(object, "text").as_string(), text);
}

TEST(Tokenize, Lines) {
  const std::string model = tiny_model();
  const Ended ids = quire({"tokenize", model, "--jsonl"},
                          {.input = "{\"text\": \"hello\"}\n\n{\"hex\": \"68656C6c6f\"}\r\n"
                                    "{\"text\": \"x\", \"hex\": \"68656c6c6f\"}"});
  EXPECT_EQ(ids.code, 0) << ids.err;
  const std::string line = ids.out.substr(0, ids.out.find('\n') + 1);
  EXPECT_EQ(ids.out, line + line + line);
  EXPECT_EQ(quire({"tokenize", model, "--jsonl", "--decode"}, {.input = line}).out,
            "{\"text\":\"hello\"}\n");
  for (const char* bad : {"{\"text\": 5}", "{\"hex\": \"6\"}", "{\"hex\": \"6g\"}", "[]", "{}", "x",
                          "{\"ids\": [5]}"}) {
    const Ended ended =
        quire({"tokenize", model, "--jsonl"}, {.input = "{\"text\": \"a\"}\n" + std::string(bad)});
    EXPECT_EQ(ended.code, 3) << bad;
    EXPECT_EQ(lines(ended.out), 1) << bad;
  }
  const Ended far =
      quire({"tokenize", model, "--jsonl", "--decode"}, {.input = "{\"ids\": [320]}"});
  EXPECT_EQ(far.code, 3);
  EXPECT_THAT(far.err, HasSubstr("line 1"));
}

TEST(Template, RendersTheGoldens) {
  std::string goldens = read_file(golden("text/templates.jsonl"));
  int rendered = 0;
  for (std::size_t begin = 0; begin < goldens.size();) {
    const std::size_t end = std::min(goldens.find('\n', begin), goldens.size());
    const std::string line = goldens.substr(begin, end - begin);
    begin = end + 1;
    if (line.find("\"@model/") == std::string::npos) continue;
    const Json row = Json::parse(line, "golden");
    const Json* expected = row.find("expected");
    const std::string source = scratch_file("template", at(row, "template").as_string());
    const std::string vars = scratch_file("vars.json", at(row, "variables").dump());
    const Ended ended = quire({"template", "--template", source, "--vars", vars});
    EXPECT_EQ(ended.code, expected != nullptr ? 0 : 3) << line;
    if (expected != nullptr) {
      EXPECT_EQ(ended.out, expected->as_string()) << line;
    }
    ++rendered;
  }
  EXPECT_GT(rendered, 5);
}

TEST(Template, JsonAndErrors) {
  const std::string source = scratch_file("template", "{{ messages[0].content }}{{ bos_token }}");
  const Json out =
      json({"template", "--template", source, "--vars", "-", "--json"},
           {.input = "{\"messages\": [{\"content\": \"hi\"}], \"bos_token\": \"<s>\"}"});
  EXPECT_EQ(at(out, "text").as_string(), "hi<s>");
  const Ended no_object = quire({"template", "--template", source, "--vars", "-"}, {.input = "[]"});
  EXPECT_EQ(no_object.code, 3);
  const Ended no_json = quire({"template", "--template", source, "--vars", "-"}, {.input = "{"});
  EXPECT_EQ(no_json.code, 3);
  const Ended broken = quire({"template", "--template", scratch_file("broken", "{% if %}"),
                              "--vars", scratch_file("vars", "{}")});
  EXPECT_EQ(broken.code, 3);
  EXPECT_EQ(lines(broken.err), 1);
}

TEST(Bench, JsonHasTheDocumentedShape) {
  const Json out = json({"bench", "model", tiny_model(), "--smoke", "--json", "--threads", "1"});
  EXPECT_GT(at(at(out, "prefill"), "32").as_double(), 0);
  EXPECT_GT(at(at(out, "decode"), "0").as_double(), 0);
  EXPECT_EQ(at(out, "threads").as_int(), 1);
  EXPECT_THAT(keys(at(out, "ceilings")),
              testing::ElementsAre("stream_gb_s", "fma_gflop_s", "int8_gop_s"));
  EXPECT_GT(at(at(out, "bytes"), "weights").as_int(), 0);
  const Json one = json({"bench", "model", tiny_model(), "--smoke", "--decode", "9", "--json"});
  EXPECT_TRUE(at(one, "prefill").as_object().empty());
  EXPECT_GT(at(at(one, "decode"), "9").as_double(), 0);
  EXPECT_THAT(quire({"bench", "model", tiny_model(), "--smoke"}).out, HasSubstr("share"));
  const Ended far = quire({"bench", "model", tiny_model(), "--prefill", "512"});
  EXPECT_EQ(far.code, 2);
  EXPECT_THAT(far.err, HasSubstr("this needs 512 tokens of context, the model has 256"));
}

TEST(BenchOps, JsonHasTheDocumentedShape) {
  const Json out = json({"bench", "ops", "index", "--smoke", "--json", "--threads", "1"});
  EXPECT_THAT(keys(out), testing::ElementsAre("rows", "ceilings", "threads", "isa"));
  EXPECT_EQ(at(out, "threads").as_int(), 1);
  EXPECT_GT(at(at(out, "ceilings"), "stream_gb_s").as_double(), 0);
  EXPECT_GT(at(at(at(out, "ceilings"), "random_rows_gb_s"), "20").as_double(), 0);
  std::set<std::string> ops, layouts;
  for (const Json& row : at(out, "rows").as_array()) {
    EXPECT_THAT(keys(row), testing::ElementsAre("op", "shape", "dtype", "places", "index", "layout",
                                                "seconds", "gb_s", "share"));
    ops.insert(at(row, "op").as_string());
    layouts.insert(at(row, "layout").as_string());
    EXPECT_EQ(at(row, "shape").as_array().size(), 2u);
    EXPECT_GT(at(row, "seconds").as_double(), 0);
    EXPECT_GT(at(row, "share").as_double(), 0);
  }
  EXPECT_THAT(ops, testing::ElementsAre("gather", "index_select", "scatter_reduce amax",
                                        "scatter_reduce amin", "scatter_reduce mean",
                                        "scatter_reduce prod", "scatter_reduce sum"));
  EXPECT_THAT(layouts, testing::ElementsAre("copied", "expanded", "full", "rows"));
}

TEST(BenchOps, WhatDoesNotFitInMemoryIsRefusedFirst) {
  const Ended ended = quire({"bench", "ops", "index", "--rows", "4G", "--floats", "1,65536"});
  EXPECT_EQ(ended.code, 4);
  EXPECT_EQ(ended.out, "");
  EXPECT_THAT(ended.err, HasSubstr("give fewer --rows"));
}

TEST(BenchOps, TableAndSizes) {
  const Ended ended =
      quire({"bench", "ops", "--smoke", "--rows", "3Ki", "--places", "9", "--floats", "5,7"});
  EXPECT_EQ(ended.code, 0);
  EXPECT_EQ(ended.err, "");
  for (const char* said : {"3072x5", "3072x7", " 9 skewed", "GB/s", "share", "random_rows_gb_s"})
    EXPECT_THAT(ended.out, HasSubstr(said));
}

}  // namespace
}  // namespace quire::test

// quire eval on the tiny model: its tables, its object, its files, and what it refuses.
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "quire/base/json.h"
#include "quire/io/safetensors.h"
#include "tests/cli/program.h"

namespace quire::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// 2 bytes of text make about a token of this model.
std::string some_text() {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "Line " + std::to_string(i * 7919 % 1000) + " of it.\n";
  return scratch_file("text.txt", text);
}

std::vector<std::string> eval_arguments(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"eval", tiny_model(), "--file",    some_text(), "--positions",
                                     "24",   "--tokens",   "200",       "--tasks",   "none",
                                     "--kv", "f32",        "--threads", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.as_object()) out.push_back(key);
  return out;
}

double figure(const Json& row, const char* key) { return row.find(key)->as_double(); }

TEST(Eval, PrintsOneObjectWithARowForEachCacheAndBudget) {
  const Ended ended =
      quire(eval_arguments({"--json", "--cache", "full,int8,window,oracle", "--budget", "10%,40"}));
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  EXPECT_EQ(lines(ended.out), 1);
  const Json out = Json::parse(ended.out, "eval");
  EXPECT_THAT(keys(out), ElementsAre("model", "text", "in_text", "tokens", "document", "positions",
                                     "rows", "differences", "tasks", "left_out", "seconds", "mode",
                                     "kv", "seed", "threads", "isa"));
  EXPECT_GT(out.find("in_text")->as_int(), 200);
  EXPECT_EQ(out.find("tokens")->as_int(), 200);
  EXPECT_EQ(out.find("document")->as_int(), 175);
  EXPECT_EQ(out.find("positions")->as_int(), 24);
  EXPECT_TRUE(out.find("tasks")->as_array().empty());
  const Json::Array& rows = out.find("rows")->as_array();
  ASSERT_EQ(rows.size(), 6u);
  for (const Json& row : rows) {
    EXPECT_THAT(keys(row),
                ElementsAre("cache", "budget", "bytes_read", "bytes_stored", "kl_mean", "kl_median",
                            "kl_p99", "kl_interval", "top1", "dnll", "dnll_interval", "dnll_far",
                            "mass", "mass_p5", "mass_worst_head", "error", "error_p95",
                            "error_worst_head", "worst_head", "tok_s"));
    const Json::Array& interval = row.find("kl_interval")->as_array();
    ASSERT_EQ(interval.size(), 2u);
    EXPECT_LE(interval[0].as_double(), figure(row, "kl_mean"));
    EXPECT_GE(interval[1].as_double(), figure(row, "kl_mean"));
    EXPECT_GT(figure(row, "tok_s"), 0);
  }
  EXPECT_EQ(out.find("mode")->as_string(), "exact") << "unless told otherwise";
  EXPECT_EQ(rows[0].find("cache")->as_string(), "full");
  EXPECT_TRUE(rows[0].find("budget")->is_null());
  EXPECT_EQ(figure(rows[0], "kl_mean"), 0) << "exactly";
  EXPECT_EQ(figure(rows[0], "error"), 0);
  EXPECT_EQ(figure(rows[0], "top1"), 1);
  EXPECT_EQ(rows[0].find("bytes_stored")->as_int(), 199 * 2 * 2 * 32 * 4);
  EXPECT_EQ(rows[1].find("cache")->as_string(), "int8");
  EXPECT_LT(figure(rows[1], "bytes_stored"), figure(rows[0], "bytes_stored"));
  EXPECT_EQ(rows[2].find("cache")->as_string(), "window");
  EXPECT_EQ(rows[2].find("budget")->as_string(), "10%");
  EXPECT_EQ(rows[3].find("budget")->as_string(), "40");
  EXPECT_EQ(rows[3].find("bytes_stored")->as_int(), (40 + 24) * 2 * 2 * 32 * 4);
  EXPECT_GT(figure(rows[2], "kl_mean"), 0);
  EXPECT_GT(figure(rows[4], "mass"), figure(rows[2], "mass")) << "the oracle sees most";
  const Json::Array& differences = out.find("differences")->as_array();
  ASSERT_EQ(differences.size(), 2u) << "window and oracle, by budget";
  EXPECT_THAT(keys(differences[0]), ElementsAre("cache", "other", "budget", "kl", "interval"));
  EXPECT_NEAR(figure(differences[0], "kl"), figure(rows[2], "kl_mean") - figure(rows[4], "kl_mean"),
              1e-12);
}

TEST(Eval, FiguresRepeatWhateverTheThreads) {
  const auto rows = [](const char* threads) {
    std::vector<std::string> arguments =
        eval_arguments({"--json", "--cache", "quest,window,h2o", "--budget", "70"});
    *(arguments.end() - 6) = threads;
    const Ended ended = quire(arguments);
    EXPECT_EQ(ended.code, 0) << ended.err;
    std::string out;
    const Json object = Json::parse(ended.out, "eval");
    for (const Json& row : object.find("rows")->as_array())
      for (const auto& [key, value] : row.as_object())
        if (key != "tok_s") out += key + value.dump();
    return out;
  };
  EXPECT_EQ(rows("1"), rows("2"));
}

TEST(Eval, TasksCountTheirCells) {
  std::vector<std::string> arguments = eval_arguments(
      {"--json", "--cache", "full,window", "--budget", "20", "--task-tokens", "128"});
  *(arguments.begin() + 9) = "passkey,copy";
  const Ended ended = quire(arguments);
  ASSERT_EQ(ended.code, 0) << ended.err;
  const Json::Array tasks = Json::parse(ended.out, "eval").find("tasks")->as_array();
  ASSERT_EQ(tasks.size(), 4u);
  for (const Json& task : tasks) {
    EXPECT_THAT(keys(task), ElementsAre("task", "cache", "budget", "passed", "cells", "dropped",
                                        "known", "claim"));
    EXPECT_EQ(task.find("cells")->as_int() + task.find("dropped")->as_int(), 50);
    EXPECT_EQ(task.find("claim")->as_bool(), task.find("cells")->as_int() >= 30);
  }
  EXPECT_EQ(tasks[0].find("task")->as_string(), "passkey");
  EXPECT_EQ(tasks[2].find("task")->as_string(), "copy");
  EXPECT_EQ(tasks[0].find("passed")->as_int(), tasks[0].find("cells")->as_int());
  // A random model finds nothing: the table says so instead of a number.
  std::vector<std::string> plain = arguments;
  plain.erase(std::find(plain.begin(), plain.end(), "--json"));
  EXPECT_THAT(quire(plain).out, HasSubstr("no claim"));
}

TEST(Eval, PrintsTables) {
  const Ended ended = quire(eval_arguments({"--cache", "full,window,oracle", "--budget", "10%"}));
  ASSERT_EQ(ended.code, 0) << ended.err;
  EXPECT_EQ(ended.err, "");
  EXPECT_THAT(ended.out, StartsWith("175 tokens read exactly, then 24 positions one by one; the "
                                    "text has "));
  for (const char* part : {"R read", "S stored", "top-1", "attention alone", "worst head",
                           "KL beside window's at the same budget"})
    EXPECT_THAT(ended.out, HasSubstr(part));
  EXPECT_THAT(ended.out, Not(HasSubstr("nan")));
}

TEST(Eval, EqualBytesReadAndOtherFormsStandInOneTable) {
  const Ended ended = quire(eval_arguments(
      {"--json", "--cache", "full,window,window@i8h,quest", "--budget", "read:25%"}));
  ASSERT_EQ(ended.code, 0) << ended.err;
  const Json out = Json::parse(ended.out, "eval");
  const Json::Array& rows = out.find("rows")->as_array();
  ASSERT_EQ(rows.size(), 3u);
  // The mean over 24 positions, each with what came after the document.
  const double row = 2 * 2 * 32 * 4, most = 0.25 * 175 * row + 12.5 * row;
  EXPECT_LE(figure(rows[1], "bytes_read"), most);
  EXPECT_GT(figure(rows[1], "bytes_read"), most - row);
  EXPECT_LE(figure(rows[2], "bytes_read"), most);
  EXPECT_GT(figure(rows[2], "bytes_read"), 0.8 * most) << "what comes after is smaller, too";
  EXPECT_EQ(rows[2].find("cache")->as_string(), "window@i8h");
  EXPECT_LT(figure(rows[2], "kl_mean"), figure(rows[1], "kl_mean"))
      << "smaller keys, more of them in the same bytes";
  const Json::Array& left_out = out.find("left_out")->as_array();
  ASSERT_EQ(left_out.size(), 1u) << "quest leaves both layers of this model whole";
  EXPECT_EQ(left_out[0].find("cache")->as_string(), "quest");
  EXPECT_EQ(left_out[0].find("budget")->as_string(), "read:25%");
  EXPECT_EQ(left_out[0].find("reason")->as_string(),
            "a step of quest reads at least 100 % of the bytes here, and the budget is 25 %");
}

TEST(Eval, WritesAFigureAndTheDump) {
  const std::string plot = scratch_folder() + "/kl.svg",
                    dump = scratch_folder() + "/qkv.safetensors";
  const Ended ended = quire(eval_arguments({"--cache", "full,window", "--budget", "10%,20%",
                                            "--plot", plot, "--dump-qkv", dump, "--layers", "1"}));
  ASSERT_EQ(ended.code, 0) << ended.err;
  const std::string svg = read_file(plot);
  EXPECT_THAT(svg, StartsWith("<svg"));
  EXPECT_THAT(svg, HasSubstr("bytes read per decode step"));
  EXPECT_THAT(svg, HasSubstr("bytes stored in all tiers"));
  const io::SafetensorsFile file(dump);
  std::set<std::string> names;
  for (const auto& entry : file.entries()) names.insert(entry.name);
  EXPECT_THAT(names, ElementsAre("ids", "k.1", "q.1", "v.1"));
  EXPECT_EQ(file.find("q.1")->shape, (Shape{199, 4, 16}));
  EXPECT_EQ(file.find("k.1")->shape, (Shape{199, 2, 16}));
  EXPECT_EQ(file.metadata().at("document"), "175");
}

void expect_refused(const std::vector<std::string>& more, const std::string& said) {
  const Ended ended = quire(eval_arguments(more));
  EXPECT_EQ(ended.code, 2) << said;
  EXPECT_EQ(ended.out, "") << said;
  EXPECT_EQ(lines(ended.err), 1) << ended.err;
  EXPECT_THAT(ended.err, HasSubstr(said));
}

TEST(Eval, RefusesWhatItCannotMeasure) {
  expect_refused({"--cache", "full,windwo"}, "--cache names 'windwo'; did you mean window?");
  expect_refused({"--cache", "full,,window"}, "--cache is 'full,,window'; it must be a list");
  expect_refused({"--cache", "full,full"}, "--cache names full twice");
  for (const char* budget : {"0%", "101%", "0", "many", "nan%", "-5", "10MB", "read:0", "mass:2",
                             "5 %", "%", "read:", "1e3"})
    expect_refused({"--budget", std::string("5%,") + budget},
                   std::string("--budget has '") + budget + "'; a budget is N tokens, N% of");
  expect_refused({"--budget", ""}, "--budget is ''; it must be a list");
  expect_refused({"--cache", "window", "--budget", "mass:0.5"},
                 "--budget mass:0.5: window takes N, N% or read:P tokens");
  expect_refused({"--cache", "window@i5"}, "behind the @ stands one of f32, bf16");
  expect_refused({"--cache", "int8@f16"}, "int8 is a form of storage itself");
  expect_refused({"--plot", ""}, "--plot is ''; it must be a file");
  expect_refused({"--cache", "snapkv", "--budget", "9"}, "snapkv needs at least");
  expect_refused({"--cache", "window", "--budget", "1%"}, "window needs at least");
  expect_refused({"--layers", "0"}, "--layers needs --dump-qkv FILE");
  expect_refused({"--layers", "2", "--dump-qkv", scratch_folder() + "/x"},
                 "--layers has 2, but the model has 2");
}

TEST(Eval, L5_OverwritesNoFileOfAnotherKind) {
  const std::string figure = scratch_file("old.svg", "<svg xmlns=\"old\"/>"),
                    notes = scratch_file("notes.txt", "not to be lost"),
                    tensors = scratch_folder() + "/old.safetensors";
  io::write_safetensors(tensors, {{"ids", Tensor::zeros({2}, DType::kI32)}}, {});
  const std::string held = read_file(tensors);
  // Before any work, and whichever way the two were confused.
  for (const std::string& path : {notes, tensors, some_text()})
    expect_refused({"--plot", path}, "--plot: " + path + " exists and is no SVG figure");
  for (const std::string& path : {notes, figure, some_text()})
    expect_refused({"--dump-qkv", path}, path + " exists and is no safetensors file");
  expect_refused({"--plot", "x", "--dump-qkv", "x"}, "name the same file");
  EXPECT_EQ(read_file(notes), "not to be lost");
  EXPECT_EQ(read_file(tensors), held);
  EXPECT_EQ(read_file(figure), "<svg xmlns=\"old\"/>");
  // One of the same kind is replaced.
  const Ended ended = quire(eval_arguments(
      {"--cache", "full,window", "--budget", "20%", "--plot", figure, "--dump-qkv", tensors}));
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(read_file(figure), HasSubstr("bytes stored in all tiers"));
  EXPECT_NE(read_file(tensors), held);
}

TEST(Eval, RefusesTextsThatDoNotFit) {
  const std::string model = tiny_model(), text = some_text();
  const auto refused = [&](std::vector<std::string> more, const std::string& said) {
    std::vector<std::string> arguments{"eval", model, "--file", text};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ended ended = quire(arguments);
    EXPECT_EQ(ended.code, 2) << said;
    EXPECT_THAT(ended.err, HasSubstr(said));
  };
  refused({},
          "of the text 257 tokens are taken; 384 positions and a document of at least 128 need "
          "512 (--positions takes fewer)");
  refused({"--tokens", "300", "--positions", "20"},
          "--tokens is 300, but this model's context is 256");
  refused({"--tokens", "100000"}, "--tokens is 100000, but the text has");
  refused({"--tokens", "200"}, "of the text 200 tokens are taken; 384 positions and a document of");
  refused({"--tokens", "200", "--positions", "20"}, "but a task's document has 2048");
  refused({"--tasks", "passkey,needle"},
          "--tasks names 'needle'; in this version: passkey, copy, none");
  const Ended absent = quire({"eval", model, "--file", scratch_folder() + "/absent.txt"});
  EXPECT_EQ(absent.code, 5);
  const Ended unwritable =
      quire({"eval", model, "--file", text, "--plot", scratch_folder() + "/absent/kl.svg"});
  EXPECT_EQ(unwritable.code, 5);
  EXPECT_THAT(unwritable.err, HasSubstr("cannot create a file there"));
  EXPECT_EQ(quire({"eval", model, "--file", text, "--plot", scratch_folder()}).code, 5);
  EXPECT_THAT(quire({"eval", model}).err, HasSubstr("--file is missing"));
}

}  // namespace
}  // namespace quire::test

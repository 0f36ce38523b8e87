// Pass keys in texts longer than a model was trained for, under positions inside the cache: how
// many of them a window finds, and a search of what is far from it.
//
//   passkey_bench MODEL.gguf TEXT TOKENS KEYS DOCUMENTS NEAR BUDGET,…
//
// With KEYS 1 a document is one of `quire eval --tasks passkey`, of TOKENS tokens of TEXT, at
// DOCUMENTS depths. With more of them it is TEXT with so many lines between its own, evenly spread,
// each with a key of five digits for another town: one reading gives many cells, which the other
// keys make harder. A key is found when every digit is the likeliest token after the right ones
// before it. No full cache can say which of them the
// model is able to answer, so each counts. BUDGET is `window`, a number of far tokens, a part of
// the far keys' bytes like 0.25, or, where the model was trained for as many tokens, `full`. A
// document is read once for all of them but `full`: reading is the same. Prints a line for each
// document and budget, keys in the order of the text, then one for each budget.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/error.h"
#include "quire/cache/near.h"
#include "quire/eval/tasks.h"
#include "quire/model/model.h"
#include "quire/tensor/rng.h"
#include "quire/text/tokenizer.h"

namespace {

using quire::Tensor;
using quire::cache::KvCache;
using quire::cache::NearCache;
using quire::cache::NearSpec;
using Ids = std::vector<std::int32_t>;

constexpr const char* kTowns[] = {"Paris",  "London", "Madrid",  "Berlin", "Vienna",
                                  "Moscow", "Tokyo",  "Cairo",   "Rome",   "Athens",
                                  "Dublin", "Boston", "Chicago", "Delhi",  "Oslo",
                                  "Prague", "Warsaw", "Toronto", "Sydney", "Lisbon"};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Two caches that are given the same keys, of which the first answers: for readings that are the
/// same in both.
class Both : public KvCache {
 public:
  Both(KvCache& a, KvCache& b) : a_(a), b_(b) {}
  std::int64_t length() const override { return a_.length(); }
  std::int64_t capacity() const override { return a_.capacity(); }
  void append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) override {
    a_.append(layer, k_NGK, v_NGU);
    b_.append(layer, k_NGK, v_NGU);
  }
  Tensor attend(std::int64_t layer, const Tensor& q_NHK) override {
    return a_.attend(layer, q_NHK);
  }
  void advance(std::int64_t tokens) override {
    a_.advance(tokens);
    b_.advance(tokens);
  }
  void truncate(std::int64_t length) override {
    a_.truncate(length);
    b_.truncate(length);
  }
  void end_reading() override {
    a_.end_reading();
    b_.end_reading();
  }
  std::int64_t bytes() const override { return a_.bytes() + b_.bytes(); }
  std::int64_t bytes_per_token() const override { return a_.bytes_per_token(); }

 private:
  KvCache &a_, &b_;
};

struct Question {
  Ids ask, answer;
};

struct Document {
  Ids ids;
  std::vector<Question> questions;
};

/// `tokens` of the filler and the lines together.
Document make_document(const quire::text::Tokenizer& tokenizer, const Ids& filler,
                       std::int64_t tokens, std::int64_t keys, std::uint64_t seed) {
  const auto encode = [&](const std::string& text) {
    return tokenizer.encode(text, quire::text::Origin::kData);
  };
  quire::Rng rng(seed);
  std::vector<std::string> towns(std::begin(kTowns), std::end(kTowns));
  Document out;
  std::vector<Ids> lines;
  std::int64_t rest = tokens;
  for (std::int64_t key = 0; key < keys; ++key) {
    const auto drawn = towns.begin() + static_cast<std::ptrdiff_t>(rng.below(towns.size()));
    const std::string town = *drawn;
    towns.erase(drawn);
    std::string digits;
    for (int i = 0; i < 5; ++i) digits += static_cast<char>('0' + rng.below(10));
    lines.push_back(
        encode(quire::concat("\nThe pass key of ", town, " is ", digits, ". Remember it. ", digits,
                             " is the pass key of ", town, ".\n")));
    rest -= std::ssize(lines.back());
    out.questions.push_back({encode(quire::concat("\nWhat is the pass key of ", town,
                                                  "? The pass key of ", town, " is")),
                             encode(quire::concat(" ", digits))});
  }
  std::int64_t at = 0;
  const auto put_filler = [&](std::int64_t end) {
    out.ids.insert(out.ids.end(), filler.begin() + at, filler.begin() + end);
    at = end;
  };
  for (std::int64_t key = 0; key < keys; ++key) {
    std::int64_t end = (2 * key + 1) * rest / (2 * keys);
    // Behind the end of a line.
    while (end > at && !tokenizer.bytes(filler[static_cast<std::size_t>(end - 1)]).ends_with('\n'))
      --end;
    put_filler(end);
    const Ids& line = lines[static_cast<std::size_t>(key)];
    out.ids.insert(out.ids.end(), line.begin(), line.end());
  }
  put_filler(rest);
  return out;
}

std::vector<Document> make_documents(const quire::text::Tokenizer& tokenizer, const Ids& filler,
                                     std::int64_t tokens, std::int64_t keys, std::int64_t count) {
  std::vector<Document> out;
  if (keys > 1) {
    for (std::int64_t i = 0; i < count; ++i)
      out.push_back(make_document(tokenizer, filler, tokens, keys, static_cast<std::uint64_t>(i)));
    return out;
  }
  const auto task = quire::eval::passkey_task(tokenizer, filler, {count, 1, tokens, 0});
  for (const quire::eval::TaskDocument& document : task.documents)
    out.push_back({document.ids, {{document.questions[0].ask, document.questions[0].answer}}});
  return out;
}

struct Budget {
  std::string name;
  std::int64_t passed = 0;
};

void read(const quire::model::Model& model, const Ids& ids, KvCache& cache) {
  const auto chunk = static_cast<std::size_t>(model.max_chunk());
  for (std::size_t at = 0; at < ids.size(); at += chunk)
    (void)model.forward(std::span(ids).subspan(at, std::min(chunk, ids.size() - at)), cache);
}

/// Whether every digit is the likeliest after the right ones before it.
bool passes(const quire::model::Model& model, const Question& question, KvCache& cache) {
  Ids ids = question.ask;
  ids.insert(ids.end(), question.answer.begin(), question.answer.end());
  bool right = true;
  for (std::size_t i = 0; right && i + 1 < ids.size(); ++i) {
    const Tensor hidden_1D = model.forward(std::span(ids).subspan(i, 1), cache);
    if (i + 1 < question.ask.size()) continue;
    const Tensor logits_1V = model.logits(hidden_1D);
    const float* x = logits_1V.data<float>();
    right = std::max_element(x, x + logits_1V.elements()) - x == ids[i + 1];
  }
  return right;
}

void ask(const quire::model::Model& model, const Document& document, KvCache& cache,
         Budget& budget) {
  const double start = now();
  const std::int64_t length = cache.length();
  std::string found;
  double bytes = 0;
  for (const Question& question : document.questions) {
    const bool right = passes(model, question, cache);
    bytes = static_cast<double>(cache.report().bytes_read);
    budget.passed += right ? 1 : 0;
    found += right ? '+' : '.';
    cache.truncate(length);
  }
  fmt::print("  {:>8}  {}  {:.1f} MB a step, {:.0f} s\n", budget.name, found, bytes / 1e6,
             now() - start);
  std::fflush(stdout);
}

std::vector<Budget> parse(const std::string& text) {
  std::vector<Budget> out{{}};
  for (const char c : text) {
    if (c == ',') {
      out.emplace_back();
    } else {
      out.back().name += c;
    }
  }
  return out;
}

quire::cache::SearchBudget search_budget(const std::string& name) {
  quire::cache::SearchBudget out;
  if (name.find('.') == std::string::npos) {
    out.tokens = std::stoll(name);
  } else {
    out.read = std::stod(name);
  }
  return out;
}

void examine(const quire::model::Model& model, const Document& document, std::int64_t near,
             std::vector<Budget>& budgets) {
  const std::int64_t room = std::ssize(document.ids) + 64;
  const auto asks = [](bool full) {
    return [full](const Budget& budget) { return (budget.name == "full") == full; };
  };
  if (std::any_of(budgets.begin(), budgets.end(), asks(true))) {
    const auto full = model.make_cache(room, model.default_kv());
    read(model, document.ids, *full);
    ask(model, document, *full, *std::find_if(budgets.begin(), budgets.end(), asks(true)));
  }
  if (std::none_of(budgets.begin(), budgets.end(), asks(false))) return;
  const std::vector<quire::cache::LayerSpec> layers = model.file().cache_layers();
  NearSpec spec{.near = near};
  NearCache window(layers, spec, room, model.default_kv());
  spec.far.emplace();
  NearCache tiered(layers, spec, room, model.default_kv());
  Both both(window, tiered);
  const double start = now();
  read(model, document.ids, both);
  const double after = now();
  both.end_reading();
  fmt::print("read {:.0f} tok/s, index {:.0f} s\n",
             static_cast<double>(document.ids.size()) / (after - start), now() - after);
  for (Budget& budget : budgets) {
    if (budget.name == "full") continue;
    const bool is_window = budget.name == "window";
    if (!is_window) tiered.set_budget(search_budget(budget.name));
    ask(model, document, is_window ? window : tiered, budget);
  }
}

int run(const std::vector<std::string>& a) {
  const auto number = [&](std::size_t i) { return std::stoll(a[i]); };
  if (a.size() != 8 || number(4) < 1 || number(4) > std::ssize(kTowns)) {
    fmt::print(stderr, "usage: {} MODEL TEXT TOKENS KEYS DOCUMENTS NEAR BUDGET,… (1 to {} keys)\n",
               a[0], std::size(kTowns));
    return 2;
  }
  const auto file = quire::model::ModelFile::open(a[1]);
  const auto model = quire::model::Model::load(file, {});
  const auto tokenizer = quire::text::Tokenizer::make(file->tokenizer_spec());
  std::ifstream stream(a[2], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const Ids filler = tokenizer->encode(text, quire::text::Origin::kData);
  QUIRE_CHECK(std::ssize(filler) >= number(3), "the text has ", std::ssize(filler), " tokens");
  std::vector<Budget> budgets = parse(a[7]);
  for (const Document& document :
       make_documents(*tokenizer, filler, number(3), number(4), number(5)))
    examine(*model, document, number(6), budgets);
  for (const Budget& budget : budgets)
    fmt::print("{:>8}  {} of {}\n", budget.name, budget.passed, number(4) * number(5));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}

// Pass keys in texts longer than a model was trained for, under positions inside the cache: how
// many of them a window finds, and a search of what is far from it.
//
//   passkey_bench MODEL.gguf TEXT TOKENS DEPTHS KEYS NEAR BUDGET,… [FIRST COUNT]
//
// The cells are those of `quire eval --tasks passkey`: a key of five digits between the lines of
// TEXT, at DEPTHS depths, KEYS keys at each, in documents of TOKENS tokens. No full cache can say
// which of them the model is able to answer: each counts, against the right digits. BUDGET is
// `window`, a number of tokens, or a part of the far keys' bytes like 0.25. A document is read once
// for all budgets: reading is the same. FIRST and COUNT take a part of the cells. Prints a line for
// each cell, then one for each budget.
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

#include "quire/cache/near.h"
#include "quire/eval/tasks.h"
#include "quire/model/model.h"
#include "quire/text/tokenizer.h"

namespace {

using quire::Tensor;
using quire::cache::KvCache;
using quire::cache::NearCache;
using quire::cache::NearSpec;
using Ids = std::vector<std::int32_t>;

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

struct Budget {
  std::string name;
  std::int64_t passed = 0;
  double bytes_read = 0, seconds = 0;
};

void read(const quire::model::Model& model, const Ids& ids, KvCache& cache) {
  const auto chunk = static_cast<std::size_t>(model.max_chunk());
  for (std::size_t at = 0; at < ids.size(); at += chunk)
    (void)model.forward(std::span(ids).subspan(at, std::min(chunk, ids.size() - at)), cache);
}

/// Whether every digit is the likeliest after the right ones before it.
bool passes(const quire::model::Model& model, const quire::eval::Question& question,
            KvCache& cache) {
  const std::int64_t before = cache.length();
  Ids ids = question.ask;
  ids.insert(ids.end(), question.answer.begin(), question.answer.end());
  bool right = true;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    const Tensor hidden_1D = model.forward(std::span(ids).subspan(i, 1), cache);
    if (i + 1 < question.ask.size()) continue;
    const Tensor logits_1V = model.logits(hidden_1D);
    const float* x = logits_1V.data<float>();
    right = right && std::max_element(x, x + logits_1V.elements()) - x == ids[i + 1];
  }
  const double bytes = static_cast<double>(cache.report().bytes_read);
  cache.truncate(before);
  fmt::print(" {:>5} {:6.1f} MB", right ? "found" : "-", bytes / 1e6);
  return right;
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

int run(const std::vector<std::string>& a) {
  if (a.size() < 8) {
    fmt::print(stderr, "usage: {} MODEL TEXT TOKENS DEPTHS KEYS NEAR BUDGET,… [FIRST COUNT]\n",
               a[0]);
    return 2;
  }
  const auto file = quire::model::ModelFile::open(a[1]);
  quire::model::LoadOptions options;
  const auto model = quire::model::Model::load(file, options);
  const auto tokenizer = quire::text::Tokenizer::make(file->tokenizer_spec());
  std::ifstream stream(a[2], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  const Ids filler = tokenizer->encode(text, quire::text::Origin::kData);
  const quire::eval::TaskSpec task_spec{std::stoll(a[4]), std::stoll(a[5]), std::stoll(a[3]), 0};
  const quire::eval::Task task = quire::eval::passkey_task(*tokenizer, filler, task_spec);
  std::vector<Budget> budgets = parse(a[7]);

  const std::vector<quire::cache::LayerSpec> layers = file->cache_layers();
  const std::int64_t room = task_spec.tokens + 64;
  NearSpec spec{.near = std::stoll(a[6])};
  NearCache window(layers, spec, room, model->default_kv());
  spec.far.emplace();
  NearCache tiered(layers, spec, room, model->default_kv());
  const std::size_t cells = task.documents.size(),
                    first = a.size() > 8 ? std::min(cells, std::size_t{std::stoul(a[8])}) : 0,
                    count = a.size() > 9 ? std::stoul(a[9]) : cells,
                    end = std::min(cells, first + count);
  for (const quire::eval::TaskDocument& document :
       std::span(task.documents).subspan(first, end - first)) {
    Both both(window, tiered);
    both.truncate(0);
    const double start = now();
    read(*model, document.ids, both);
    const double after = now();
    both.end_reading();
    fmt::print("depth {:.2f}  read {:5.0f} tok/s  index {:4.1f} s ", document.questions[0].depth,
               static_cast<double>(document.ids.size()) / (after - start), now() - after);
    for (Budget& budget : budgets) {
      const bool is_window = budget.name == "window";
      if (!is_window) tiered.set_budget(search_budget(budget.name));
      budget.passed += passes(*model, document.questions[0], is_window ? window : tiered) ? 1 : 0;
    }
    fmt::print("\n");
    std::fflush(stdout);
  }
  for (const Budget& budget : budgets)
    fmt::print("{:>8}  {} / {}\n", budget.name, budget.passed, end - first);
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

#include "cli/questions.h"

#include <algorithm>

#include "cli/output.h"
#include "cli/signals.h"
#include "quire/cache/paged.h"
#include "quire/generate/answers.h"

namespace quire::cli {
namespace {

/// Prints answers in the order of their questions, however they come.
class Printer {
 public:
  explicit Printer(const std::vector<std::string>& questions)
      : questions_(questions), waiting_(questions.size()), done_(questions.size(), false) {}

  void text(std::size_t question, std::string_view part) {
    if (question != head_) {
      waiting_[question] += part;
      return;
    }
    show(part);
  }
  void finished(std::size_t question) {
    done_[question] = true;
    while (head_ < done_.size() && done_[head_]) {
      show({});
      print(line_open_ ? "\n\n" : "\n");
      ++head_;
      is_begun_ = false;
      if (head_ < done_.size() && !waiting_[head_].empty()) show(waiting_[head_]);
    }
  }

 private:
  void show(std::string_view part) {
    if (!is_begun_) {
      print("> " + questions_[head_] + "\n");
      is_begun_ = true;
      line_open_ = false;
    }
    if (part.empty()) return;
    print(part);
    line_open_ = part.back() != '\n';
  }

  const std::vector<std::string>& questions_;
  std::vector<std::string> waiting_;
  std::vector<bool> done_;
  std::size_t head_ = 0;
  bool is_begun_ = false, line_open_ = false;
};

Json to_json(const std::string& question, std::size_t prompt_tokens,
             const generate::GenerateResult& result) {
  Json out;
  out["question"] = question;
  out["text"] = result.text;
  out["ids"] = Json::Array(result.ids.begin(), result.ids.end());
  out["prompt_tokens"] = static_cast<std::int64_t>(prompt_tokens);
  out["generated_tokens"] = static_cast<std::int64_t>(result.ids.size());
  out["finish_reason"] = generate::to_string(result.finish_reason);
  return out;
}

}  // namespace

Written write_answers(generate::Session& document, const Prompts& prompts, std::int64_t common,
                      const generate::GenerateSpec& spec, bool json) {
  Written written;
  std::vector<std::vector<std::int32_t>> asked;
  for (const auto& ids : prompts.ids) {
    asked.emplace_back(ids.begin() + common, ids.end());
    written.asked += static_cast<std::int64_t>(asked.back().size());
  }
  const auto* paged = dynamic_cast<const cache::PagedCache*>(&document.cache());
  const auto cache_bytes = [&] {
    return paged != nullptr ? paged->pool()->counts().held * paged->pool()->page_bytes()
                            : document.cache().bytes();
  };
  Printer printer(prompts.questions);
  std::vector<std::string> lines(asked.size());  // of --json, until their turn
  std::size_t next_line = 0;
  generate::AnswerEvents events;
  events.text = [&](std::size_t question, std::string_view text) {
    if (!json) printer.text(question, text);
    written.cache_bytes = std::max(written.cache_bytes, cache_bytes());
    return stop_signal() == 0;
  };
  events.finished = [&](std::size_t question, const generate::GenerateResult& result) {
    written.generated += static_cast<std::int64_t>(result.ids.size());
    if (!json) return printer.finished(question);
    lines[question] =
        to_json(prompts.questions[question], prompts.ids[question].size(), result).dump() + "\n";
    for (; next_line < lines.size() && !lines[next_line].empty(); ++next_line)
      print(lines[next_line]);
  };
  static_cast<void>(generate::answer_each(document, asked, spec, events));
  return written;
}

}  // namespace quire::cli

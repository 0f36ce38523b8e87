#include "cli/run_prompt.h"

#include <algorithm>

#include "cli/input.h"
#include "cli/prompt.h"
#include "quire/base/error.h"

namespace quire::cli {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<std::string> lines_of(const std::string& text, const std::string& source) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  std::vector<std::string> out;
  for (std::size_t begin = text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
       begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) out.push_back(std::move(line));
  }
  if (out.empty()) throw FormatError(source, "holds no question; one a line is wanted");
  return out;
}

/// Makes the ids of a prompt about documents.
class Builder {
 public:
  Builder(const Sources& sources, const model::ModelFile& file, const cache::SavedCache* saved,
          const text::Tokenizer& tokenizer)
      : sources_(sources), saved_(saved), tokenizer_(tokenizer) {
    if (!sources.raw) template_ = chat_template_of(file, "--raw continues the text without one");
    for (const std::string& path : sources.files) document_.files.push_back(read_input(path));
    if (stands_for_files()) {
      // In place of the files a text that ends a line where they did: what follows is the same.
      const std::string_view last = tokenizer.bytes(saved->tokens().back());
      document_.files.push_back(last.ends_with('\n') ? "x\n" : "x");
    }
  }

  /// The ids, and how many of them end with the last file.
  std::pair<Ids, std::int64_t> operator()(const std::string& prompt) {
    document_.prompt = prompt;
    const std::vector<text::Piece> pieces =
        sources_.raw
            ? raw_pieces(document_)
            : chat_pieces(document_, sources_.system.value_or(""), *template_, tokenizer_.spec());
    const std::size_t count = pieces_of_files(pieces);
    const auto cut = pieces.begin() + static_cast<std::ptrdiff_t>(count);
    if (stands_for_files()) return behind_saved({pieces.begin(), cut}, {cut, pieces.end()});
    Ids ids = encode(tokenizer_, pieces);
    const Ids head = count == 0 ? Ids() : encode(tokenizer_, {pieces.begin(), cut});
    const bool is_head =
        head.size() <= ids.size() && std::equal(head.begin(), head.end(), ids.begin());
    return {std::move(ids), is_head ? static_cast<std::int64_t>(head.size()) : 0};
  }

 private:
  bool stands_for_files() const { return saved_ != nullptr && sources_.files.empty(); }

  std::pair<Ids, std::int64_t> behind_saved(const std::vector<text::Piece>& before,
                                            const std::vector<text::Piece>& after) const {
    QUIRE_CHECK(!before.empty(),
                "the chat template changes the text of a message, so that a saved "
                "cache cannot stand in it; give the --file too, or --raw");
    // Before the files stands the same as when it was saved.
    std::vector<text::Piece> head = before;
    head.pop_back();
    const Ids want = head.empty() ? Ids() : encode(tokenizer_, head);
    const auto held = saved_->tokens();
    QUIRE_CHECK(want.size() <= held.size() && std::equal(want.begin(), want.end(), held.begin()),
                "the saved cache was made with another template or --system; give the same, or the "
                "--file too");
    Ids ids(held.begin(), held.end());
    const Ids rest = tokenizer_.encode(after);
    ids.insert(ids.end(), rest.begin(), rest.end());
    return {std::move(ids), static_cast<std::int64_t>(held.size())};
  }

  const Sources& sources_;
  const cache::SavedCache* saved_;
  const text::Tokenizer& tokenizer_;
  std::optional<text::ChatTemplate> template_;
  Document document_;
};

}  // namespace

void check(const Sources& s, bool loads) {
  const auto dashes = std::count(s.files.begin(), s.files.end(), "-") + (s.prompt == "-" ? 1 : 0) +
                      (s.ids == "-" ? 1 : 0) + (s.questions == "-" ? 1 : 0);
  QUIRE_CHECK(dashes <= 1, "standard input (-) can be read only once, not ", dashes, " times");
  QUIRE_CHECK(!s.raw || !s.system, "--raw and --system: raw text has no system message");
  QUIRE_CHECK(!s.ids || (!s.prompt && s.files.empty() && !s.system && !s.raw && !s.questions),
              "--ids is the whole prompt; leave PROMPT, --file, --system, --questions and --raw "
              "out");
  QUIRE_CHECK(!s.questions || !s.prompt, "PROMPT and --questions: give one of them");
  QUIRE_CHECK(s.ids || s.prompt || s.questions || loads || !s.files.empty(),
              "nothing to read; give a PROMPT, --file or "
              "--ids (quire run --help)");
}

Prompts make_prompts(const Sources& sources, const model::ModelFile& file,
                     const cache::SavedCache* saved) {
  Prompts out;
  out.tokenizer = text::Tokenizer::make(file.tokenizer_spec());
  if (sources.ids) {
    out.ids.push_back(parse_ids(read_input(*sources.ids), *sources.ids, file.config().V));
    out.document_tokens = static_cast<std::int64_t>(out.ids[0].size());
    return out;
  }
  std::vector<std::string> prompts;
  if (sources.questions) {
    out.questions = lines_of(read_input(*sources.questions), *sources.questions);
    prompts = out.questions;
  } else {
    prompts.push_back(sources.prompt == "-" ? read_input("-") : sources.prompt.value_or(""));
  }
  Builder build(sources, file, saved, *out.tokenizer);
  for (const std::string& prompt : prompts) {
    auto [ids, document_tokens] = build(prompt);
    out.ids.push_back(std::move(ids));
    out.document_tokens = document_tokens;
  }
  return out;
}

std::int64_t common_tokens(const Prompts& prompts) {
  const Ids& first = prompts.ids.front();
  std::size_t common = first.size();
  for (const Ids& ids : prompts.ids) {
    const auto most = static_cast<std::ptrdiff_t>(std::min(common, ids.size()));
    common = static_cast<std::size_t>(
        std::mismatch(first.begin(), first.begin() + most, ids.begin()).first - first.begin());
    common = std::min(common, ids.empty() ? 0 : ids.size() - 1);
  }
  return static_cast<std::int64_t>(common);
}

}  // namespace quire::cli

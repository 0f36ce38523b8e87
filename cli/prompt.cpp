#include "cli/prompt.h"

#include <fmt/format.h>

#include "quire/base/error.h"
#include "quire/text/unicode.h"

namespace quire::cli {
namespace {

/// Ends the file's last line and leaves one empty.
std::string_view blank_line_after(const std::string& text) {
  return text.empty() || text.ends_with('\n') ? "\n" : "\n\n";
}

struct Message {
  std::string content;
  std::vector<std::size_t> cuts;  // where a file's text begins or ends
};

Message join(const Document& document) {
  Message out;
  for (const std::string& file : document.files) {
    out.cuts.push_back(out.content.size());
    out.content += file;
    out.cuts.push_back(out.content.size());
    out.content += blank_line_after(file);
  }
  out.content += document.prompt;
  return out;
}

std::string_view trimmed(std::string_view text, std::size_t& removed) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  removed = begin;
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

/// `piece` in parts, each but the first with a cut, at the message's cuts that lie in it.
/// `at`: where byte `skipped` of the message stands in the piece. True when the piece ends with
/// a cut: then the next one must begin with it.
bool split(const text::Piece& piece, std::size_t at, const Message& message, std::size_t skipped,
           std::vector<text::Piece>& out) {
  std::size_t begin = 0;
  bool cut = piece.cut;
  for (const std::size_t position : message.cuts) {
    const std::size_t end = at + (position > skipped ? position - skipped : 0);
    if (end > piece.text.size()) break;
    if (end > begin) out.push_back({piece.text.substr(begin, end - begin), piece.origin, cut});
    begin = end;
    cut = true;
  }
  const bool ends_with_cut = cut && begin == piece.text.size() && begin > 0;
  if (!ends_with_cut) out.push_back({piece.text.substr(begin), piece.origin, cut});
  return ends_with_cut;
}

/// Cuts in the last piece of data that holds the message's text, as it is or trimmed: a template
/// may do that. One that changes it otherwise gets no cuts.
std::vector<text::Piece> with_cuts(std::vector<text::Piece> pieces, const Message& message) {
  if (message.cuts.empty()) return pieces;
  std::size_t removed = 0;
  const std::string_view core = trimmed(message.content, removed);
  for (std::size_t i = pieces.size(); i-- > 0;) {
    if (pieces[i].origin != text::Origin::kData) continue;
    std::size_t skipped = 0;
    std::size_t at = pieces[i].text.rfind(message.content);
    if (at == std::string::npos && !core.empty()) {
      at = pieces[i].text.rfind(core);
      skipped = removed;
    }
    if (at == std::string::npos) continue;
    std::vector<text::Piece> parts;
    const bool ends_with_cut = split(pieces[i], at, message, skipped, parts);
    if (ends_with_cut && i + 1 < pieces.size()) pieces[i + 1].cut = true;
    const auto place = pieces.begin() + static_cast<std::ptrdiff_t>(i);
    pieces.insert(pieces.erase(place), parts.begin(), parts.end());
    break;
  }
  return pieces;
}

const std::string* token_text(const text::TokenizerSpec& spec, std::int32_t id) {
  if (id < 0 || static_cast<std::size_t>(id) >= spec.tokens.size()) return nullptr;
  return &spec.tokens[static_cast<std::size_t>(id)];
}

}  // namespace

std::vector<text::Piece> raw_pieces(const Document& document) {
  const Message message = join(document);
  std::vector<text::Piece> out;
  split({message.content, text::Origin::kTemplate, false}, 0, message, 0, out);
  return out;
}

std::vector<text::Piece> chat_pieces(const Document& document, const std::string& system,
                                     const text::ChatTemplate& chat_template,
                                     const text::TokenizerSpec& spec) {
  // As the template will write it: what was changed there could not be found again.
  Document shown{{}, text::to_utf8_lossy(document.prompt)};
  for (const std::string& file : document.files) shown.files.push_back(text::to_utf8_lossy(file));
  const Message user = join(shown);
  Json messages{Json::Array()};
  if (!system.empty()) messages.push_back(message("system", system));
  messages.push_back(message("user", user.content));
  return with_cuts(chat_template.render(template_variables(messages, spec)), user);
}

std::size_t pieces_of_files(const std::vector<text::Piece>& pieces) {
  for (std::size_t i = pieces.size(); i-- > 0;) {
    if (pieces[i].cut) return i;
  }
  return 0;
}

Json message(const std::string& role, const std::string& content) {
  Json out;
  out["role"] = role;
  out["content"] = content;
  return out;
}

Json template_variables(Json messages, const text::TokenizerSpec& spec) {
  Json variables;
  variables["messages"] = std::move(messages);
  variables["add_generation_prompt"] = true;
  add_special_tokens(variables, spec);
  return variables;
}

void add_special_tokens(Json& variables, const text::TokenizerSpec& spec) {
  const std::string* bos = token_text(spec, spec.bos);
  const std::string* eos = token_text(spec, spec.eos);
  if (bos != nullptr && variables.find("bos_token") == nullptr) variables["bos_token"] = *bos;
  if (eos != nullptr && variables.find("eos_token") == nullptr) variables["eos_token"] = *eos;
}

std::vector<std::int32_t> encode(const text::Tokenizer& tokenizer,
                                 const std::vector<text::Piece>& pieces) {
  std::vector<std::int32_t> ids = tokenizer.encode(pieces);
  const std::int32_t bos = tokenizer.spec().bos;
  if (tokenizer.spec().add_bos && bos >= 0 && (ids.empty() || ids.front() != bos)) {
    ids.insert(ids.begin(), bos);
  }
  return ids;
}

text::ChatTemplate chat_template_of(const model::ModelFile& file, const std::string& advice) {
  QUIRE_CHECK(!file.chat_template().empty(), file.path(), " has no chat template; ", advice);
  return text::ChatTemplate(file.chat_template());
}

}  // namespace quire::cli

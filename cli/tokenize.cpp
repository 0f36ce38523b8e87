// quire tokenize: text to token ids and back. Reads the model's header only.

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/output.h"
#include "quire/base/error.h"
#include "quire/text/tokenizer.h"

namespace quire::cli {
namespace {

struct TokenizeArguments {
  std::optional<std::string> model, text, file;
  bool json = false, lines = false, bos = false, decode = false;
};

std::vector<std::int32_t> encode(const text::Tokenizer& tokenizer, std::string_view text,
                                 bool bos) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, text::Origin::kTemplate);
  if (bos) ids.insert(ids.begin(), tokenizer.spec().bos);
  return ids;
}

Json ids_json(const std::vector<std::int32_t>& ids) {
  Json out;
  out["ids"] = Json::Array(ids.begin(), ids.end());
  return out;
}

Json text_json(const text::Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  text::StreamDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  Json out;
  out["text"] = text + decoder.finish();
  return out;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string from_hex(const std::string& hex, const std::string& source) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = hex_digit(hex[i]), low = i + 1 < hex.size() ? hex_digit(hex[i + 1]) : -1;
    if (high < 0 || low < 0) {
      throw FormatError(source, fmt::format("'hex' is not pairs of hexadecimal digits at {}", i));
    }
    bytes.push_back(static_cast<char>(high * 16 + low));
  }
  return bytes;
}

std::vector<std::int32_t> ids_of(const Json& line, const std::string& source,
                                 std::int32_t vocabulary) {
  const Json* ids = line.find("ids");
  if (ids == nullptr) throw FormatError(source, "expected an object with 'ids'");
  std::vector<std::int32_t> out;
  for (const Json& id : ids->as_array()) {
    const std::int64_t value = id.as_int();
    if (value < 0 || value >= vocabulary) {
      throw FormatError(source,
                        fmt::format("token id {} is outside 0 to {}", value, vocabulary - 1));
    }
    out.push_back(static_cast<std::int32_t>(value));
  }
  return out;
}

Json answer(const TokenizeArguments& a, const text::Tokenizer& tokenizer, const std::string& line,
            const std::string& source) {
  const Json object = Json::parse(line, source);
  if (a.decode) return text_json(tokenizer, ids_of(object, source, tokenizer.size()));
  const Json* text = object.find("text");
  const Json* hex = object.find("hex");
  if (text == nullptr && hex == nullptr) {
    throw FormatError(source, "expected an object with 'text' or 'hex'");
  }
  // Raw bytes say more than their text, so they count where a line has both.
  const std::string bytes = hex != nullptr ? from_hex(hex->as_string(), source) : text->as_string();
  return ids_json(encode(tokenizer, bytes, a.bos));
}

void tokenize_lines(const TokenizeArguments& a, const text::Tokenizer& tokenizer) {
  Lines lines;
  for (std::int64_t number = 1; const auto line = lines.next(); ++number) {
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    print_json(answer(a, tokenizer, *line, fmt::format("standard input, line {}", number)));
  }
}

void tokenize_text(const TokenizeArguments& a, const text::Tokenizer& tokenizer) {
  const bool is_file = a.file.has_value() || a.text == "-";
  const std::string text = a.file ? read_input(*a.file) : is_file ? read_input("-") : *a.text;
  if (a.decode) {
    const std::string source = a.file.value_or(is_file ? "standard input" : "TEXT");
    const std::vector<std::int32_t> ids = parse_ids(text, source, tokenizer.size());
    if (a.json) return print_json(text_json(tokenizer, ids));
    print(tokenizer.decode(ids));
    if (output_is_terminal()) print("\n");
    return;
  }
  const std::vector<std::int32_t> ids = encode(tokenizer, text, a.bos);
  if (a.json) return print_json(ids_json(ids));
  std::string line;
  for (const std::int32_t id : ids) {
    if (!line.empty()) line += ' ';
    line += std::to_string(id);
  }
  print(line + "\n");
}

}  // namespace

int tokenize(Arguments arguments) {
  TokenizeArguments a;
  bool quiet = false;
  Options options("tokenize", "MODEL (TEXT | --file PATH | --jsonl)",
                  "Text to token ids and back. Special tokens are recognised.");
  options.argument("MODEL", a.model, "A .gguf file or the name smollm2");
  options.argument("TEXT", a.text, "The text, or with --decode the ids; - reads standard input");
  options.text("--file", "PATH", a.file, "The text (or the ids) of a file");
  options.flag("--jsonl", a.lines, "Lines {\"text\": …} or {\"hex\": …} in, {\"ids\": […]} out");
  options.flag("--bos", a.bos, "Put the beginning-of-text token in front");
  options.flag("--decode", a.decode, "Ids to text");
  options.flag("--json", a.json, "Print one JSON object (docs/json.md)");
  options.flag("--quiet", quiet, "Accepted; there is nothing to silence");
  if (!options.parse(arguments)) return kOk;
  const std::string& name = options.need(a.model, "MODEL");
  const int sources = (a.text ? 1 : 0) + (a.file ? 1 : 0) + (a.lines ? 1 : 0);
  QUIRE_CHECK(sources == 1,
              sources == 0 ? "nothing to read; give" : "too much to read; give one of",
              " TEXT, --file or --jsonl (quire tokenize --help)");
  QUIRE_CHECK(!a.bos || !a.decode, "--bos and --decode: ids to text adds no token");
  const auto file = open_model(name);
  const auto tokenizer = text::Tokenizer::make(file->tokenizer_spec());
  if (a.bos && tokenizer->spec().bos < 0) {
    throw FormatError(file->path(), "the tokenizer has no beginning-of-text token for --bos");
  }
  if (a.lines) {
    tokenize_lines(a, *tokenizer);
  } else {
    tokenize_text(a, *tokenizer);
  }
  return kOk;
}

}  // namespace quire::cli

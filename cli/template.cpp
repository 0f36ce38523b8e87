// quire template: the prompt that a chat template makes of messages. Reads a model's header only.

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/prompt.h"
#include "quire/base/error.h"
#include "quire/text/chat_template.h"

namespace quire::cli {

int render_template(Arguments arguments) {
  std::optional<std::string> name, source, vars;
  bool json = false, quiet = false;
  Options options("template", "(MODEL | --template FILE) --vars FILE.json",
                  "The prompt that a chat template makes of messages.");
  options.argument("MODEL", name, "A .gguf file or the name smollm2: its template");
  options.text("--template", "FILE", source, "A template instead; - reads standard input");
  options.text("--vars", "FILE", vars, "JSON object: messages and any other variable; - too");
  options.flag("--json", json, "Print {\"text\": …} (docs/json.md)");
  options.flag("--quiet", quiet, "Accepted; there is nothing to silence");
  if (!options.parse(arguments)) return kOk;
  QUIRE_CHECK(name.has_value() != source.has_value(),
              name ? "MODEL and --template: give one" : "MODEL or --template FILE is missing",
              " (quire template --help)");
  const std::string& path = options.need(vars, "--vars FILE.json");
  QUIRE_CHECK(source != "-" || path != "-", "standard input (-) can be read only once");

  std::string text;
  Json variables = Json::parse(read_input(path), path);
  if (!variables.is_object()) throw FormatError(path, "the variables must be one JSON object");
  if (name) {
    const auto file = open_model(*name);
    add_special_tokens(variables, file->tokenizer_spec());
    text = text::to_text(chat_template_of(*file, "--template FILE gives one").render(variables));
  } else {
    text = text::to_text(text::ChatTemplate(read_input(*source)).render(variables));
  }
  if (json) {
    Json out;
    out["text"] = text;
    print_json(out);
  } else {
    print(text);
    if (output_is_terminal() && !text.ends_with('\n')) print("\n");
  }
  return kOk;
}

}  // namespace quire::cli

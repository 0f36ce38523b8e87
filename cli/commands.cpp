#include "cli/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cli/failure.h"
#include "cli/nearest.h"
#include "cli/output.h"
#include "quire/base/error.h"
#include "quire/base/isa.h"

namespace quire::cli {
namespace {

struct Command {
  std::string_view name, synopsis, summary;
  int (*run)(Arguments);
};

constexpr std::array<Command, 9> kCommands{{
    {"run", "MODEL [PROMPT] [--file PATH]…", "Reads a prompt and documents, writes an answer", run},
    {"chat", "MODEL", "A conversation", chat},
    {"info", "MODEL", "What a model file holds, and the memory it will take", info},
    {"score", "MODEL --file TEXT", "How likely the model finds a text", score},
    {"tokenize", "MODEL TEXT", "Text to token ids and back", tokenize},
    {"template", "MODEL --vars FILE.json", "The prompt that a chat template makes",
     render_template},
    {"eval", "MODEL --file TEXT", "What each cache loses beside the full one, and what it costs",
     evaluate},
    {"cache", "list|verify|rm [NAME]…", "Saved caches", cache},
    {"bench", "model MODEL | ops [FAMILY]", "Speed, and the share of this machine's ceiling",
     bench},
}};

int help() {
  std::string text = "quire reads documents with a language model.\n\n";
  for (const Command& command : kCommands) {
    text += fmt::format("  quire {:<9}{:<31}{}\n", command.name, command.synopsis, command.summary);
  }
  text +=
      "\nMODEL is a .gguf file or a name: smollm2 (scripts/fetch_model smollm2 fetches it).\n"
      "Each command has --help; --version tells the version. Results go to stdout, all else\n"
      "to stderr. Exit codes: 0 ok, 1 internal, 2 usage, 3 invalid model or data, 4 memory or\n"
      "device, 5 input/output, 130 and 143 stopped by a signal. QUIRE_ISA=avx512|portable\n"
      "forces an instruction set.\n";
  print(text);
  return kOk;
}

int version() {
  print(fmt::format("quire {} ({}, {})\n", QUIRE_VERSION,
#if defined(__clang__)
                    "clang " __clang_version__,
#else
                    "gcc " __VERSION__,
#endif
                    to_string(isa())));
  return kOk;
}

}  // namespace

int run_command(Arguments arguments) {
  if (arguments.empty()) {
    throw ArgumentError(
        "which command? run, chat, info, score, tokenize, template, eval, cache, bench "
        "(quire --help)");
  }
  const std::string& name = arguments.front();
  const std::size_t words = name == "help" ? 2 : 1;  // that these take
  if (name == "--help" || name == "-h" || name == "--version" || name == "help") {
    QUIRE_CHECK(arguments.size() <= words, "unexpected argument '",
                arguments[std::min(words, arguments.size() - 1)], "' (quire --help)");
  }
  if (name == "--help" || name == "-h") return help();
  if (name == "--version") return version();
  if (name == "help") {
    if (arguments.size() == 1) return help();
    const std::vector<std::string> asked{arguments[1], "--help"};
    return asked.front() == "help" ? help() : run_command(asked);
  }
  std::vector<std::string> names{"--help", "--version"};
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(arguments.subspan(1));
    names.emplace_back(command.name);
  }
  const std::string meant = nearest(name, names);
  const std::string advice = meant.empty() ? "" : fmt::format("; did you mean {}?", meant);
  throw ArgumentError(fmt::format("unknown command '{}'{} (quire --help)", name, advice));
}

}  // namespace quire::cli

#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>

namespace quire::cli {

using Arguments = std::span<const std::string>;  // behind the command's name

/// Each parses, calls, prints, and returns an exit code; failures are thrown.
int run(Arguments arguments);
int chat(Arguments arguments);
int info(Arguments arguments);
int score(Arguments arguments);
int tokenize(Arguments arguments);
int render_template(Arguments arguments);
int evaluate(Arguments arguments);
int cache(Arguments arguments);
int bench(Arguments arguments);

/// Runs the command that the arguments (without the program's name) begin with.
int run_command(Arguments arguments);

}  // namespace quire::cli

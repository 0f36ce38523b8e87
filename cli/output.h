#pragma once

#include <string>
#include <string_view>

#include "quire/base/json.h"

namespace quire::cli {

/// Whoever read standard output has gone: the program ends quietly.
struct OutputClosed {};

/// To standard output, at once. Throws OutputClosed; IoError.
void print(std::string_view text);
/// One line of JSON to standard output.
void print_json(const Json& object);
/// A line to standard error; what cannot be written there is lost.
void note(std::string_view line);
/// The text with a space for each control character, so that what a file holds, or its name, cannot
/// steer a terminal. For lines of ours, not for what a model writes.
std::string harmless(std::string text);
/// Raw text to standard error.
void write_error(std::string_view text);

/// What files that the commands write begin with.
enum class FileKind { kSavedCache, kSafetensors, kSvg };

/// Refuses, before any work, a `path` that could not become such a file. Throws IoError where its
/// folder is absent or it is no regular file; ArgumentError, naming the option, for an empty path,
/// and where a file of another kind or a write-protected one is there: it is never overwritten. An
/// empty one is.
void check_output(const std::string& option, const std::string& path, FileKind kind);

/// What standard error is: where progress and tables go.
struct Terminal {
  bool present = false;  // a person looks at it
  bool plain = true;     // no escape sequences, ASCII only: NO_COLOR, TERM=dumb, not UTF-8
  int columns = 80;
};
Terminal error_terminal();
bool output_is_terminal();
bool input_is_terminal();

/// Opens /dev/null in place of closed standard files, so that a model file cannot become one, and
/// ignores SIGPIPE. Called once, first.
void prepare_standard_files();

}  // namespace quire::cli

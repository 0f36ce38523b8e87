#include <algorithm>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/failure.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  using namespace quire::cli;
  // Known before anything is parsed: a usage error is told in the form that was asked for.
  FailureForm form = FailureForm::kLine;
  try {
    prepare_standard_files();
    const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
    const auto end = std::find(arguments.begin(), arguments.end(), "--");
    if (std::find(arguments.begin(), end, "--json") != end) form = FailureForm::kJson;
    return run_command(arguments);
  } catch (...) {
    return report_failure(form);
  }
}

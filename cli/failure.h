#pragma once

namespace quire::cli {

/// The exit codes that every command uses (docs/cli.md).
enum ExitCode : int {
  kOk = 0,
  kInternal = 1,
  kUsage = 2,
  kInvalid = 3,
  kDevice = 4,
  kIo = 5,
  kSignal = 128,  // plus the signal's number
};

/// How a failure is told: a line for people, or an object for programs.
enum class FailureForm { kLine, kJson };

/// Prints the exception that is being handled on standard error and returns its exit code. The only
/// place where exceptions become codes.
int report_failure(FailureForm form);

}  // namespace quire::cli

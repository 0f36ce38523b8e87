#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace quire::test {

/// What a run of the program left behind.
struct Ended {
  int code = -1;  // 128 + n when signal n killed it
  std::string out, err;
};

/// How a program is started and treated.
struct Start {
  std::string input{};                               // of standard input, which then ends
  std::map<std::string, std::string> environment{};  // beside the test's own
  int terminal_columns = 0;           // above 0: standard error is a terminal so wide
  bool close_output = false;          // nobody reads standard output
  std::string output_file{};          // standard output goes there instead
  std::uint64_t memory_limit = 0;     // bytes of address space
  std::uint64_t most_file_bytes = 0;  // that a file may have
  /// Called with the process and what it wrote to standard error so far, whenever that grows.
  std::function<void(int process, const std::string& err)> on_error_text{};
};

/// Runs build/…/bin/quire with these arguments. Fails the test when it takes over a minute (ten
/// minutes for those that are labelled slow).
Ended quire(const std::vector<std::string>& arguments, const Start& start = {});

/// A folder of this test alone.
std::string scratch_folder();
/// Writes a file there and returns its path.
std::string scratch_file(const std::string& name, const std::string& content);
std::string read_file(const std::string& path);

/// tests/goldens/<name>
std::string golden(const std::string& name);

/// A tiny llama whose tokenizer this version reads: the golden with its pre-tokenizer's key taken
/// away, so that the default one serves.
std::string tiny_model();

/// The number of lines.
int lines(const std::string& text);

}  // namespace quire::test

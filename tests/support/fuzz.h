#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quire::test {

/// What a fuzz target defines; tests/support/fuzz_main.cpp drives it with mutations of the seeds.
/// Well-formed inputs, small, each different in kind.
std::vector<std::string> fuzz_seeds();

/// Gives the parser an input. Only quire::Error may come out: anything else, and any report of a
/// sanitizer, is a finding. Returns true when the parser accepted the input.
bool fuzz_one(std::string_view input);

}  // namespace quire::test

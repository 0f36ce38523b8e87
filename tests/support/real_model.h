#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace quire::test {

/// Where the real model of the slow tests lies: `$QUIRE_MODEL`, or where `scripts/fetch_model
/// smollm2` keeps it. Throws with that advice when it is absent.
inline std::string real_model() {
  const char* named = std::getenv("QUIRE_MODEL");
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr  ? std::string(cache)
                           : home != nullptr ? std::string(home) + "/.cache"
                                             : std::string(".cache");
  const std::string path = named != nullptr
                               ? std::string(named)
                               : root + "/quire/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::is_regular_file(path)) {
    throw std::runtime_error(path +
                             " is absent: run scripts/fetch_model smollm2, or set QUIRE_MODEL");
  }
  return path;
}

}  // namespace quire::test

#include "cli/model_name.h"

#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/nearest.h"
#include "quire/base/error.h"
#include "quire/base/file_ops.h"

namespace quire::cli {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 1> kModels{
    {{"smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"}}};

std::string cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return cache;  // the standard ignores relative ones
  const char* home = std::getenv("HOME");
  QUIRE_CHECK(home != nullptr && *home == '/', "HOME is '", home == nullptr ? "" : home,
              "'; it must be an absolute path (or XDG_CACHE_HOME), or give files by their paths");
  return fmt::format("{}/.cache", home);
}

std::string_view known_file(const std::string& name) {
  for (const auto& [known, file] : kModels) {
    if (name == known) return file;
  }
  return {};
}

/// "did you mean smollm2? " for a name, not for a path.
std::string meant(const std::string& name) {
  if (name.find_first_of("/.") != std::string::npos) return {};
  std::vector<std::string> names;
  for (const auto& [known, file] : kModels) names.emplace_back(known);
  const std::string known = nearest(name, names);
  return known.empty() ? std::string() : fmt::format("did you mean {}? ", known);
}

}  // namespace

std::string saved_caches_folder() { return cache_folder() + "/quire/caches"; }

std::string tier_folder() { return cache_folder() + "/quire/tier"; }

std::string saved_cache_path(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  constexpr std::string_view kLetters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  QUIRE_CHECK(!name.empty() && name.size() <= 128 && name.front() != '.' &&
                  name.find_first_not_of(kLetters) == std::string::npos,
              "'", name,
              "' cannot name a saved cache: use letters, digits, '.', '_' and '-', or a path");
  return saved_caches_folder() + "/" + name;
}

std::string model_path(const std::string& name) {
  const std::string_view file = known_file(name);
  return file.empty() ? name : fmt::format("{}/quire/models/{}", cache_folder(), file);
}

std::shared_ptr<const model::ModelFile> open_model(const std::string& name) {
  const std::string path = model_path(name);
  if (!known_file(name).empty() && !file_ops().exists(path)) {
    throw FormatError(path, fmt::format("no such file; `scripts/fetch_model {}` fetches it", name));
  }
  try {
    return model::ModelFile::open(path);
  } catch (const IoError& error) {
    throw FormatError(
        fmt::format("{}; {}MODEL is a .gguf file or the name smollm2", error.what(), meant(name)));
  }
}

}  // namespace quire::cli

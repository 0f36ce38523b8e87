#include "quire/model/available_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace quire::model {
namespace {

constexpr std::int64_t kUnknown = INT64_MAX;

std::int64_t free_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  while (file >> word) {
    std::int64_t kilobytes = 0;
    if (word == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
  }
  return kUnknown;
}

std::int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : kUnknown;  // "max" is no number: no limit
}

/// Version 2 of the control groups; the process sees its own group as the root, or by its path.
std::int64_t group_memory() {
  std::ifstream file("/proc/self/cgroup");
  std::string line, path;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  std::int64_t least = kUnknown;
  for (const std::string& group : {std::string("/sys/fs/cgroup"), "/sys/fs/cgroup" + path}) {
    const std::int64_t limit = number_in(group + "/memory.max"),
                       used = number_in(group + "/memory.current");
    if (limit != kUnknown && used != kUnknown)
      least = std::min(least, std::max<std::int64_t>(0, limit - used));
  }
  return least;
}

}  // namespace

std::int64_t available_memory() { return std::min(free_memory(), group_memory()); }

}  // namespace quire::model

#include "quire/model/available_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

namespace quire::model {
namespace {

std::int64_t mem_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("MemAvailable:", 0) == 0) return std::stoll(line.substr(13)) * 1024;
  }
  return -1;
}

TEST(AvailableMemory, lies_within_the_machine) {
  const std::int64_t physical =
      std::int64_t{sysconf(_SC_PHYS_PAGES)} * std::int64_t{sysconf(_SC_PAGESIZE)};
  EXPECT_GT(available_memory(), 0);
  EXPECT_LE(available_memory(), physical);
}

TEST(AvailableMemory, is_at_most_what_the_kernel_estimates) {
  // Other programs take and free memory between the readings: one quiet moment of many is enough.
  bool is_bounded = false;
  for (int attempt = 0; attempt < 1000 && !is_bounded; ++attempt) {
    const std::int64_t before = mem_available(), answer = available_memory(),
                       after = mem_available();
    ASSERT_GT(before, 0);
    is_bounded = answer <= std::max(before, after);
  }
  EXPECT_TRUE(is_bounded);
}

TEST(AvailableMemory, is_the_kernels_estimate_or_less_where_a_group_limits_it) {
  std::string own;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.rfind("0::", 0) == 0) own = line.substr(3);
  }
  for (const std::string& folder : {std::string(), own}) {
    std::string limit = "max";
    std::ifstream("/sys/fs/cgroup" + folder + "/memory.max") >> limit;
    if (limit == "max") continue;
    EXPECT_LE(available_memory(), std::stoll(limit));
    return;
  }
  bool is_equal = false;
  for (int attempt = 0; attempt < 1000 && !is_equal; ++attempt) {
    const std::int64_t before = mem_available(), answer = available_memory(),
                       after = mem_available();
    is_equal = std::min(before, after) <= answer && answer <= std::max(before, after);
  }
  EXPECT_TRUE(is_equal);
}

}  // namespace
}  // namespace quire::model

#pragma once

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "quire/base/error.h"

namespace quire::test {

/// An empty folder of its own, removed with all that is in it.
class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "quire-test-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) throw IoError(path_, "cannot make the folder", errno);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace quire::test

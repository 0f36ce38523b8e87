#pragma once

#include <cstdint>
#include <vector>

#include "quire/ops/attention/kv_view.h"

namespace quire {

/// What a backward must keep of a view: copies of its table and lengths, and the versions of its
/// pages. Keys, values, biases and scales stay where they are.
class KvSnapshot {
 public:
  /// The view of B sequences, as attention() accepts it. Throws ArgumentError when it has no
  /// lengths, and for a page outside the pool.
  KvSnapshot(const KvView& kv, std::int64_t B);

  /// The view as it was, over this object's copies. Throws ArgumentError when a page that it names
  /// has another version than it had: its keys are no longer those that forward read. (Without
  /// kv.version_P nothing is checked.)
  KvView view() const;

 private:
  void add_pages(std::int64_t b, std::int64_t g, std::int64_t length);
  void copy_table(std::int64_t B);

  KvView kv_;
  std::vector<std::int32_t> table_, table_start_J_;
  std::vector<std::int64_t> length_BG_, first_BG_;
  struct Page {
    std::int64_t page;
    std::uint64_t version;
  };
  std::vector<Page> pages_;
};

}  // namespace quire

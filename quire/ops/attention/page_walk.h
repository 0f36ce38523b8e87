#pragma once

// The inverse of a page table: from pages to the sequences that see them, in the order in which the
// tables first name them.

#include <cstdint>
#include <vector>

#include "quire/ops/attention/attention_backward_kernel.h"
#include "quire/ops/attention/kv_view.h"

namespace quire::kernel {

class PageWalk {
 public:
  /// The pages of kv head g of B sequences (every page of the tables exists).
  PageWalk(const KvView& kv, std::int64_t B, std::int64_t g);

  std::int64_t unit_count() const { return static_cast<std::int64_t>(units_.size()); }
  KeyUnit unit(std::int64_t i) const;

  /// Sequences that share no page, directly or through others, lie in different groups: units
  /// [first, last) and none else concern the group's sequences.
  struct Group {
    std::int64_t first, last;
  };
  const std::vector<Group>& groups() const { return groups_; }

  /// What each sequence sees, in the order of the walk.
  std::vector<std::vector<Viewer>> views() const;

 private:
  struct Sight {
    std::int64_t b, w;
  };
  struct Unit {
    std::size_t first_run, first_viewer;
    int run_count, viewer_count, lanes;
  };

  std::int64_t pages_of(std::int64_t b) const;
  void find_sights();
  std::vector<std::int64_t> group_of_sequences() const;
  bool follows(std::int64_t page, std::int64_t next) const;
  void add_pages(std::int64_t b, std::int64_t w, std::vector<bool>& done);
  void add_unit(const std::vector<std::int64_t>& pages, std::int64_t slot);

  const KvView& kv_;
  std::int64_t B_, g_;
  std::vector<std::int64_t> sight_start_;  // of each page
  std::vector<Sight> sights_;
  std::vector<KeyRun> runs_;
  std::vector<Viewer> viewers_;
  std::vector<Unit> units_;
  std::vector<Group> groups_;
};

}  // namespace quire::kernel

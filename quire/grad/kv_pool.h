#pragma once

#include <cstdint>
#include <vector>

#include "quire/grad/attention.h"
#include "quire/ops/attention/kv_write.h"

namespace quire::grad {

/// What the copies of a pool share: the pages as they stand now, and the guard of versions. A page
/// counts a version when a slot that some forward has seen is overwritten, and every page does when
/// memory was written by anything but kv_write.
struct KvPool::State {
  State(Var k_pages, Var v_pages);

  /// Notices writes that did not come from kv_write. Called before the versions are read.
  void notice_writes();
  /// Remembers the keys that a forward over B sequences reads.
  void mark_seen(const KvView& kv, std::int64_t B);
  /// The pages for kv_write, and what it wrote.
  KvPages writable();
  void count_write(const std::int64_t* slots, std::int64_t N);
  KvView view() const;

  Var k, v;
  std::int64_t P, Z;
  std::vector<std::uint64_t> version_P;

 private:
  std::vector<bool> seen_;           // [P · Z]
  std::uint64_t k_known_, v_known_;  // versions of the storages after the last write of our own
};

/// Zeros of the pages' shape and order, f64 for f64 and else f32.
Tensor zeros_for_gradient(const Tensor& pages);

}  // namespace quire::grad

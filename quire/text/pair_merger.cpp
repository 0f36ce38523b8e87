#include "quire/text/pair_merger.h"

#include <bit>
#include <limits>
#include <queue>

#include "quire/base/error.h"

namespace quire::text {
namespace {

// Below this a scan over all pairs is faster than a heap.
constexpr std::size_t kShort = 32;
constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

constexpr std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
  return x ^ x >> 29;
}

struct Symbol {
  std::int32_t id;
  std::uint32_t previous, next;  // kNone at the ends
};

/// A pair that may be merged; stale when its symbols have changed since.
struct Candidate {
  std::int32_t rank;
  std::uint32_t left;
  std::int32_t left_id, right_id, merged;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

PairMerger::PairMerger(std::size_t merges) {
  byte_ids_.fill(-1);
  slots_.resize(std::bit_ceil(2 * merges + 2));
  mask_ = slots_.size() - 1;
}

bool PairMerger::add(std::int32_t left, std::int32_t right, std::int32_t merged) {
  const std::uint64_t pair = pair_of(left, right);
  std::uint64_t at = mix(pair) & mask_;
  while (slots_[at].rank >= 0) {
    if (slots_[at].pair == pair) return false;
    at = (at + 1) & mask_;
  }
  slots_[at] = {pair, ranks_++, merged};
  return true;
}

const PairMerger::Slot& PairMerger::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  std::uint64_t at = mix(pair) & mask_;
  while (slots_[at].rank >= 0 && slots_[at].pair != pair) at = (at + 1) & mask_;
  return slots_[at];
}

void PairMerger::encode(std::string_view word, std::vector<std::int32_t>& out) const {
  QUIRE_CHECK(word.size() < kNone / 2, "a word of ", word.size(), " bytes is too long to tokenize");
  if (word.size() <= kShort) {
    encode_short(word, out);
  } else {
    encode_long(word, out);
  }
}

void PairMerger::encode_short(std::string_view word, std::vector<std::int32_t>& out) const {
  std::array<std::int32_t, kShort> ids;
  std::array<const Slot*, kShort> pairs;  // pairs[i]: the merge of ids[i] and ids[i + 1]
  std::size_t count = 0;
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) ids[count++] = id;
  }
  for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = &find(ids[i], ids[i + 1]);
  while (count > 1) {
    std::size_t best = count;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i]->rank >= 0 && (best == count || pairs[i]->rank < pairs[best]->rank)) best = i;
    }
    if (best == count) break;
    ids[best] = pairs[best]->merged;
    --count;
    for (std::size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i - 1] = pairs[i];
    }
    if (best > 0) pairs[best - 1] = &find(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = &find(ids[best], ids[best + 1]);
  }
  out.insert(out.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count));
}

void PairMerger::encode_long(std::string_view word, std::vector<std::int32_t>& out) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) continue;
    const auto at = static_cast<std::uint32_t>(symbols.size());
    symbols.push_back({id, at == 0 ? kNone : at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::uint32_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    const std::int32_t a = symbols[left].id;
    const std::int32_t b = symbols[symbols[left].next].id;
    const Slot& slot = find(a, b);
    if (slot.rank >= 0) queue.push({slot.rank, left, a, b, slot.merged});
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    // A symbol that was merged into its left neighbour has id -1, so that every stale candidate
    // differs in an id.
    if (left.id != best.left_id || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (right.id != best.right_id) continue;
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (std::uint32_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace quire::text

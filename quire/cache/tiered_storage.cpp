#include <algorithm>
#include <cstring>
#include <utility>

#include "quire/cache/tiered_impl.h"
#include "quire/ops/attention/kv_format.h"

namespace quire::cache {
namespace {

using Slots = std::vector<std::vector<std::int32_t>>;

/// Calls f(first byte, bytes) for each row of the first N tokens, head by head, then for the scales
/// of their keys and of their values.
template <class F>
void each_row(const TieredLayer& layer, DType kv, std::int64_t N, F&& f) {
  const std::int64_t G = layer.spec.G, row = layer.rows.row_bytes(), scale = G * kv_scale_bytes(kv);
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t n = 0; n < N; ++n) f(layer.rows.row(g, n), row);
  for (std::int64_t n = 0; n < N && scale > 0; ++n) f(layer.rows.key_scales(n), scale);
  for (std::int64_t n = 0; n < N && scale > 0; ++n) f(layer.rows.value_scales(n), scale);
}

}  // namespace

void TieredCache::Impl::write(TieredLayer& layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  if (disk == nullptr) return layer.rows.write(k_NGK, v_NGU, length);
  disk->write(number_of(layer), k_NGK, v_NGU, length);
}

/// Clusters tokens [begin, end). Under a memory limit they then lie in the order of the clusters:
/// the i-th member of all clusters in slot sinks + i.
void TieredCache::Impl::index_stretch(TieredLayer& layer, std::int64_t begin, std::int64_t end) {
  const std::int64_t n = end - begin;
  if (disk == nullptr) {
    KvView tokens = layer.rows.stretch(begin, n);
    tokens.length_BG = &n;
    layer.index->add(tokens, begin, n);
    if (offloaded) layer.rows.move_out(begin, end);
    return;
  }
  const TieredPages::Range range{begin, end};
  TieredPages::Reading reading = disk->read(number_of(layer), std::span(&range, 1));
  KvView tokens = reading.stretch(begin, end);
  tokens.length_BG = &n;
  layer.index->add(tokens, begin, n);
  Slots from_G(static_cast<std::size_t>(layer.spec.G));
  for (std::size_t g = 0; g < from_G.size(); ++g)
    for (const std::int32_t token : layer.index->all_members(static_cast<std::int64_t>(g))
                                        .subspan(static_cast<std::size_t>(begin - spec.sinks)))
      from_G[g].push_back(token - static_cast<std::int32_t>(begin));
  disk->arrange(reading, begin, from_G);
}

/// Drops the stretches that end behind `end`: their tokens are recent or in staging again, and lie
/// by position. With `empties` nobody will ask for them.
void TieredCache::Impl::drop_behind(TieredLayer& layer, std::int64_t end, bool empties) {
  const std::int64_t first = layer.index->first_behind(end), last = layer.index->end();
  if (disk != nullptr && first < last && !empties) {
    const TieredPages::Range range{first, last};
    TieredPages::Reading reading = disk->read(number_of(layer), std::span(&range, 1));
    Slots from_G(static_cast<std::size_t>(layer.spec.G));
    for (std::size_t g = 0; g < from_G.size(); ++g) {
      from_G[g].resize(static_cast<std::size_t>(last - first));
      std::int32_t slot = 0;
      for (const std::int32_t token : layer.index->all_members(static_cast<std::int64_t>(g))
                                          .subspan(static_cast<std::size_t>(first - spec.sinks)))
        from_G[g][static_cast<std::size_t>(token - first)] = slot++;
    }
    disk->arrange(reading, first, from_G);
  }
  static_cast<void>(layer.index->drop_behind(end));
  if (disk == nullptr) layer.rows.move_back(std::max<std::int64_t>(0, first));
}

void TieredCache::Impl::read_ahead(const TieredLayer& layer, TieredPages::Reading& reading) const {
  const std::int64_t next = (number_of(layer) + 1) % std::ssize(layers);
  reading.read_ahead(next, layers[static_cast<std::size_t>(next)].asked);
}

HeldKeys TieredCache::Impl::hot_keys(TieredLayer& layer, std::int64_t end) const {
  const std::int64_t G = layer.spec.G, indexed = layer.index->end();
  HeldKeys out{KeyList(G, spec.sinks + end - indexed), {}, {}};
  const TieredPages::Range ranges[] = {{0, spec.sinks}, {indexed, end}};
  if (disk == nullptr) {
    out.rows = layer.rows.view(2 * layer.rows.slots());
  } else {
    out.reading.emplace(disk->read(number_of(layer), ranges));
    out.rows = out.reading->rows();
    layer.asked.assign(out.reading->pages().begin(), out.reading->pages().end());
  }
  for (std::int64_t g = 0; g < G; ++g)
    for (const TieredPages::Range& range : ranges)
      for (std::int64_t slot = range.begin; slot < range.end; ++slot)
        out.list.add(g, out.reading ? out.reading->place(g, slot) : slot);
  return out;
}

void TieredCache::Impl::list_tokens(const TieredLayer& layer, const TieredFound& found,
                                    std::int64_t g, KeyList& to) const {
  const TokenRows& rows = layer.rows;
  const std::int32_t* all = layer.index->all_members(g).data();
  std::int32_t* slot = to.slots(g);
  found.each_taken(g, [&](std::int64_t member) { *slot++ = rows.place(all[member]); });
  to.set_length(g, slot - to.slots(g));
}

HeldKeys TieredCache::Impl::selected_keys(TieredLayer& layer, const TieredFound& found) const {
  std::int64_t most = 0;
  for (const TieredHead& head : found.heads_G) most = std::max(most, head.tokens);
  const std::int64_t G = layer.spec.G;
  HeldKeys out{KeyList(G, most), {}, {}};
  if (disk == nullptr) {
    out.rows = layer.rows.view(2 * layer.rows.slots());
    return out;
  }
  // The same tokens in the same order, by the slots that their clusters have.
  Slots slots_G(static_cast<std::size_t>(G));
  for (std::int64_t g = 0; g < G; ++g)
    found.each_taken(g, [&](std::int64_t member) {
      slots_G[static_cast<std::size_t>(g)].push_back(
          static_cast<std::int32_t>(spec.sinks + member));
    });
  out.reading.emplace(disk->read(number_of(layer), slots_G));
  out.rows = out.reading->rows();
  const std::span<const std::int32_t> asked = out.reading->pages();
  layer.asked.insert(layer.asked.end(), asked.begin(), asked.end());
  for (std::int64_t g = 0; g < G; ++g)
    for (const std::int32_t slot : slots_G[static_cast<std::size_t>(g)])
      out.list.add(g, out.reading->place(g, slot));
  read_ahead(layer, *out.reading);
  return out;
}

std::vector<std::int32_t> TieredCache::Impl::slots_of(const TieredLayer& layer,
                                                      std::int64_t end) const {
  std::vector<std::int32_t> slot_GN;
  for (std::int64_t g = 0; g < layer.spec.G; ++g) {
    const auto begin = std::ssize(slot_GN);
    for (std::int64_t slot = 0; slot < end; ++slot)
      slot_GN.push_back(static_cast<std::int32_t>(slot));
    if (layer.indexed() < 0) continue;
    std::int64_t slot = spec.sinks;
    for (const std::int32_t token : layer.index->all_members(g))
      slot_GN[static_cast<std::size_t>(begin + token)] = static_cast<std::int32_t>(slot++);
  }
  return slot_GN;
}

std::vector<std::byte> TieredCache::Impl::rows_of(const TieredLayer& layer) const {
  const std::int64_t N = layer.length;
  if (disk != nullptr) {
    const TieredPages::Range range{0, N};
    TieredPages::Reading reading = disk->read(number_of(layer), std::span(&range, 1));
    return disk->rows(reading, slots_of(layer, N), N);
  }
  std::vector<std::byte> out;
  out.reserve(static_cast<std::size_t>(N * layer.rows.bytes_per_token()));
  each_row(layer, kv, N, [&](const std::byte* from, std::int64_t size) {
    out.insert(out.end(), from, from + size);
  });
  return out;
}

void TieredCache::Impl::set_rows(TieredLayer& layer, std::span<const std::byte> bytes,
                                 std::int64_t tokens) {
  if (disk != nullptr) return disk->set_rows(number_of(layer), bytes, tokens);
  const std::byte* from = bytes.data();
  each_row(layer, kv, tokens, [&](std::byte* to, std::int64_t size) {
    std::memcpy(to, from, static_cast<std::size_t>(size));
    from += size;
  });
}

HeldTokens TieredCache::Impl::all_tokens(TieredLayer& layer, std::int64_t end) const {
  HeldTokens out;
  if (disk == nullptr) {
    out.view = layer.rows.view(layer.rows.slots());
    if (layer.rows.out_end() == layer.rows.out_begin()) return out;
    out.view = layer.rows.view(16);
    for (std::int64_t slot = 0; slot < end; slot += 16)
      out.table.push_back(layer.rows.page_of_16(slot));
    out.view.table = out.table.data();
    out.view.W = std::ssize(out.table);
    return out;
  }
  const TieredPages::Range range{0, end};
  out.reading.emplace(disk->read(number_of(layer), std::span(&range, 1)));
  layer.asked.assign(out.reading->pages().begin(), out.reading->pages().end());
  if (layer.indexed() < 0) {
    out.view = out.reading->stretch(0, end);
  } else {
    out.view = out.reading->tokens(slots_of(layer, end), end);
  }
  read_ahead(layer, *out.reading);
  return out;
}

}  // namespace quire::cache

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "quire/cache/merged_impl.h"
#include "quire/cache/steps.h"

namespace quire::cache {
namespace {

/// What stands before the keys of a layer.
struct Numbers {
  std::int64_t budget = 0, entries = -1, dropped = 0;  // entries −1: the layer is whole
  double dropped_mass = 0, mass = 0;
};

template <class T>
void put(std::vector<std::byte>& out, std::span<const T> values) {
  const std::size_t before = out.size();
  out.resize(before + values.size_bytes());
  if (!values.empty()) std::memcpy(out.data() + before, values.data(), values.size_bytes());
}

template <class T>
std::span<const T> values_of(const Tensor& x) {
  return {x.data<T>(), static_cast<std::size_t>(x.elements())};
}

/// Takes values from the front.
template <class T>
void take(std::span<const std::byte>& from, std::span<T> to) {
  QUIRE_CHECK(from.size() >= to.size_bytes(), "a merged layer ends early");
  if (!to.empty()) std::memcpy(to.data(), from.data(), to.size_bytes());
  from = from.subspan(to.size_bytes());
}

void check_numbers(const Numbers& n, std::int64_t length) {
  QUIRE_CHECK(n.budget >= 1 && n.entries >= -1 && n.entries != 0 && n.entries <= length &&
                  n.dropped >= 0 && std::isfinite(n.dropped_mass) && std::isfinite(n.mass),
              "a merged layer of ", length, " tokens has ", n.entries,
              " entries under a budget of ", n.budget);
}

}  // namespace

std::vector<std::byte> MergedCache::layer_bytes(std::int64_t layer) const {
  const Impl& impl = *impl_;
  const MergedLayer& from = impl_->layer_at(layer);
  QUIRE_CHECK(impl.context >= 0 && impl.context == impl.length, "a cache of ", impl.length,
              " tokens, ", impl.context, " of which were read and merged: what came after cannot ",
              "be saved");
  const Numbers numbers{impl.budget_tokens, from.kept.empty() ? -1 : from.count,
                        from.entries.dropped, from.entries.dropped_mass, from.mass};
  std::vector<std::byte> out;
  put(out, std::span(&numbers, 1));
  if (from.kept.empty()) {
    put<std::byte>(out, from.all->stretch(impl.length));
    return out;
  }
  for (std::size_t g = 0; g < from.kept.size(); ++g) {
    const MergedHead& head = from.kept[g];
    const auto count = static_cast<std::size_t>(head.count),
               begin = g * static_cast<std::size_t>(from.count);
    put(out, std::span(&head.count, 1));
    put<std::byte>(out, head.store.stretch(head.count));
    put<float>(out, std::span(head.bias).first(count));
    put(out, values_of<float>(from.entries.count_GM).subspan(begin, count));
    put(out, values_of<float>(from.entries.mass_GM).subspan(begin, count));
    put(out, values_of<std::int64_t>(from.entries.position_GM).subspan(begin, count));
  }
  return out;
}

MergedHead MergedCache::Impl::take_head(std::span<const std::byte>& bytes, MergedLayer& layer,
                                        std::int64_t g, std::int64_t tokens) const {
  std::int64_t count = 0;
  take(bytes, std::span(&count, 1));
  MergedEntries& now = layer.entries;
  const std::int64_t M = now.count_GM.size(1);
  QUIRE_CHECK(count >= 1 && count <= M, "a head of a merged layer has ", count, " entries of ", M);
  MergedHead head = empty_head(layer.spec, count, count + capacity - tokens, kv);
  const std::int64_t size = head.store.stretch_bytes(count);
  QUIRE_CHECK(std::ssize(bytes) >= size, "a merged layer ends early");
  head.store.set_stretch(bytes.first(static_cast<std::size_t>(size)), count);
  bytes = bytes.subspan(static_cast<std::size_t>(size));
  const auto row = [&](auto* data) { return std::span(data, static_cast<std::size_t>(count)); };
  float *counts = now.count_GM.mutable_data<float>() + g * M,
        *masses = now.mass_GM.mutable_data<float>() + g * M;
  auto* positions = now.position_GM.mutable_data<std::int64_t>() + g * M;
  take(bytes, row(head.bias.data()));
  take(bytes, row(counts));
  take(bytes, row(masses));
  take(bytes, row(positions));
  for (std::int64_t i = 0; i < count; ++i)
    QUIRE_CHECK(counts[i] > 0 && masses[i] >= 0 &&
                    !std::isnan(head.bias[static_cast<std::size_t>(i)]) && positions[i] >= 0 &&
                    positions[i] < tokens,
                "entry ", i, " of a merged layer is none");
  return head;
}

void MergedCache::Impl::set_layer(MergedLayer& layer, std::span<const std::byte> bytes,
                                  std::int64_t tokens) {
  const std::int64_t G = layer.spec.G;
  Numbers numbers;
  take(bytes, std::span(&numbers, 1));
  check_numbers(numbers, tokens);
  QUIRE_CHECK(budget_tokens < 0 || budget_tokens == numbers.budget, "layers of budgets ",
              budget_tokens, " and ", numbers.budget);
  const std::int64_t M = numbers.entries;
  QUIRE_CHECK((M < 0) || !is_whole(layer), "a layer that stays whole was merged");
  std::vector<MergedHead> kept;
  if (M < 0) {
    const std::int64_t size = layer.all->stretch_bytes(tokens);
    QUIRE_CHECK(std::ssize(bytes) >= size, "a merged layer ends early");
    layer.all->set_stretch(bytes.first(static_cast<std::size_t>(size)), tokens);
    bytes = bytes.subspan(static_cast<std::size_t>(size));
  } else {
    MergedEntries& now = layer.entries;
    now.count_GM = Tensor::zeros({G, M}, DType::kF32);
    now.mass_GM = Tensor::zeros({G, M}, DType::kF32);
    now.position_GM = Tensor::zeros({G, M}, DType::kI64);
    now.dropped = numbers.dropped;
    now.dropped_mass = numbers.dropped_mass;
    for (std::int64_t g = 0; g < G; ++g) kept.push_back(take_head(bytes, layer, g, tokens));
    QUIRE_CHECK(std::any_of(kept.begin(), kept.end(), [&](const auto& h) { return h.count == M; }),
                "no head of a merged layer has ", M, " entries");
  }
  QUIRE_CHECK(bytes.empty(), "a merged layer has ", bytes.size(), " bytes too many");
  layer.mass = numbers.mass;
  layer.count = std::max<std::int64_t>(M, 0);
  layer.length = tokens;
  budget_tokens = numbers.budget;
  if (M < 0) return;
  layer.kept = std::move(kept);
  layer.all.reset();
}

void MergedCache::restore(std::int64_t length, const LayerBytes& layer) {
  Impl& impl = *impl_;
  QUIRE_CHECK(impl.length == 0 && impl.context < 0, "the cache holds ", impl.length,
              " tokens already");
  QUIRE_CHECK(length > 0, "nothing to restore");
  check_room(0, length, impl.capacity);
  try {
    for (std::size_t i = 0; i < impl.layers.size(); ++i)
      impl.set_layer(impl.layers[i], layer(static_cast<std::int64_t>(i)), length);
  } catch (...) {
    impl.budget_tokens = -1;
    for (MergedLayer& at : impl.layers) {
      at.kept.clear();
      if (!at.all) at.all.emplace(at.spec, impl.capacity, impl.kv, KLayout::kRows);
      at.entries = {};
      at.mass = 0;
      at.count = at.length = 0;
    }
    throw;
  }
  impl.length = impl.context = length;
  for (MergedLayer& at : impl.layers) {
    at.observer.clear();
    at.bytes_read = impl.stored_bytes(at);
  }
}

}  // namespace quire::cache

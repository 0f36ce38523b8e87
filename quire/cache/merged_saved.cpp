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

template <class T>
Tensor take_tensor(std::span<const std::byte>& from, const Shape& shape, DType dtype) {
  Tensor out = Tensor::empty(shape, dtype);
  take<T>(from, {out.mutable_data<T>(), static_cast<std::size_t>(out.elements())});
  return out;
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
  const Numbers numbers{impl.budget_tokens, from.kept ? from.count : -1, from.entries.dropped,
                        from.entries.dropped_mass, from.mass};
  std::vector<std::byte> out;
  put(out, std::span(&numbers, 1));
  const std::vector<std::byte> keys =
      from.kept ? from.kept->stretch(from.count) : from.all->stretch(impl.length);
  put<std::byte>(out, keys);
  if (!from.kept) return out;
  put<float>(out, std::span(from.bias).first(static_cast<std::size_t>(from.count * from.spec.G)));
  put(out, values_of<float>(from.entries.count_GM));
  put(out, values_of<float>(from.entries.mass_GM));
  put(out, values_of<std::int64_t>(from.entries.position_GM));
  return out;
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
  std::optional<KvStore> kept;
  if (M >= 0) kept.emplace(layer.spec, M + capacity - tokens, kv, KLayout::kBlocks);
  KvStore& store = kept ? *kept : *layer.all;
  const std::int64_t keys = M < 0 ? tokens : M, size = store.stretch_bytes(keys);
  QUIRE_CHECK(std::ssize(bytes) >= size, "a merged layer ends early");
  store.set_stretch(bytes.first(static_cast<std::size_t>(size)), keys);
  bytes = bytes.subspan(static_cast<std::size_t>(size));
  if (kept) {
    layer.bias.assign(static_cast<std::size_t>(kept->slots() * G), 0.0f);
    take(bytes, std::span(layer.bias).first(static_cast<std::size_t>(M * G)));
    MergedEntries& now = layer.entries;
    now.count_GM = take_tensor<float>(bytes, {G, M}, DType::kF32);
    now.mass_GM = take_tensor<float>(bytes, {G, M}, DType::kF32);
    now.position_GM = take_tensor<std::int64_t>(bytes, {G, M}, DType::kI64);
    now.dropped = numbers.dropped;
    now.dropped_mass = numbers.dropped_mass;
    for (std::int64_t i = 0; i < M * G; ++i) {
      const std::int64_t position = now.position_GM.data<std::int64_t>()[i];
      QUIRE_CHECK(now.count_GM.data<float>()[i] > 0 && now.mass_GM.data<float>()[i] >= 0 &&
                      !std::isnan(layer.bias[static_cast<std::size_t>(i)]) && position >= 0 &&
                      position < tokens,
                  "entry ", i, " of a merged layer is none");
    }
  }
  QUIRE_CHECK(bytes.empty(), "a merged layer has ", bytes.size(), " bytes too many");
  layer.mass = numbers.mass;
  layer.count = kept ? M : 0;
  layer.length = tokens;
  budget_tokens = numbers.budget;
  if (!kept) return;
  layer.kept.emplace(std::move(*kept));
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
      at.kept.reset();
      if (!at.all) at.all.emplace(at.spec, impl.capacity, impl.kv, KLayout::kRows);
      at.entries = {};
      at.bias.clear();
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

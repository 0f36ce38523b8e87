#include "quire/eval/recording.h"

#include <algorithm>
#include <cstring>

#include "quire/base/error.h"
#include "quire/tensor/dims.h"

namespace quire::eval {
namespace {

/// Copies N rows of f32 behind the first `at` rows.
void put(Tensor& to, std::int64_t at, const Tensor& rows) {
  const Tensor from = rows.contiguous_copy();
  QUIRE_CHECK(from.rank() == to.rank() && at + from.size(0) <= to.size(0), "a recording of ",
              to_string(to.shape()), " gets rows of ", to_string(from.shape()), " at ", at);
  for (int dim = 1; dim < to.rank(); ++dim) {
    QUIRE_CHECK(from.size(dim) == to.size(dim), "a recording of ", to_string(to.shape()),
                " gets rows of ", to_string(from.shape()));
  }
  const std::int64_t row = to.size(0) == 0 ? 0 : to.elements() / to.size(0);
  if (from.elements() == 0) return;
  std::memcpy(to.mutable_data<float>() + at * row, from.data<float>(),
              static_cast<std::size_t>(from.bytes()));
}

}  // namespace

RecordingCache::RecordingCache(std::vector<cache::LayerSpec> layers, std::int64_t capacity,
                               DType kv, std::int64_t queries_from, std::int64_t reread)
    : specs_(std::move(layers)),
      queries_from_(queries_from),
      reread_(reread),
      cache_(specs_, capacity + std::max<std::int64_t>(reread, 0), kv) {
  QUIRE_CHECK(reread >= 0, "reread is ", reread,
              "; a piece has at least 1 token, and 0 means none");
  QUIRE_CHECK(queries_from >= 0 && queries_from <= capacity, "queries_from is ", queries_from,
              ", but the recording is for ", capacity, " tokens");
  for (const cache::LayerSpec& s : specs_) {
    recorded_.push_back({Tensor::empty({capacity, s.G, s.K}, DType::kF32),
                         Tensor::empty({capacity, s.G, s.U}, DType::kF32),
                         Tensor::empty({capacity - queries_from, s.H, s.K}, DType::kF32)});
  }
  ids_.assign(static_cast<std::size_t>(capacity), -1);
}

std::size_t RecordingCache::checked(std::int64_t layer) const {
  QUIRE_CHECK(layer >= 0 && layer < layers(), "layer is ", layer, ", but the recording has ",
              layers());
  return static_cast<std::size_t>(layer);
}

const cache::LayerSpec& RecordingCache::spec(std::int64_t layer) const {
  return specs_[checked(layer)];
}

void RecordingCache::begin_step(std::span<const std::int32_t> ids) {
  if (reread_at_ >= 0) return;
  const auto begin = static_cast<std::size_t>(length());
  std::fill(ids_.begin() + static_cast<std::ptrdiff_t>(begin), ids_.end(), -1);
  const std::size_t room = std::min(ids.size(), ids_.size() - begin);
  std::copy_n(ids.begin(), room, ids_.begin() + static_cast<std::ptrdiff_t>(begin));
}

void RecordingCache::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  Layer& to = recorded_[checked(layer)];
  cache_.append(layer, k_NGK, v_NGU);  // checks the capacity first
  if (reread_at_ >= 0) {
    Again::Layer& again = again_.back().layers[checked(layer)];
    put(again.k_NGK, length() - reread_at_, k_NGK);
    put(again.v_NGU, length() - reread_at_, v_NGU);
    return;
  }
  put(to.k_SGK, length(), k_NGK);
  put(to.v_SGU, length(), v_NGU);
}

Tensor RecordingCache::attend(std::int64_t layer, const Tensor& q_NHK) {
  Layer& to = recorded_[checked(layer)];
  if (reread_at_ >= 0) {
    put(again_.back().layers[checked(layer)].q_NHK, length() - reread_at_, q_NHK);
    return cache_.attend(layer, q_NHK);
  }
  const std::int64_t end = length() + q_NHK.size(0), first = std::max(length(), queries_from_);
  if (first < end)
    put(to.q_SHK, first - queries_from_, q_NHK.slice(0, first - length(), q_NHK.size(0)));
  return cache_.attend(layer, q_NHK);
}

void RecordingCache::truncate(std::int64_t length) {
  cache_.truncate(length);
  while (!again_.empty() && again_.back().end > length) again_.pop_back();
}

void RecordingCache::begin_reread() {
  QUIRE_CHECK(reread_ > 0 && reread_at_ < 0,
              "a second reading begins within another, or where none is wanted");
  reread_at_ = length();
  if (!again_.empty() && again_.back().end == reread_at_) again_.pop_back();
  Again again;
  again.end = reread_at_;
  for (const cache::LayerSpec& s : specs_)
    again.layers.push_back({Tensor::empty({reread_, s.G, s.K}, DType::kF32),
                            Tensor::empty({reread_, s.G, s.U}, DType::kF32),
                            Tensor::empty({reread_, s.H, s.K}, DType::kF32)});
  again_.push_back(std::move(again));
}

void RecordingCache::end_reread() {
  QUIRE_CHECK(reread_at_ >= 0, "no second reading is under way");
  Again& again = again_.back();
  again.tokens = length() - reread_at_;
  for (Again::Layer& layer : again.layers)
    for (Tensor* of : {&layer.k_NGK, &layer.v_NGU, &layer.q_NHK})
      *of = of->slice(0, 0, again.tokens);
  cache_.truncate(reread_at_);
  reread_at_ = -1;
}

std::span<const std::int32_t> RecordingCache::ids() const {
  return std::span(ids_).first(static_cast<std::size_t>(length()));
}

void RecordingCache::check(std::int64_t first, std::int64_t begin, std::int64_t end) const {
  QUIRE_CHECK(begin >= first && begin <= end && end <= length(), "tokens ", begin, " to ", end,
              " of a recording of ", first, " to ", length());
}

Tensor RecordingCache::k_NGK(std::int64_t layer, std::int64_t begin, std::int64_t end) const {
  check(0, begin, end);
  return recorded_[checked(layer)].k_SGK.slice(0, begin, end);
}

Tensor RecordingCache::v_NGU(std::int64_t layer, std::int64_t begin, std::int64_t end) const {
  check(0, begin, end);
  return recorded_[checked(layer)].v_SGU.slice(0, begin, end);
}

Tensor RecordingCache::q_NHK(std::int64_t layer, std::int64_t begin, std::int64_t end) const {
  check(queries_from_, begin, end);
  return recorded_[checked(layer)].q_SHK.slice(0, begin - queries_from_, end - queries_from_);
}

std::int64_t recording_bytes(std::span<const cache::LayerSpec> layers, std::int64_t tokens,
                             std::int64_t queries, std::int64_t again) {
  std::int64_t numbers = 0;
  for (const cache::LayerSpec& s : layers)
    numbers += (tokens + again) * s.G * (s.K + s.U) + (queries + again) * s.H * s.K;
  return numbers * static_cast<std::int64_t>(sizeof(float));
}

namespace {

void replay_again(const RecordingCache::Again& again, cache::KvCache& to, std::int64_t chunk) {
  to.begin_reread();
  for (std::int64_t begin = 0; begin < again.tokens; begin += chunk) {
    const std::int64_t end = std::min(again.tokens, begin + chunk);
    for (std::size_t i = 0; i < again.layers.size(); ++i) {
      const RecordingCache::Again::Layer& layer = again.layers[i];
      const auto at = static_cast<std::int64_t>(i);
      to.append(at, layer.k_NGK.slice(0, begin, end), layer.v_NGU.slice(0, begin, end));
      to.attend(at, layer.q_NHK.slice(0, begin, end));
    }
    to.advance(end - begin);
  }
  to.end_reread();
}

}  // namespace

bool replay(const RecordingCache& from, std::int64_t end, cache::KvCache& to,
            std::int64_t queries_from, std::int64_t chunk,
            const std::function<bool(std::int64_t)>& progress) {
  QUIRE_CHECK(end >= to.length() && end <= from.length(), "replay up to ", end,
              ", but the cache has ", to.length(), " tokens and the recording ", from.length());
  QUIRE_CHECK(chunk >= 1, "chunk is ", chunk, "; it must be at least 1");
  const bool again = to.reread_tokens() > 0 && to.reread_tokens() == from.reread_tokens();
  while (to.length() < end) {
    const std::int64_t begin = to.length();
    const auto next = std::find_if(from.again().begin(), from.again().end(),
                                   [&](const auto& piece) { return piece.end > begin; });
    const std::int64_t border = begin < queries_from ? queries_from : end,
                       whole = again && next != from.again().end() ? next->end : end,
                       stop = std::min({end, border, whole, begin + chunk});
    to.begin_step(from.ids().subspan(static_cast<std::size_t>(begin),
                                     static_cast<std::size_t>(stop - begin)));
    for (std::int64_t layer = 0; layer < from.layers(); ++layer) {
      to.append(layer, from.k_NGK(layer, begin, stop), from.v_NGU(layer, begin, stop));
      if (begin >= queries_from) to.attend(layer, from.q_NHK(layer, begin, stop));
    }
    to.advance(stop - begin);
    if (again && stop == whole && next != from.again().end() && next->end == stop)
      replay_again(*next, to, chunk);
    if (progress && !progress(stop)) return false;
  }
  return true;
}

}  // namespace quire::eval

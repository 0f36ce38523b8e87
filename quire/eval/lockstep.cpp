#include "quire/eval/lockstep.h"

#include <algorithm>
#include <set>
#include <utility>

#include "quire/base/error.h"

namespace quire::eval {

Lockstep::Lockstep(std::vector<cache::KvCache*> caches) : caches_(std::move(caches)) {
  QUIRE_CHECK(!caches_.empty(), "no caches to go on together");
  QUIRE_CHECK(std::set<cache::KvCache*>(caches_.begin(), caches_.end()).size() == caches_.size(),
              "a cache is named twice");
}

void Lockstep::check(std::int64_t tokens) const {
  QUIRE_CHECK(tokens == static_cast<std::int64_t>(caches_.size()), "a step of ", tokens,
              " tokens for ", caches_.size(), " caches");
}

std::int64_t Lockstep::length() const {
  std::int64_t longest = 0;
  for (const cache::KvCache* cache : caches_) longest = std::max(longest, cache->length());
  return longest;
}

std::int64_t Lockstep::capacity() const {
  std::int64_t least = caches_.front()->capacity();
  for (const cache::KvCache* cache : caches_) least = std::min(least, cache->capacity());
  return least;
}

void Lockstep::begin_step(std::span<const std::int32_t> ids) {
  check(static_cast<std::int64_t>(ids.size()));
  for (std::size_t b = 0; b < caches_.size(); ++b) caches_[b]->begin_step(ids.subspan(b, 1));
}

std::vector<std::int64_t> Lockstep::positions(std::int64_t N) const {
  check(N);
  std::vector<std::int64_t> out;
  for (const cache::KvCache* cache : caches_) out.push_back(cache->positions(1).front());
  return out;
}

void Lockstep::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  check(k_NGK.size(0));
  for (std::int64_t b = 0; b < k_NGK.size(0); ++b)
    caches_[static_cast<std::size_t>(b)]->append(layer, k_NGK.slice(0, b, b + 1),
                                                 v_NGU.slice(0, b, b + 1));
}

Tensor Lockstep::attend(std::int64_t layer, const Tensor& q_NHK) {
  check(q_NHK.size(0));
  Tensor out_NHU;
  for (std::int64_t b = 0; b < q_NHK.size(0); ++b) {
    const Tensor one_1HU = caches_[static_cast<std::size_t>(b)]
                               ->attend(layer, q_NHK.slice(0, b, b + 1))
                               .contiguous_copy();
    if (b == 0)
      out_NHU = Tensor::empty({q_NHK.size(0), one_1HU.size(1), one_1HU.size(2)}, DType::kF32);
    std::copy_n(one_1HU.data<float>(), one_1HU.elements(),
                out_NHU.mutable_data<float>() + b * one_1HU.elements());
  }
  return out_NHU;
}

void Lockstep::advance(std::int64_t tokens) {
  check(tokens);
  for (cache::KvCache* cache : caches_) cache->advance(1);
}

void Lockstep::truncate(std::int64_t /*length*/) {
  throw ArgumentError("caches that go on together are truncated each by itself");
}

std::int64_t Lockstep::bytes() const {
  std::int64_t sum = 0;
  for (const cache::KvCache* cache : caches_) sum += cache->bytes();
  return sum;
}

std::int64_t Lockstep::bytes_per_token() const {
  std::int64_t sum = 0;
  for (const cache::KvCache* cache : caches_) sum += cache->bytes_per_token();
  return sum;
}

}  // namespace quire::eval

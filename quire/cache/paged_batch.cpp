#include <algorithm>
#include <numeric>
#include <set>

#include "quire/base/error.h"
#include "quire/cache/paged.h"
#include "quire/cache/paged_sequence.h"
#include "quire/ops/attention/shared_attention.h"

namespace quire::cache {
struct PagedBatch::Impl {
  std::vector<PagedCache*> caches;
  std::vector<PagedCache::Impl*> sequences;
  std::vector<std::int64_t> counts;
  Tensor start_J;
  // Of the step under way: rows of page numbers as wide as the longest.
  std::vector<std::int32_t> table_BW;
  std::vector<std::int64_t> length_B;  // of the layer that is viewed
  std::int64_t W = 0;
  Tensor slot_N;
  bool is_prepared = false;

  std::int64_t N() const { return start_J.data<std::int32_t>()[counts.size()]; }
  const PagedPool& pool() const { return *sequences.front()->pool; }

  /// Pages for the tokens of all, and what the kernels ask for.
  void prepare() {
    if (is_prepared) return;
    try {
      for (std::size_t b = 0; b < sequences.size(); ++b) sequences[b]->make_room(counts[b]);
    } catch (...) {
      // What the first ones took goes back: nobody begins this step.
      for (PagedCache::Impl* s : sequences) s->truncate(s->length);
      throw;
    }
    W = 1;
    for (const auto* s : sequences) W = std::max(W, static_cast<std::int64_t>(s->table.size()));
    table_BW.assign(sequences.size() * static_cast<std::size_t>(W), -1);
    slot_N = Tensor::empty({N()}, DType::kI64);
    auto* slot = slot_N.mutable_data<std::int64_t>();
    for (std::size_t b = 0; b < sequences.size(); ++b) {
      const PagedCache::Impl& s = *sequences[b];
      std::copy(s.table.begin(), s.table.end(),
                table_BW.begin() + static_cast<std::ptrdiff_t>(b) * W);
      for (std::int64_t t = 0; t < counts[b]; ++t) *slot++ = s.slot(s.length + t);
    }
    is_prepared = true;
  }

  /// What attention sees of a layer, the tokens included that were appended to it in this step.
  KvView completed(KvView view, std::int64_t layer) {
    length_B.clear();
    for (const auto* s : sequences)
      length_B.push_back(s->layer_length[static_cast<std::size_t>(layer)]);
    view.W = W;
    view.length_BG = length_B.data();
    return view;
  }
  AttentionSpec attention_of(std::int64_t layer) const {
    AttentionSpec spec = pool().spec().layers[static_cast<std::size_t>(layer)].attention;
    spec.alignment = Alignment::kBottomRight;
    return spec;
  }
};

PagedBatch::PagedBatch(std::vector<PagedCache*> sequences, std::vector<std::int64_t> counts)
    : impl_(std::make_unique<Impl>()) {
  QUIRE_CHECK(!sequences.empty() && sequences.size() == counts.size(), "a batch of ",
              sequences.size(), " sequences with ", counts.size(), " counts");
  const std::set<PagedCache*> different(sequences.begin(), sequences.end());
  QUIRE_CHECK(different.size() == sequences.size(), "a batch names a sequence twice");
  impl_->start_J = Tensor::zeros({static_cast<std::int64_t>(counts.size()) + 1}, DType::kI32);
  auto* start = impl_->start_J.mutable_data<std::int32_t>();
  for (std::size_t b = 0; b < counts.size(); ++b) {
    QUIRE_CHECK(counts[b] >= 0 && counts[b] <= (1 << 20), "sequence ", b, " has ", counts[b],
                " tokens in one step");
    QUIRE_CHECK(sequences[b]->pool() == sequences[0]->pool(), "sequence ", b,
                " of a batch is of another pool");
    start[b + 1] = start[b] + static_cast<std::int32_t>(counts[b]);
    impl_->sequences.push_back(sequences[b]->impl_.get());
  }
  impl_->caches = std::move(sequences);
  impl_->counts = std::move(counts);
}

PagedBatch::~PagedBatch() = default;

std::int64_t PagedBatch::length() const {
  std::int64_t longest = 0;
  for (const auto* s : impl_->sequences) longest = std::max(longest, s->length);
  return longest;
}

std::int64_t PagedBatch::capacity() const {
  std::int64_t least = impl_->sequences.front()->capacity;
  for (const auto* s : impl_->sequences) least = std::min(least, s->capacity);
  return least;
}

void PagedBatch::begin_step(std::span<const std::int32_t> ids) {
  QUIRE_CHECK(static_cast<std::int64_t>(ids.size()) == impl_->N(), "a step of ", ids.size(),
              " tokens, but the batch was made for ", impl_->N());
  impl_->is_prepared = false;
  for (std::size_t b = 0; b < impl_->counts.size(); ++b) {
    const auto count = static_cast<std::size_t>(impl_->counts[b]);
    impl_->sequences[b]->step_ids.assign(ids.begin(), ids.begin() + impl_->counts[b]);
    ids = ids.subspan(count);
  }
}

std::vector<std::int64_t> PagedBatch::positions(std::int64_t N) const {
  QUIRE_CHECK(N == impl_->N(), "positions of ", N, " tokens, but the batch was made for ",
              impl_->N());
  std::vector<std::int64_t> out(static_cast<std::size_t>(N));
  auto at = out.begin();
  for (std::size_t b = 0; b < impl_->counts.size(); ++b) {
    const auto end = at + impl_->counts[b];
    std::iota(at, end, impl_->sequences[b]->length);
    at = end;
  }
  return out;
}

void PagedBatch::append(std::int64_t layer, const Tensor& k_NGK, const Tensor& v_NGU) {
  QUIRE_CHECK(k_NGK.size(0) == impl_->N(), "k_NGK has ", k_NGK.size(0),
              " tokens, but the batch was made for ", impl_->N());
  impl_->prepare();
  impl_->pool().store().write(layer, k_NGK, v_NGU, impl_->slot_N);
  for (std::size_t b = 0; b < impl_->counts.size(); ++b) {
    PagedCache::Impl& s = *impl_->sequences[b];
    s.layer_length[static_cast<std::size_t>(layer)] = s.length + impl_->counts[b];
  }
}

Tensor PagedBatch::attend(std::int64_t layer, const Tensor& q_NHK) {
  impl_->prepare();
  PageStore::Reading reading = impl_->pool().store().read(layer, impl_->table_BW);
  return attention(q_NHK, impl_->start_J, impl_->completed(reading.view, layer),
                   impl_->attention_of(layer))
      .out_NHU;
}

void PagedBatch::advance(std::int64_t tokens) {
  QUIRE_CHECK(tokens == impl_->N(), "advance by ", tokens, ", but the batch was made for ",
              impl_->N());
  for (std::size_t b = 0; b < impl_->counts.size(); ++b)
    impl_->sequences[b]->advance(impl_->counts[b]);
  impl_->is_prepared = false;
}

void PagedBatch::truncate(std::int64_t /*length*/) {
  throw ArgumentError("a batch is not truncated as a whole: truncate its sequences");
}

bool PagedBatch::recover() {
  bool has_lost = false;
  for (PagedCache* cache : impl_->caches) has_lost = cache->recover() || has_lost;
  if (!has_lost) return false;
  for (PagedCache::Impl* s : impl_->sequences) s->truncate(s->length);
  impl_->is_prepared = false;
  return true;
}

std::int64_t PagedBatch::bytes() const {
  std::int64_t sum = 0;
  for (const PagedCache* cache : impl_->caches) sum += cache->bytes();
  return sum;
}

std::int64_t PagedBatch::bytes_per_token() const { return impl_->pool().store().bytes_per_token(); }

std::int64_t PagedBatch::shared() const {
  impl_->prepare();
  KvView view;
  view.Z = impl_->pool().store().Z();
  view.table = impl_->table_BW.data();
  view.W = impl_->W;
  // As it will be when the tokens of the step are there.
  impl_->length_B.resize(impl_->counts.size());
  for (std::size_t b = 0; b < impl_->counts.size(); ++b)
    impl_->length_B[b] = impl_->sequences[b]->length + impl_->counts[b];
  view.length_BG = impl_->length_B.data();
  return shared_keys(impl_->start_J, view, impl_->attention_of(0));
}

}  // namespace quire::cache

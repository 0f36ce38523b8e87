#include "quire/nn/attention.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "quire/base/error.h"
#include "quire/grad/attention.h"
#include "quire/grad/math.h"
#include "quire/grad/matmul.h"
#include "quire/grad/views.h"
#include "quire/ops/attention/attention.h"
#include "quire/ops/attention/kv_write.h"
#include "quire/ops/matmul/linear.h"
#include "quire/ops/matmul/matmul.h"
#include "quire/tensor/dims.h"

namespace quire::nn {
namespace {

using grad::Var;

// What the layer below calls by one name for both kinds of value.
Tensor view(const Tensor& x, Shape shape) { return x.view(std::move(shape)); }
const Tensor& value_of(const Tensor& x) { return x; }
const Tensor& value_of(const Var& x) { return x.value(); }
void make(Tensor value, Tensor& to) { to = std::move(value); }
void make(Tensor value, Var& to) { to = Var(std::move(value), grad::Needs::kGradient); }

/// Panels read a weight at the memory's speed; with this many rows the arithmetic counts alone.
constexpr std::int64_t kManyRows = 96;

Weight pack(const Tensor& weight_MD) {
  if (weight_MD.dtype() != DType::kF32) return {};
  const Tensor rows = weight_MD.contiguous_copy();
  const std::int64_t D = rows.size(1);
  return Weight::pack(WeightType::kF32, rows.size(0), D,
                      [&](std::int64_t first, std::int64_t, std::span<std::byte> to) {
                        std::memcpy(to.data(), rows.data<float>() + first * D, to.size());
                      });
}
Weight pack(const Var&) { return {}; }

/// linear() of rows [N, D]; the same bits by either way.
Tensor product(const Tensor& x_ND, const Tensor& weight_MD, const Weight& packed) {
  const bool is_packed = x_ND.dtype() == DType::kF32 && packed.rows() > 0;
  if (!is_packed || x_ND.size(0) >= kManyRows) return linear(x_ND, weight_MD);
  return matmul(x_ND, packed, MatmulMode::kExact);
}
Var product(const Var& x_ND, const Var& weight_MD, const Weight&) {
  return linear(x_ND, weight_MD);
}

/// x as rows.
Tensor rows_of(const Tensor& x_BTD) {
  return x_BTD.contiguous_copy().view({x_BTD.size(0) * x_BTD.size(1), x_BTD.size(2)});
}
Var rows_of(const Var& x_BTD) {
  const Shape& shape = x_BTD.shape();
  return view(contiguous(x_BTD), {shape[0] * shape[1], shape[2]});
}

/// B sequences of T queries.
Tensor starts(std::int64_t B, std::int64_t T) {
  QUIRE_CHECK(B * T <= INT32_MAX, "x_BTD has ", B, " sequences of ", T, " tokens: over 2^31");
  Tensor start_J = Tensor::empty({B + 1}, DType::kI32);
  auto* to = start_J.mutable_data<std::int32_t>();
  for (std::int64_t b = 0; b <= B; ++b) to[b] = static_cast<std::int32_t>(b * T);
  return start_J;
}

AttentionSpec spec_of(Sees sees) {
  AttentionSpec spec;
  spec.window_right = sees == Sees::kCausal ? 0 : kUnlimited;
  spec.alignment = Alignment::kBottomRight;
  return spec;
}

/// The rows of a tensor as pages: sequence b has page b.
KvView pages_of(const Tensor& k_BSGK, const Tensor& v_BSGU) {
  KvView kv;
  kv.k_pages = k_BSGK.data<void>();
  kv.v_pages = v_BSGU.data<void>();
  kv.k_strides = {k_BSGK.strides()[0], k_BSGK.strides()[1], k_BSGK.strides()[2]};
  kv.v_strides = {v_BSGU.strides()[0], v_BSGU.strides()[1], v_BSGU.strides()[2]};
  kv.dtype = k_BSGK.dtype();
  kv.P = k_BSGK.size(0);
  kv.Z = std::max<std::int64_t>(k_BSGK.size(1), 1);
  kv.G = k_BSGK.size(2);
  kv.K = k_BSGK.size(3);
  kv.U = v_BSGU.size(3);
  return kv;
}

/// The lengths of B sequences that are all as long.
class Lengths {
 public:
  Lengths(KvView& kv, std::int64_t B, std::int64_t length)
      : lengths_(static_cast<std::size_t>(std::max<std::int64_t>(B, 1)), length) {
    kv.length_BG = lengths_.data();
  }

 private:
  std::vector<std::int64_t> lengths_;
};

Tensor attend(const Tensor& q_NHK, std::int64_t T, KvView kv, std::int64_t length, Sees sees) {
  const std::int64_t B = T == 0 ? 0 : q_NHK.size(0) / T;
  const Lengths lengths(kv, B, length);
  return attention(q_NHK, starts(B, T), kv, spec_of(sees)).out_NHU;
}

Tensor attend(const Tensor& q_NHK, const Tensor& k_BTGK, const Tensor& v_BTGU, Sees sees) {
  const std::int64_t T = k_BTGK.size(1);
  return attend(q_NHK, T, pages_of(k_BTGK, v_BTGU), T, sees);
}

Var attend_to(const Var& q_NHK, std::int64_t T, const Var& k_BSGK, const Var& v_BSGU, Sees sees) {
  const std::int64_t B = k_BSGK.value().size(0);
  KvView kv;
  const Lengths lengths(kv, B, k_BSGK.value().size(1));
  return grad::attention(q_NHK, starts(B, T), grad::KvPool(k_BSGK, v_BSGU), kv, spec_of(sees))
      .out_NHU;
}

Var attend(const Var& q_NHK, const Var& k_BTGK, const Var& v_BTGU, Sees sees) {
  return attend_to(q_NHK, k_BTGK.value().size(1), k_BTGK, v_BTGU, sees);
}

Tensor attend(const Tensor& q_NHK, std::int64_t T, const AttentionCache<Tensor>& cache, Sees sees) {
  return attend(q_NHK, T, cache.view(), cache.length(), sees);
}

Var attend(const Var& q_NHK, std::int64_t T, const AttentionCache<Var>& cache, Sees sees) {
  return attend_to(q_NHK, T, cache.k_BSGK(), cache.v_BSGU(), sees);
}

/// slots of a page: blocks of keys and tiles of attention end inside it.
std::int64_t slots_for(std::int64_t capacity) { return (capacity + 63) / 64 * 64; }

void check_capacity(std::int64_t capacity) {
  QUIRE_CHECK(capacity >= 1 && capacity < (std::int64_t{1} << 40), "AttentionCache: capacity is ",
              capacity, ", expected at least 1");
}

void check_fits(std::int64_t length, std::int64_t T, std::int64_t capacity) {
  QUIRE_CHECK(T <= capacity - length, "AttentionCache: holds ", length, " tokens of at most ",
              capacity, "; ", T, " more do not fit");
}

/// Rows of f64 behind the first `length` of each head of pages [B, G, S, K].
void append_rows(Tensor& pages, const Tensor& rows_BTGK, std::int64_t length) {
  const Tensor rows = rows_BTGK.contiguous_copy();
  const std::int64_t B = rows.size(0), T = rows.size(1), G = rows.size(2), K = rows.size(3);
  const std::int64_t S = pages.size(2);
  const double* from = rows.data<double>();
  double* to = pages.mutable_data<double>();
  for (std::int64_t b = 0; b < B; ++b)
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t g = 0; g < G; ++g, from += K)
        std::copy(from, from + K, to + ((b * G + g) * S + length + t) * K);
}

template <class Value>
void check_weight(const Value& weight, std::int64_t rows, std::int64_t columns, const char* name) {
  const Shape& shape = value_of(weight).shape();
  QUIRE_CHECK((shape == Shape{rows, columns}), "the weight ", name, " has shape ", to_string(shape),
              ", expected ", to_string(Shape{rows, columns}));
}

void check_heads(std::int64_t D, std::int64_t H, std::int64_t G) {
  QUIRE_CHECK(H >= 1 && D >= 1 && D % H == 0, "attention: the hidden size ", D,
              " is no multiple of ", H, " heads");
  QUIRE_CHECK(G >= 1 && H % G == 0, "attention: ", H, " query heads are no multiple of ", G,
              " key/value heads");
}

}  // namespace

template <class Value>
AttentionWeights<Value> attention_init(std::int64_t D, std::int64_t H, std::int64_t G, Rng& rng) {
  check_heads(D, H, G);
  AttentionWeights<Value> out;
  make(linear_init(D, D, rng).weight_MD, out.q);
  make(linear_init(D / H * G, D, rng).weight_MD, out.k);
  make(linear_init(D / H * G, D, rng).weight_MD, out.v);
  make(linear_init(D, D, rng).weight_MD, out.output);
  return out;
}

AttentionCache<Tensor>::AttentionCache(std::int64_t capacity) : capacity_(capacity) {
  check_capacity(capacity);
}

void AttentionCache<Tensor>::append(const Tensor& k_BTGK, const Tensor& v_BTGU) {
  const Dims dims = QUIRE_DIMS(k_BTGK, v_BTGU);
  const std::int64_t B = dims['B'], T = dims['T'], G = dims['G'], K = dims['K'], U = dims['U'];
  const DType dtype = k_BTGK.dtype();
  QUIRE_CHECK((dtype == DType::kF32 || dtype == DType::kF64) && v_BTGU.dtype() == dtype,
              "AttentionCache: k is ", to_string(dtype), " and v ", to_string(v_BTGU.dtype()),
              ", expected f32 or f64 in both");
  check_fits(length_, T, capacity_);
  if (k_.elements() == 0) {
    k_ = Tensor::empty({B, G, slots_for(capacity_), K}, dtype);
    v_ = Tensor::empty({B, G, slots_for(capacity_), U}, dtype);
  }
  const Shape k_shape = {B, G, slots_for(capacity_), K}, v_shape = {B, G, slots_for(capacity_), U};
  QUIRE_CHECK(k_.shape() == k_shape && v_.shape() == v_shape && k_.dtype() == dtype,
              "AttentionCache: k_BTGK is ", to_string(k_BTGK.shape()), " and v_BTGU ",
              to_string(v_BTGU.shape()), ", but the cache holds ", to_string(k_.shape()), " and ",
              to_string(v_.shape()), " [B, G, slots, size]");
  if (dtype == DType::kF64) {
    append_rows(k_, k_BTGK, length_);
    append_rows(v_, v_BTGU, length_);
  } else if (B > 0 && T > 0) {
    const std::int64_t Z = k_.size(2);
    Tensor slot_N = Tensor::empty({B * T}, DType::kI64);
    auto* slot = slot_N.mutable_data<std::int64_t>();
    for (std::int64_t b = 0; b < B; ++b)
      std::iota(slot + b * T, slot + (b + 1) * T, b * Z + length_);
    const KvView at = view();
    KvPages pages;
    pages.k_pages = k_.mutable_data<float>();
    pages.v_pages = v_.mutable_data<float>();
    pages.k_strides = at.k_strides;
    pages.v_strides = at.v_strides;
    pages.k_layout = at.k_layout;
    pages.P = B;
    pages.Z = Z;
    pages.G = G;
    pages.K = K;
    pages.U = U;
    kv_write(pages, k_BTGK.contiguous_copy().view({B * T, G, K}),
             v_BTGU.contiguous_copy().view({B * T, G, U}), slot_N);
  }
  length_ += T;
}

KvView AttentionCache<Tensor>::view() const {
  QUIRE_CHECK(k_.elements() > 0, "AttentionCache: nothing was appended yet");
  KvView kv = pages_of(k_.transpose(1, 2), v_.transpose(1, 2));
  if (k_.dtype() == DType::kF32) kv.k_layout = KLayout::kBlocks;
  return kv;
}

AttentionCache<Var>::AttentionCache(std::int64_t capacity) : capacity_(capacity) {
  check_capacity(capacity);
}

void AttentionCache<Var>::append(const Var& k_BTGK, const Var& v_BTGU) {
  const std::int64_t T = k_BTGK.value().size(1);
  check_fits(length_, T, capacity_);
  const std::array keys = {k_, k_BTGK}, values = {v_, v_BTGU};
  k_ = length_ == 0 ? k_BTGK : cat(keys, 1);
  v_ = length_ == 0 ? v_BTGU : cat(values, 1);
  length_ += T;
}

template <class Value>
GroupedQueryAttention<Value>::GroupedQueryAttention(std::int64_t hidden, std::int64_t heads,
                                                    std::int64_t kv_heads, Rng& rng)
    : GroupedQueryAttention(heads, kv_heads, attention_init<Value>(hidden, heads, kv_heads, rng)) {}

template <class Value>
GroupedQueryAttention<Value>::GroupedQueryAttention(std::int64_t heads, std::int64_t kv_heads,
                                                    AttentionWeights<Value> weights)
    : heads_(heads), kv_heads_(kv_heads), weights_(std::move(weights)) {
  const std::int64_t D = value_of(weights_.q).size(-1);
  check_heads(D, heads, kv_heads);
  const std::int64_t narrow = D / heads * kv_heads;
  check_weight(weights_.q, D, D, "q");
  check_weight(weights_.k, narrow, D, "k");
  check_weight(weights_.v, narrow, D, "v");
  check_weight(weights_.output, D, D, "output");
  packed_ = {pack(weights_.q), pack(weights_.k), pack(weights_.v), pack(weights_.output)};
}

template <class Value>
typename GroupedQueryAttention<Value>::Projected GroupedQueryAttention<Value>::project(
    const Value& x_BTD) const {
  const Tensor& values_BTD = value_of(x_BTD);
  const Dims dims = QUIRE_DIMS(values_BTD);
  const std::int64_t B = dims['B'], T = dims['T'], D = dims['D'], K = D / heads_;
  QUIRE_CHECK(D == value_of(weights_.q).size(1), "x_BTD: D is ", D, ", but the layer has ",
              value_of(weights_.q).size(1));
  const Value rows = rows_of(x_BTD);
  return {view(product(rows, weights_.q, packed_[0]), {B * T, heads_, K}),
          view(product(rows, weights_.k, packed_[1]), {B, T, kv_heads_, K}),
          view(product(rows, weights_.v, packed_[2]), {B, T, kv_heads_, K})};
}

template <class Value>
Value GroupedQueryAttention<Value>::output(const Value& out_NHK, std::int64_t B,
                                           std::int64_t T) const {
  const std::int64_t D = value_of(weights_.q).size(1);
  const Value out = product(view(out_NHK, {B * T, D}), weights_.output, packed_[3]);
  return view(out, {B, T, D});
}

template <class Value>
Value GroupedQueryAttention<Value>::attended(const Value& x_BTD, AttentionCache<Value>* cache,
                                             Sees sees) const {
  const Projected p = project(x_BTD);
  if (cache == nullptr) return attend(p.q_NHK, p.k_BTGK, p.v_BTGK, sees);
  // Also where nothing stands before these tokens: its blocks of keys are read where they lie.
  cache->append(p.k_BTGK, p.v_BTGK);
  return attend(p.q_NHK, value_of(x_BTD).size(1), *cache, sees);
}

template <class Value>
Value GroupedQueryAttention<Value>::operator()(const Value& x_BTD, Sees sees) const {
  return output(attended(x_BTD, nullptr, sees), value_of(x_BTD).size(0), value_of(x_BTD).size(1));
}

template <class Value>
Value GroupedQueryAttention<Value>::operator()(const Value& x_BTD, AttentionCache<Value>& cache,
                                               Sees sees) const {
  return output(attended(x_BTD, &cache, sees), value_of(x_BTD).size(0), value_of(x_BTD).size(1));
}

template AttentionWeights<Tensor> attention_init(std::int64_t, std::int64_t, std::int64_t, Rng&);
template AttentionWeights<Var> attention_init(std::int64_t, std::int64_t, std::int64_t, Rng&);
template class GroupedQueryAttention<Tensor>;
template class GroupedQueryAttention<Var>;

}  // namespace quire::nn

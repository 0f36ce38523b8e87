#include "quire/grad/attention.h"

#include "quire/base/error.h"
#include "quire/grad/kv_pool.h"
#include "quire/grad/record.h"
#include "quire/ops/attention/attention_backward.h"
#include "quire/ops/attention/kv_snapshot.h"

namespace quire::grad {
namespace {

bool given(const Var& x) { return x.value().elements() > 0; }

/// Forward's arguments over memory of their own.
struct Call {
  Tensor q_NHK, start_J;
  Tensor k_pages, v_pages;  // keeps the pool's memory
  Tensor bias, slope_H, sink_H;
  KvView kv;
  AttentionSpec spec;
};

Tensor plain(const Var& x, const char* name) {
  if (!given(x)) return {};
  QUIRE_CHECK(x.dtype() == DType::kF32, "attention: ", name, " is ", to_string(x.dtype()),
              ", expected f32");
  return x.value().contiguous_copy();
}

void check_heads(const Tensor& x, std::int64_t H, const char* name) {
  QUIRE_CHECK(x.elements() == 0 || x.shape() == Shape{H}, "attention: ", name, " has shape ",
              to_string(x.shape()), ", but there are H = ", H, " heads");
}

Call call_of(const Var& q_NHK, const Tensor& start_J, const KvPool& pool, const KvView& kv,
             const AttentionSpec& spec, const AttentionBiases& biases) {
  const bool is_half = q_NHK.dtype() == DType::kBF16 || q_NHK.dtype() == DType::kF16;
  Call call;
  call.q_NHK = is_half ? q_NHK.value().to(DType::kF32) : q_NHK.value();
  call.start_J = start_J.contiguous_copy();
  call.k_pages = pool.k_pages_PZGK().value();
  call.v_pages = pool.v_pages_PZGU().value();
  call.bias = plain(biases.bias, "bias");
  call.slope_H = plain(biases.slope_H, "slope_H");
  call.sink_H = plain(biases.sink_H, "sink_H");
  call.kv = pool.view();
  call.kv.table = kv.table;
  call.kv.W = kv.W;
  call.kv.table_head_stride = kv.table_head_stride;
  call.kv.table_start_J = kv.table_start_J;
  call.kv.length_BG = kv.length_BG;
  call.kv.length_stride_G = kv.length_stride_G;
  call.kv.first_BG = kv.first_BG;
  call.spec = spec;
  call.spec.slope_H = nullptr;
  call.spec.sink_H = nullptr;
  const std::int64_t H = q_NHK.value().rank() == 3 ? q_NHK.value().size(1) : 0;
  check_heads(call.slope_H, H, "slope_H");
  check_heads(call.sink_H, H, "sink_H");
  if (given(biases.bias)) {
    QUIRE_CHECK(
        call.bias.rank() == 3 && call.bias.size(0) == call.kv.P && call.bias.size(1) == call.kv.Z,
        "attention: bias has shape ", to_string(call.bias.shape()),
        ", but the pool has P = ", call.kv.P, " pages of Z = ", call.kv.Z);
    call.kv.bias = call.bias.data<float>();
    call.kv.bias_heads = call.bias.size(2);
  }
  if (given(biases.slope_H)) call.spec.slope_H = call.slope_H.data<float>();
  if (given(biases.sink_H)) call.spec.sink_H = call.sink_H.data<float>();
  return call;
}

Tensor in(DType dtype, Tensor x) { return x.dtype() == dtype ? std::move(x) : x.to(dtype); }

/// What backward needs, and its call.
class Recorded {
 public:
  Recorded(Call call, AttentionResult result, KvPool pool, const std::vector<Var>& inputs)
      : call_(std::move(call)),
        result_(std::move(result)),
        pool_(std::move(pool)),
        snapshot_(call_.kv, call_.start_J.size(0) - 1) {
    for (const Var& input : inputs) needs_.push_back(input.needs_gradient());
    // The pages have the pool's guard; a copy in f32 is nobody's to write, but guards itself.
    for (const Tensor* x : {&call_.q_NHK, &call_.bias, &call_.slope_H, &call_.sink_H,
                            &result_.out_NHU, &result_.lse_NH})
      saved_.emplace_back("attention", *x);
    q_dtype_ = inputs[0].dtype();
  }

  /// `dout` or `dlse` is empty where the loss does not use it.
  Tensors gradients(const Tensor& dout, const Tensor& dlse) const {
    for (const Saved& saved : saved_) (void)saved.tensor();
    pool_.state().notice_writes();
    const KvView kv = snapshot_.view();
    AttentionGradients out;
    Tensor dk, dv, dbias, dslope, dsink;
    if (needs_[1]) out.dk_pages = (dk = zeros_for_gradient(call_.k_pages)).mutable_data<void>();
    if (needs_[2]) out.dv_pages = (dv = zeros_for_gradient(call_.v_pages)).mutable_data<void>();
    if (needs_[3]) out.dbias = zeros_like(dbias, call_.bias);
    if (needs_[4]) out.dslope_H = zeros_like(dslope, call_.slope_H);
    if (needs_[5]) out.dsink_H = zeros_like(dsink, call_.sink_H);
    const bool no_dout = dout.rank() == 1;  // (that of no queries has three)
    attention_backward(out, no_dout ? zeros_like_out() : in(call_.q_NHK.dtype(), dout), dlse,
                       call_.q_NHK, call_.start_J, kv, call_.spec, result_);
    const DType pages = call_.kv.dtype;
    if (needs_[1]) dk = in(pages, std::move(dk));
    if (needs_[2]) dv = in(pages, std::move(dv));
    return {in(q_dtype_, std::move(out.dq_NHK)), dk, dv, dbias, dslope, dsink};
  }

 private:
  Tensor zeros_like_out() const {
    return Tensor::zeros(result_.out_NHU.shape(), result_.out_NHU.dtype());
  }
  static float* zeros_like(Tensor& to, const Tensor& x) {
    to = Tensor::zeros(x.shape(), DType::kF32);
    return to.mutable_data<float>();
  }

  Call call_;
  AttentionResult result_;
  KvPool pool_;
  KvSnapshot snapshot_;
  std::vector<bool> needs_;
  std::vector<Saved> saved_;
  DType q_dtype_;
};

}  // namespace

AttentionVars attention(const Var& q_NHK, const Tensor& start_J, const KvPool& pool,
                        const KvView& kv, const AttentionSpec& spec,
                        const AttentionBiases& biases) {
  Call call = call_of(q_NHK, start_J, pool, kv, spec, biases);
  AttentionResult result = quire::attention(call.q_NHK, call.start_J, call.kv, call.spec);
  const DType dtype = q_NHK.dtype();
  const Vars inputs = {q_NHK,       pool.k_pages_PZGK(), pool.v_pages_PZGU(),
                       biases.bias, biases.slope_H,      biases.sink_H};
  Tensor out = in(dtype, result.out_NHU), lse = result.lse_NH;
  if (!recording(std::span<const Var>(inputs))) return {Var(std::move(out)), Var(std::move(lse))};
  pool.state().notice_writes();
  pool.state().mark_seen(call.kv, start_J.size(0) - 1);
  const auto recorded =
      std::make_shared<const Recorded>(std::move(call), std::move(result), pool, inputs);
  const Vars results = record_once(
      "attention", {std::move(out), std::move(lse)}, inputs,
      [recorded](std::span<const Tensor> d) { return recorded->gradients(d[0], d[1]); });
  return {results[0], results[1]};
}

}  // namespace quire::grad

#include "quire/ops/moe/expert_weights.h"

#include "quire/ops/math/broadcast.h"

namespace quire {

ExpertWeights::ExpertWeights(const Tensor& weight_EDF) {
  check_floating("experts", "weight_EDF", weight_EDF);
  QUIRE_CHECK(weight_EDF.rank() == 3, "weight_EDF: rank is ", weight_EDF.rank(), ", expected 3");
  E_ = weight_EDF.size(0);
  D_ = weight_EDF.size(1);
  F_ = weight_EDF.size(2);
  const bool readable = weight_EDF.strides()[1] == 1 || weight_EDF.strides()[2] == 1;
  dense_EDF_ = readable ? weight_EDF : weight_EDF.contiguous_copy();
}

ExpertWeights::ExpertWeights(std::vector<Weight> weights) : packed_(std::move(weights)) {
  QUIRE_CHECK(!packed_.empty(), "experts: there are no weights, expected one for each expert");
  E_ = static_cast<std::int64_t>(packed_.size());
  D_ = packed_[0].columns();
  F_ = packed_[0].rows();
  for (const Weight& weight : packed_) {
    QUIRE_CHECK(weight.type() == packed_[0].type(), "experts: one weight is ",
                to_string(weight.type()), ", but another is ", to_string(packed_[0].type()));
    QUIRE_CHECK(weight.columns() == D_ && weight.rows() == F_, "experts: one weight is ",
                weight.rows(), " × ", weight.columns(), ", but another is ", F_, " × ", D_);
  }
}

ExpertWeights ExpertWeights::turned() const {
  if (!is_packed()) return ExpertWeights(dense_EDF_.transpose(1, 2));
  ExpertWeights out = *this;
  out.turned_ = !turned_;
  return out;
}

}  // namespace quire

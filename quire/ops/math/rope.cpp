#include "quire/ops/math/rope.h"

#include <cmath>
#include <map>
#include <mutex>
#include <numeric>

#include "quire/base/error.h"
#include "quire/ops/math/rope_kernel.h"
#include "quire/tensor/dims.h"

namespace quire {
namespace {

constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kPositions = std::int64_t{1} << 40;

// Each position has R/2 cosines, then R/2 sines.
std::vector<float> turns_of_block(const std::vector<double>& frequencies, double magnitude,
                                  std::int64_t first) {
  const std::size_t pairs = frequencies.size();
  std::vector<float> turns(static_cast<std::size_t>(kBlock) * 2 * pairs);
  for (std::size_t p = 0; p < static_cast<std::size_t>(kBlock); ++p) {
    const double position = static_cast<double>(first) + static_cast<double>(p);
    float* out = turns.data() + p * 2 * pairs;
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = position * frequencies[i];
      out[i] = static_cast<float>(magnitude * std::cos(angle));
      out[pairs + i] = static_cast<float>(magnitude * std::sin(angle));
    }
  }
  return turns;
}

}  // namespace

struct RopeTable::Impl {
  RopeSpec spec;
  std::vector<double> frequencies;
  double magnitude = 1;
  std::mutex mutex;
  std::map<std::int64_t, std::vector<float>> blocks;  // by position / kBlock; a block never moves

  // One pointer per position, good for the life of this.
  std::vector<const float*> turns(std::span<const std::int64_t> positions) {
    std::vector<const float*> out;
    out.reserve(positions.size());
    const std::lock_guard lock(mutex);
    std::int64_t held = -1;
    const float* block = nullptr;
    for (const std::int64_t position : positions) {
      const std::int64_t wanted = position / kBlock;
      if (wanted != held) {
        const auto [at, is_new] = blocks.try_emplace(wanted);
        if (is_new) at->second = turns_of_block(frequencies, magnitude, wanted * kBlock);
        block = at->second.data();
        held = wanted;
      }
      out.push_back(block + position % kBlock * 2 * static_cast<std::int64_t>(frequencies.size()));
    }
    return out;
  }
};

RopeTable::RopeTable(RopeSpec spec) : impl_(std::make_shared<Impl>()) {
  impl_->frequencies = rope_frequencies(spec);
  if (spec.scaling == RopeScaling::kYarn) {
    impl_->magnitude =
        spec.attention_factor > 0 ? spec.attention_factor : yarn_attention_factor(spec.factor);
  }
  impl_->spec = std::move(spec);
}

RopeTable::~RopeTable() = default;
RopeTable::RopeTable(const RopeTable&) = default;
RopeTable::RopeTable(RopeTable&&) noexcept = default;
RopeTable& RopeTable::operator=(const RopeTable&) = default;
RopeTable& RopeTable::operator=(RopeTable&&) noexcept = default;

const RopeSpec& RopeTable::spec() const { return impl_->spec; }

void RopeTable::apply(Tensor& x_NHK, std::span<const std::int64_t> positions, Turn turn) const {
  Dims dims = QUIRE_DIMS(x_NHK);
  dims.bind('N', static_cast<std::int64_t>(positions.size()), "positions");
  QUIRE_CHECK(x_NHK.dtype() == DType::kF32 || x_NHK.dtype() == DType::kF64, "x_NHK is ",
              to_string(x_NHK.dtype()), ", expected f32 or f64");
  const std::int64_t rotary = impl_->spec.rotary;
  QUIRE_CHECK(rotary <= dims['K'], "x_NHK: K is ", dims['K'], ", but ", rotary,
              " numbers of a head turn");
  for (const std::int64_t position : positions) {
    QUIRE_CHECK(position >= 0 && position < kPositions, "rope: position ", position,
                " is outside [0, 2^40)");
  }
  if (x_NHK.elements() == 0 || rotary == 0) return;
  const auto& strides = x_NHK.strides();
  QUIRE_CHECK(dims['K'] == 1 || strides[2] == 1, "x_NHK: the last dimension is not contiguous");
  QUIRE_CHECK((dims['N'] == 1 || strides[0] != 0) && (dims['H'] == 1 || strides[1] != 0),
              "x_NHK: an expanded tensor cannot be turned in place");
  const std::int64_t mate = impl_->spec.pairing == RopePairing::kInterleaved ? 1 : rotary / 2;
  const double m = impl_->magnitude;
  // A table's numbers carry m; what turns back by the inverse divides by it, so by m² here.
  const double factor = turn == Turn::kInverse ? 1 / (m * m) : 1;
  const double sign = turn == Turn::kForward ? 1 : -1;
  if (x_NHK.dtype() == DType::kF64) {
    kernel::rope_f64_cpu({x_NHK.mutable_data<double>(), strides[0], strides[1], positions.data(),
                          impl_->frequencies.data(), dims['N'], dims['H'], rotary / 2, mate,
                          m * factor, sign * m * factor});
    return;
  }
  const std::vector<const float*> turns = impl_->turns(positions);
  kernel::rope_cpu({.x_NHK = x_NHK.mutable_data<float>(),
                    .row_stride = strides[0],
                    .head_stride = strides[1],
                    .turns_N = turns.data(),
                    .N = dims['N'],
                    .H = dims['H'],
                    .pairs = rotary / 2,
                    .mate = mate,
                    .cosine_factor = static_cast<float>(factor),
                    .sine_factor = static_cast<float>(sign * factor)});
}

void RopeTable::apply(Tensor& x_NHK, std::span<const std::int64_t> positions) const {
  apply(x_NHK, positions, Turn::kForward);
}

void RopeTable::apply(Tensor& x_NHK, std::int64_t first) const {
  const Dims dims = QUIRE_DIMS(x_NHK);
  QUIRE_CHECK(first >= 0 && first < kPositions, "rope: position ", first, " is outside [0, 2^40)");
  std::vector<std::int64_t> positions(static_cast<std::size_t>(dims['N']));
  std::iota(positions.begin(), positions.end(), first);
  apply(x_NHK, positions);
}

Tensor RopeTable::turned(const Tensor& x_NHK, std::span<const std::int64_t> positions,
                         Turn turn) const {
  const bool is_half = x_NHK.dtype() == DType::kBF16 || x_NHK.dtype() == DType::kF16;
  QUIRE_CHECK(is_half || x_NHK.dtype() == DType::kF32 || x_NHK.dtype() == DType::kF64, "x_NHK is ",
              to_string(x_NHK.dtype()), ", expected f64, f32, bf16 or f16");
  Tensor out = x_NHK.to(is_half ? DType::kF32 : x_NHK.dtype());  // always a copy
  apply(out, positions, turn);
  return is_half ? out.to(x_NHK.dtype()) : out;
}

Tensor rope(const Tensor& x_NHK, const RopeTable& table, std::span<const std::int64_t> positions) {
  return table.turned(x_NHK, positions, RopeTable::Turn::kForward);
}

Tensor rope_backward(const Tensor& dout_NHK, const RopeTable& table,
                     std::span<const std::int64_t> positions) {
  return table.turned(dout_NHK, positions, RopeTable::Turn::kBackward);
}

Tensor rope_inverse(const Tensor& x_NHK, const RopeTable& table,
                    std::span<const std::int64_t> positions) {
  return table.turned(x_NHK, positions, RopeTable::Turn::kInverse);
}

std::vector<std::int64_t> packed_positions(const Tensor& start_J,
                                           std::span<const std::int64_t> first) {
  const Dims dims = QUIRE_DIMS(start_J);
  QUIRE_CHECK(start_J.dtype() == DType::kI32 && dims['J'] >= 1, "start_J is ",
              to_string(start_J.dtype()), " ", to_string(start_J.shape()),
              "; it must be i32 [B + 1]");
  const std::size_t B = static_cast<std::size_t>(dims['J'] - 1);
  QUIRE_CHECK(first.empty() || first.size() == B, "packed_positions: first has ",
              std::uint64_t{first.size()}, " numbers, but there are ", std::uint64_t{B},
              " sequences");
  const Tensor rows = start_J.contiguous_copy();
  const auto* start = rows.data<std::int32_t>();
  QUIRE_CHECK(start[0] == 0, "start_J begins with ", start[0], ", not with 0");
  std::vector<std::int64_t> positions;
  for (std::size_t b = 0; b < B; ++b) {
    QUIRE_CHECK(start[b + 1] >= start[b], "start_J falls from ", start[b], " to ", start[b + 1],
                " at ", std::uint64_t{b + 1});
    for (std::int64_t t = 0; t < start[b + 1] - start[b]; ++t)
      positions.push_back((first.empty() ? 0 : first[b]) + t);
  }
  return positions;
}

}  // namespace quire

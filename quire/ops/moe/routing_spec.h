#pragma once

#include <cstdint>

namespace quire {

/// How logits become the gates of a token's experts.
///
///   kTopKSoftmax   the C largest logits, softmax over those (Mixtral, gpt-oss, xma)
///   kSoftmaxTopK   softmax over all experts, the C largest (ScatterMoE, Qwen, DeepSeek-V2)
///   kSigmoid       σ of each logit; chosen by σ + bias, the gate is σ alone (DeepSeek-V3)
enum class GateScore : std::uint8_t { kTopKSoftmax, kSoftmaxTopK, kSigmoid };

/// Whether gates are divided by their sum.
enum class Renormalise : std::uint8_t { kNo, kYes };

/// What a group of experts is worth where the choice is limited to some groups: its best expert
/// (DeepSeek-V2) or its two best together (V3).
enum class GroupScore : std::uint8_t { kBest, kBestTwo };

}  // namespace quire

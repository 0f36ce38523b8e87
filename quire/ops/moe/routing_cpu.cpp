#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quire/ops/math/rows.h"
#include "quire/ops/moe/routing_kernel.h"

namespace quire::kernel {
namespace {

// Keeps a sum of sigmoids from being a divisor of zero.
constexpr double kSmallest = 1e-20;

bool better(double x, double than) { return x > than || (std::isnan(x) && !std::isnan(than)); }

/// The best `count` of [0, size) that are not taken, in order; of equals the lowest.
template <class Score>
void choose(std::int64_t size, std::int64_t count, std::vector<bool>& taken, const Score& score,
            std::int64_t* out) {
  for (std::int64_t c = 0; c < count; ++c) {
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < size; ++i) {
      if (taken[static_cast<std::size_t>(i)]) continue;
      if (best < 0 || better(score(i), score(best))) best = i;
    }
    taken[static_cast<std::size_t>(best)] = true;
    out[c] = best;
  }
}

double sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return (x < 0 ? e : 1) / (1 + e);
}

/// One token's numbers in f64: whoever computes them, they round to the same gates.
struct Token {
  std::vector<double> logit, score, choice;  // the score that gates are made of, and that chooses
  std::vector<bool> taken;
  std::vector<std::int64_t> groups;
};

template <class T>
void read_token(const Route& a, std::int64_t n, Token& token) {
  const T* from = static_cast<const T*>(a.logits) + n * a.E;
  token.logit.assign(from, from + a.E);
  token.score = token.logit;
  if (a.score == GateScore::kSigmoid) {
    for (double& value : token.score) value = sigmoid(value);
  } else if (a.score == GateScore::kSoftmaxTopK) {
    double largest = token.logit[0], sum = 0;
    for (const double x : token.logit) largest = better(x, largest) ? x : largest;
    for (double& value : token.score) sum += value = std::exp(value - largest);
    for (double& value : token.score) value /= sum;
  }
  // The order of the logits is that of their softmax, but without its roundings.
  token.choice = a.score == GateScore::kSigmoid ? token.score : token.logit;
  for (std::int64_t e = 0; e < a.E && a.bias != nullptr; ++e)
    token.choice[static_cast<std::size_t>(e)] += a.bias[e];
}

void keep_groups(const Route& a, Token& token) {
  token.taken.assign(static_cast<std::size_t>(a.E), false);
  if (a.groups == 1) return;
  const std::int64_t size = a.E / a.groups;
  std::vector<double> worth;
  for (std::int64_t g = 0; g < a.groups; ++g) {
    double best = -std::numeric_limits<double>::infinity(), second = best;
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
      const double x = token.choice[static_cast<std::size_t>(e)];
      if (better(x, best)) {
        second = best;
        best = x;
      } else if (better(x, second)) {
        second = x;
      }
    }
    worth.push_back(a.group_score == GroupScore::kBest ? best : best + second);
  }
  std::vector<bool> taken(static_cast<std::size_t>(a.groups));
  token.groups.resize(static_cast<std::size_t>(a.groups_kept));
  choose(
      a.groups, a.groups_kept, taken,
      [&](std::int64_t g) { return worth[static_cast<std::size_t>(g)]; }, token.groups.data());
  for (std::int64_t e = 0; e < a.E; ++e)
    token.taken[static_cast<std::size_t>(e)] = !taken[static_cast<std::size_t>(e / size)];
}

/// The gates of chosen experts before they are rounded.
void gates_of(const Route& a, const Token& token, const std::int64_t* experts, double* gates) {
  double sum = 0;
  if (a.score == GateScore::kTopKSoftmax) {
    double largest = token.logit[static_cast<std::size_t>(experts[0])];
    for (std::int64_t c = 1; c < a.C; ++c) {
      const double x = token.logit[static_cast<std::size_t>(experts[c])];
      largest = better(x, largest) ? x : largest;
    }
    for (std::int64_t c = 0; c < a.C; ++c)
      sum += gates[c] = std::exp(token.logit[static_cast<std::size_t>(experts[c])] - largest);
  } else {
    for (std::int64_t c = 0; c < a.C; ++c)
      sum += gates[c] = token.score[static_cast<std::size_t>(experts[c])];
    sum = a.renormalise ? sum + kSmallest : 1;
  }
  for (std::int64_t c = 0; c < a.C; ++c) gates[c] = gates[c] / sum * a.scale;
}

template <class T>
void route_token(const Route& a, std::int64_t n, Token& token, std::vector<double>& gates) {
  read_token<T>(a, n, token);
  keep_groups(a, token);
  std::int64_t* experts = a.experts + n * a.C;
  choose(
      a.E, a.C, token.taken,
      [&](std::int64_t e) { return token.choice[static_cast<std::size_t>(e)]; }, experts);
  gates_of(a, token, experts, gates.data());
  for (std::int64_t c = 0; c < a.C; ++c)
    static_cast<T*>(a.gates)[n * a.C + c] = static_cast<T>(gates[static_cast<std::size_t>(c)]);
}

/// Gradients of the chosen scores (or, for kTopKSoftmax, of the chosen logits) from those of the
/// gates: the backward of dividing by a sum.
template <class T>
std::vector<double> score_gradients(const RouteBackward& b, std::int64_t n, const Token& token) {
  const Route& a = b.route;
  const std::int64_t* experts = a.experts + n * a.C;
  std::vector<double> gates(static_cast<std::size_t>(a.C)), out(gates.size());
  gates_of(a, token, experts, gates.data());
  double mean = 0, sum = kSmallest;
  const T* dgates = static_cast<const T*>(b.dgates) + n * a.C;
  for (std::size_t c = 0; c < out.size(); ++c) {
    out[c] = static_cast<double>(dgates[c]) * a.scale;
    mean += a.scale == 0 ? 0 : out[c] * (gates[c] / a.scale);
    sum += token.score[static_cast<std::size_t>(experts[c])];
  }
  for (std::size_t c = 0; c < out.size(); ++c) {
    if (a.score == GateScore::kTopKSoftmax) {
      out[c] = a.scale == 0 ? 0 : gates[c] / a.scale * (out[c] - mean);
    } else if (a.renormalise) {
      out[c] = (out[c] - mean) / sum;
    }
  }
  return out;
}

template <class T>
void backward_token(const RouteBackward& b, std::int64_t n, Token& token) {
  const Route& a = b.route;
  read_token<T>(a, n, token);
  const std::vector<double> slopes = score_gradients<T>(b, n, token);
  std::vector<double> all(static_cast<std::size_t>(a.E));
  for (std::int64_t c = 0; c < a.C; ++c)
    all[static_cast<std::size_t>(a.experts[n * a.C + c])] += slopes[static_cast<std::size_t>(c)];
  if (a.score == GateScore::kSoftmaxTopK) {
    double mean = 0;
    for (std::size_t e = 0; e < all.size(); ++e) mean += token.score[e] * all[e];
    for (std::size_t e = 0; e < all.size(); ++e) all[e] = token.score[e] * (all[e] - mean);
  } else if (a.score == GateScore::kSigmoid) {
    for (std::size_t e = 0; e < all.size(); ++e) all[e] *= token.score[e] * (1 - token.score[e]);
  }
  T* out = static_cast<T*>(b.dlogits) + n * a.E;
  for (std::size_t e = 0; e < all.size(); ++e) out[e] = static_cast<T>(all[e]);
}

}  // namespace

void route_cpu(const Route& args) {
  for_rows(args.N, args.E * (args.C + 16), [&](std::int64_t begin, std::int64_t end) {
    Token token;
    std::vector<double> gates(static_cast<std::size_t>(args.C));
    for (std::int64_t n = begin; n < end; ++n) {
      if (args.dtype == DType::kF64) {
        route_token<double>(args, n, token, gates);
      } else {
        route_token<float>(args, n, token, gates);
      }
    }
  });
}

void route_backward_cpu(const RouteBackward& args) {
  for_rows(args.route.N, args.route.E * 16, [&](std::int64_t begin, std::int64_t end) {
    Token token;
    for (std::int64_t n = begin; n < end; ++n) {
      if (args.route.dtype == DType::kF64) {
        backward_token<double>(args, n, token);
      } else {
        backward_token<float>(args, n, token);
      }
    }
  });
}

}  // namespace quire::kernel

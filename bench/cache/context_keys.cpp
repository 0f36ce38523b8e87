#include "bench/cache/context_keys.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/thread_pool.h"
#include "quire/io/safetensors.h"

namespace quire::bench {
namespace {

constexpr std::int64_t kSinks = 16;
constexpr std::int64_t kRun = 24;         // tokens of a topic
constexpr std::int64_t kTopicEach = 256;  // tokens in the context for each topic

/// Sums of uniform numbers: fast, and near enough to normal ones.
class Noise {
 public:
  explicit Noise(std::uint64_t seed) : state_(seed * 2 + 1) {}
  float operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const auto a = static_cast<std::uint32_t>(state_ >> 32);
    return (static_cast<float>(a & 0xffff) + static_cast<float>(a >> 16) - 65535.0f) / 26755.0f;
  }

 private:
  std::uint64_t state_;
};

class MadeUp : public ContextKeys {
 public:
  MadeUp(const Heads& heads, std::int64_t tokens, bool clustered)
      : heads_(heads),
        topics_(std::max<std::int64_t>(16, tokens / kTopicEach)),
        clustered_(clustered),
        noise_(1),
        topic_(static_cast<std::size_t>(topics_ * heads.G * heads.K)) {
    for (float& x : topic_) x = noise_();
  }
  Tensor keys(std::int64_t first, std::int64_t N) override {
    Tensor out = Tensor::empty({N, heads_.G, heads_.K}, DType::kF32);
    float* to = out.mutable_data<float>();
    for (std::int64_t n = first; n < first + N; ++n) {
      const float* topic = of(n / kRun * 2654435761 % topics_);
      for (std::int64_t i = 0; i < heads_.G * heads_.K; ++i)
        *to++ = clustered_ ? topic[i] + 0.7f * noise_() : noise_();
    }
    return out;
  }
  Tensor values(std::int64_t, std::int64_t N) override {
    Tensor out = Tensor::empty({N, heads_.G, heads_.K}, DType::kF32);
    float* to = out.mutable_data<float>();
    for (std::int64_t i = 0; i < out.elements(); ++i) to[i] = noise_();
    return out;
  }
  Tensor query(std::int64_t n) override {
    Tensor out = Tensor::empty({1, heads_.H, heads_.K}, DType::kF32);
    float* to = out.mutable_data<float>();
    const float* topic = of(n * 7919 % topics_);
    for (std::int64_t h = 0; h < heads_.H; ++h)
      for (std::int64_t i = 0; i < heads_.K; ++i)
        *to++ =
            0.7f * noise_() + (clustered_ ? topic[h / (heads_.H / heads_.G) * heads_.K + i] : 0.0f);
    return out;
  }

 private:
  const float* of(std::int64_t topic) const { return topic_.data() + topic * heads_.G * heads_.K; }
  Heads heads_;
  std::int64_t topics_;
  bool clustered_;
  Noise noise_;
  std::vector<float> topic_;
};

/// One head of the model in one text: rows [S, n].
struct Source {
  std::int64_t layer, head;
};

struct Text {
  std::int64_t S = 0;
  std::map<std::int64_t, Tensor> q_SHK, k_SGK, v_SGU;  // by layer
};

}  // namespace

struct TextKeys::Impl {
  Heads heads;
  std::int64_t half = 0, H = 0, G = 0;  // of the model
  std::vector<double> frequency;        // of a pair of numbers
  std::vector<Text> texts;
  std::vector<Source> sources;  // two for each kv head, i and i + G

  std::int64_t tokens() const {
    std::int64_t out = 0;
    for (const Text& text : texts) out += text.S;
    return out;
  }
};

namespace {

/// Where a token of the context was read.
struct Origin {
  std::size_t text = 0;
  std::int64_t at = 0;
};

class Continued : public ContextKeys {
 public:
  Continued(const TextKeys::Impl& from, std::int64_t tokens, std::int64_t steps)
      : from_(from), tokens_(tokens) {
    // Backwards from the last token that follows.
    std::size_t text = from.texts.size() - 1;
    std::int64_t at = from.texts[text].S - 1;
    origins_.resize(static_cast<std::size_t>(tokens + steps));
    for (auto i = origins_.rbegin(); i != origins_.rend(); ++i) {
      *i = {text, at};
      if (--at >= kSinks) continue;
      text = (text == 0 ? from.texts.size() : text) - 1;
      at = from.texts[text].S - 1;
    }
    for (std::size_t i = 0; i < std::min(static_cast<std::size_t>(kSinks), origins_.size()); ++i)
      origins_[i] = {0, static_cast<std::int64_t>(i)};
  }
  Tensor keys(std::int64_t first, std::int64_t N) override {
    return rows(first, N, from_.heads.G, true, [&](const Text& text, std::int64_t g, int side) {
      const Source& source = of(g, side);
      return std::pair(text.k_SGK.at(source.layer), source.head);
    });
  }
  Tensor values(std::int64_t first, std::int64_t N) override {
    return rows(first, N, from_.heads.G, false, [&](const Text& text, std::int64_t g, int side) {
      const Source& source = of(g, side);
      return std::pair(text.v_SGU.at(source.layer), source.head);
    });
  }
  Tensor query(std::int64_t n) override {
    const std::int64_t R = from_.heads.H / from_.heads.G, own = from_.H / from_.G;
    return rows(tokens_ + n, 1, from_.heads.H, true,
                [&](const Text& text, std::int64_t h, int side) {
                  const Source& source = of(h / R, side);
                  // (0, 0), (1, 1), …, then (0, 1), (1, 2), …
                  const std::int64_t r = h % R;
                  const std::int64_t one = side == 0 ? r % own : (r + r / own) % own;
                  return std::pair(text.q_SHK.at(source.layer), source.head * own + one);
                });
  }

 private:
  const Source& of(std::int64_t g, int side) const {
    return from_.sources[static_cast<std::size_t>(g + side * from_.heads.G)];
  }

  /// find(text, head, side) gives the tensor and the head in it of which a half is made.
  template <class F>
  Tensor rows(std::int64_t first, std::int64_t N, std::int64_t heads, bool turned, F&& find) const {
    const std::int64_t half = from_.half;
    Tensor out = Tensor::empty({N, heads, 2 * half}, DType::kF32);
    float* to = out.mutable_data<float>();
    thread_pool().run(heads, [&](std::int64_t h) {
      std::vector<std::pair<double, double>> turn(from_.frequency.size());
      std::int64_t turned_by = -1;
      for (std::int64_t n = 0; n < N; ++n) {
        const Origin& origin = origins_[static_cast<std::size_t>(first + n)];
        const std::int64_t on = first + n - origin.at;
        if (turned && on != turned_by) {
          for (std::size_t i = 0; i < turn.size(); ++i) {
            const double angle = static_cast<double>(on) * from_.frequency[i];
            turn[i] = {std::cos(angle), std::sin(angle)};
          }
          turned_by = on;
        }
        for (int side = 0; side < 2; ++side) {
          const auto [rows, head] = find(from_.texts[origin.text], h, side);
          const float* x = rows.template data<float>() + (origin.at * rows.size(1) + head) * half;
          float* y = to + (n * heads + h) * 2 * half + side * half;
          if (!turned) {
            std::copy_n(x, half, y);
            continue;
          }
          for (std::size_t i = 0; i < turn.size(); ++i) {
            const double a = double{x[2 * i]}, b = double{x[2 * i + 1]};
            y[2 * i] = static_cast<float>(a * turn[i].first - b * turn[i].second);
            y[2 * i + 1] = static_cast<float>(a * turn[i].second + b * turn[i].first);
          }
        }
      }
    });
    return out;
  }

  const TextKeys::Impl& from_;
  std::int64_t tokens_;
  std::vector<Origin> origins_;
};

Text read_text(const std::string& path) {
  const io::SafetensorsFile file(path);
  Text out;
  for (const io::SafetensorsFile::Entry& entry : file.entries()) {
    if (entry.name.size() < 3 || entry.name[1] != '.') continue;
    auto& to = entry.name[0] == 'q' ? out.q_SHK : entry.name[0] == 'k' ? out.k_SGK : out.v_SGU;
    to.emplace(std::stoll(entry.name.substr(2)), file.read(entry.name));
  }
  QUIRE_CHECK(!out.q_SHK.empty() && out.q_SHK.size() == out.k_SGK.size() &&
                  out.k_SGK.size() == out.v_SGU.size(),
              path, " is no dump of queries, keys and values");
  out.S = out.q_SHK.begin()->second.size(0);
  return out;
}

}  // namespace

TextKeys::TextKeys(const std::vector<std::string>& files, const Heads& heads, double theta) {
  auto impl = std::make_unique<Impl>();
  QUIRE_CHECK(!files.empty(), "there is no dump");
  impl->heads = heads;
  for (const std::string& file : files) impl->texts.push_back(read_text(file));
  const Text& first = impl->texts.front();
  const Tensor &q = first.q_SHK.begin()->second, &k = first.k_SGK.begin()->second;
  impl->H = q.size(1);
  impl->G = k.size(1);
  impl->half = k.size(2);
  QUIRE_CHECK(2 * impl->half == heads.K, "heads of ", heads.K, " are made of two halves, but those",
              " of the dump have ", impl->half);
  for (const auto& [layer, keys] : first.k_SGK)
    for (std::int64_t g = 0; g < impl->G; ++g) impl->sources.push_back({layer, g});
  QUIRE_CHECK(std::ssize(impl->sources) >= 2 * heads.G, "the dump has ", impl->sources.size(),
              " kv heads; ", heads.G, " of twice their size take ", 2 * heads.G);
  for (std::size_t i = 0; i < files.size(); ++i) {
    const Text& text = impl->texts[i];
    QUIRE_CHECK(text.S > kSinks, files[i], " has ", text.S, " tokens");
    for (const auto& [layer, keys] : first.k_SGK)
      QUIRE_CHECK(text.q_SHK.contains(layer) && text.k_SGK.contains(layer) &&
                      text.v_SGU.contains(layer) &&
                      text.k_SGK.at(layer).shape() == Shape({text.S, impl->G, impl->half}) &&
                      text.v_SGU.at(layer).shape() == Shape({text.S, impl->G, impl->half}) &&
                      text.q_SHK.at(layer).shape() == Shape({text.S, impl->H, impl->half}),
                  files[i], " and ", files[0], " differ in layer ", layer);
  }
  for (std::int64_t i = 0; i < impl->half / 2; ++i)
    impl->frequency.push_back(
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(impl->half)));
  impl_ = std::move(impl);
}

TextKeys::~TextKeys() = default;

std::int64_t TextKeys::tokens() const { return impl_->tokens(); }

std::unique_ptr<ContextKeys> TextKeys::context(std::int64_t tokens, std::int64_t steps) const {
  QUIRE_CHECK(steps < impl_->texts.back().S - kSinks, "the last text is shorter than ", steps,
              " steps");
  return std::make_unique<Continued>(*impl_, tokens, steps);
}

std::unique_ptr<ContextKeys> random_keys(const Heads& heads, std::int64_t tokens) {
  return std::make_unique<MadeUp>(heads, tokens, false);
}

std::unique_ptr<ContextKeys> clustered_keys(const Heads& heads, std::int64_t tokens) {
  return std::make_unique<MadeUp>(heads, tokens, true);
}

}  // namespace quire::bench

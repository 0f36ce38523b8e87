#include "cli/eval_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "quire/base/error.h"
#include "quire/base/file_ops.h"
#include "quire/io/safetensors.h"

namespace quire::cli {

void write_text(const std::string& path, const std::string& text) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  file_ops().write_whole(path, {&bytes, 1});
}

void dump_qkv(const std::string& path, const eval::Reading& reading,
              const std::optional<std::vector<std::int64_t>>& named) {
  const eval::RecordingCache& recording = *reading.recording;
  const std::int64_t last = recording.layers() - 1, S = recording.length();
  std::vector<std::int64_t> layers = named.value_or(std::vector<std::int64_t>{0, last / 2, last});
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  std::vector<std::pair<std::string, Tensor>> tensors{{"ids", Tensor::of(recording.ids(), {S})}};
  for (const std::int64_t layer : layers) {
    tensors.emplace_back(fmt::format("q.{}", layer), recording.q_NHK(layer, 0, S));
    tensors.emplace_back(fmt::format("k.{}", layer), recording.k_NGK(layer, 0, S));
    tensors.emplace_back(fmt::format("v.{}", layer), recording.v_NGU(layer, 0, S));
  }
  io::write_safetensors(path, tensors,
                        {{"document", fmt::format("{}", reading.document)},
                         {"rope", "queries and keys are turned to their positions"}});
}

}  // namespace quire::cli

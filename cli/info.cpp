// quire info: what a model file holds, and the memory it will take. Reads the header only.

#include <fmt/format.h>

#include <map>
#include <type_traits>

#include "cli/commands.h"
#include "cli/common.h"
#include "cli/failure.h"
#include "cli/figures.h"
#include "cli/model_name.h"
#include "cli/output.h"

namespace quire::cli {
namespace {

constexpr std::size_t kLongestText = 60;  // of a metadata value in the table

/// Arrays as the number of their elements: a vocabulary is no metadata to look at.
Json to_json(const io::GgufValue& value) {
  return std::visit(
      [](const auto& held) -> Json {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
          return Json(held);
        } else {
          Json array;
          array["elements"] = static_cast<std::int64_t>(held.size());
          return array;
        }
      },
      value);
}

Json tensors_json(const io::GgufFile& gguf) {
  Json::Array out;
  for (const io::GgufTensor& tensor : gguf.tensors()) {
    Json entry;
    entry["name"] = tensor.name;
    entry["type"] = io::gguf_type_name(tensor.type);
    entry["shape"] = Json::Array(tensor.shape.begin(), tensor.shape.end());
    entry["bytes"] = tensor.bytes;
    out.push_back(std::move(entry));
  }
  return out;
}

Json tokenizer_json(const model::ModelFile& file) {
  const text::TokenizerSpec spec = file.tokenizer_spec();
  Json out;
  out["model"] = spec.model;
  out["pre"] = spec.pre;
  out["tokens"] = static_cast<std::int64_t>(spec.tokens.size());
  out["merges"] = static_cast<std::int64_t>(spec.merges.size());
  out["bos"] = spec.bos >= 0 ? Json(std::int64_t{spec.bos}) : Json();
  out["eos"] = spec.eos >= 0 ? Json(std::int64_t{spec.eos}) : Json();
  out["add_bos"] = spec.add_bos;
  out["chat_template"] = !file.chat_template().empty();
  return out;
}

Json plan_json(const model::MemoryPlan& plan, std::int64_t context, DType kv) {
  Json out;
  out["weights"] = plan.weights;
  out["cache_per_token"] = plan.cache_per_token;
  out["cache"] = plan.cache;
  out["work"] = plan.work;
  out["total"] = plan.total;
  out["available"] = plan.available;
  out["context"] = context;
  out["kv"] = kv_name(kv);
  return out;
}

Json to_json(const model::ModelFile& file, std::int64_t context, DType kv) {
  Json metadata{Json::Object()};
  for (const auto& [key, value] : file.gguf().metadata()) metadata[key] = to_json(value);
  Json out;
  out["architecture"] = file.config().architecture;
  out["name"] = file.config().name;
  out["file"] = file.path();
  out["parameters"] = file.parameters();
  out["context"] = file.config().context;
  out["tensors"] = tensors_json(file.gguf());
  out["tokenizer"] = tokenizer_json(file);
  out["metadata"] = std::move(metadata);
  out["plan"] = plan_json(file.plan(context, kv), context, kv);
  return out;
}

std::string shown(const io::GgufValue& value) {
  const Json json = to_json(value);
  if (const Json* elements = json.find("elements")) {
    return fmt::format("{} elements", grouped(elements->as_int()));
  }
  std::string text = harmless(json.is_string() ? json.as_string() : json.dump());
  if (text.size() > kLongestText) {
    std::size_t end = kLongestText;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end) + "…";
  }
  return text;
}

std::string tensors_text(const io::GgufFile& gguf, bool each) {
  std::string out;
  struct Sum {
    std::int64_t count = 0, bytes = 0;
  };
  std::map<std::string, Sum> sums;
  for (const io::GgufTensor& tensor : gguf.tensors()) {
    const std::string type = io::gguf_type_name(tensor.type);
    Sum& sum = sums[type];
    ++sum.count;
    sum.bytes += static_cast<std::int64_t>(tensor.bytes);
    if (!each) continue;
    std::string shape;
    for (const std::int64_t size : tensor.shape) {
      shape += (shape.empty() ? "" : " × ") + std::to_string(size);
    }
    out += fmt::format("  {:<28} {:<6} {:<14} {:>10}\n", harmless(tensor.name), type, shape,
                       bytes_text(static_cast<std::int64_t>(tensor.bytes)));
  }
  for (const auto& [type, sum] : sums) {
    out += fmt::format("  {:<6} {:>5} tensors {:>12}\n", type, sum.count, bytes_text(sum.bytes));
  }
  return out;
}

std::string plan_text(const model::MemoryPlan& plan, std::int64_t context, std::int64_t most,
                      DType kv) {
  const char* beyond = context > most ? " (more than the model's)" : "";
  std::string out = fmt::format("\nmemory for {} tokens of context{}, cache in {}\n",
                                grouped(context), beyond, kv_name(kv));
  const auto line = [&out](const char* name, std::int64_t bytes, const std::string& more) {
    out += fmt::format("  {:<10}{:>12}{}\n", name, bytes_text(bytes), more);
  };
  line("weights", plan.weights, "");
  line("cache", plan.cache, fmt::format("   {} a token", bytes_text(plan.cache_per_token)));
  line("work", plan.work, "");
  line("total", plan.total, "");
  line("available", plan.available,
       plan.available > 0 && plan.total > plan.available ? "   too little" : "");
  return out;
}

}  // namespace

int info(Arguments arguments) {
  Common common;
  std::optional<std::string> name;
  Options options("info", "MODEL", "What a model file holds, and the memory it will take.");
  options.argument("MODEL", name, "A .gguf file or the name smollm2");
  options.group("Plan");
  add_cache(options, common);
  options.choice("--mode", common.mode, {"exact", "fast"}, "Decides the cache's type [fast]");
  options.group("Output");
  options.flag("--json", common.json, "Print one JSON object (docs/json.md)");
  options.flag("--quiet", common.quiet, "Accepted; there is nothing to silence");
  options.flag("--verbose", common.verbose, "A line for each tensor");
  if (!options.parse(arguments)) return kOk;
  const DType kv = kv_type(common);
  const auto file = open_model(options.need(name, "MODEL"));
  const std::int64_t context = common.context.value_or(file->config().context);
  if (common.json) {
    print_json(to_json(*file, context, kv));
    return kOk;
  }
  const model::ModelConfig& c = file->config();
  std::string out = fmt::format("{}\n{} {}, {} parameters, context {}\n", harmless(file->path()),
                                harmless(c.name), c.architecture, grouped(file->parameters()),
                                grouped(c.context));
  out += fmt::format(
      "{} layers, width {}, {} query heads, {} key heads of {}, hidden {}, vocabulary {}\n", c.L,
      c.D, c.H, c.G, c.K, c.F, grouped(c.V));
  out += "\nmetadata\n";
  for (const auto& [key, value] : file->gguf().metadata()) {
    out += fmt::format("  {:<42} {}\n", harmless(key), shown(value));
  }
  out += "\ntensors\n" + tensors_text(file->gguf(), common.verbose);
  print(out + plan_text(file->plan(context, kv), context, c.context, kv));
  return kOk;
}

}  // namespace quire::cli

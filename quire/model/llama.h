#pragma once

#include <memory>

#include "quire/io/gguf.h"
#include "quire/model/model.h"

namespace quire::model {

/// The llama architecture: Llama 1 to 3, SmolLM, Mistral without a window; not its
/// mixture-of-experts variants. Reads the sizes, and checks every tensor's name, shape and type.
/// Throws FormatError.
ModelConfig read_llama_config(const io::GgufFile& gguf);

/// Throws FormatError, IoError, OutOfMemory.
std::unique_ptr<Model> load_llama(std::shared_ptr<const ModelFile> file,
                                  const LoadOptions& options);

}  // namespace quire::model

#pragma once

#include <string>

#include "quire/model/model.h"

namespace quire::model {

/// What a saved cache was computed by: 128 bits over every byte of the model's file, and the mode.
/// Two files of the same weights in other types, or one with a single byte changed, have another
/// identity. Reads the whole file. Throws IoError; FormatError when it is shorter than it was.
std::string model_identity(const ModelFile& file, Mode mode);

}  // namespace quire::model

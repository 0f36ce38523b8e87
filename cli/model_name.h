#pragma once

#include <memory>
#include <string>

#include "quire/model/model.h"

namespace quire::cli {

/// The file that MODEL means: a known name stands for a file in
/// ${XDG_CACHE_HOME:-~/.cache}/quire/models, anything else is a path.
std::string model_path(const std::string& name);

/// ${XDG_CACHE_HOME:-~/.cache}/quire/caches
std::string saved_caches_folder();
/// ${XDG_CACHE_HOME:-~/.cache}/quire/tier: where --cache-ram without --cache-disk puts the rest.
std::string tier_folder();
/// The file that the name of a saved cache means: a name without a slash is in that folder. Throws
/// ArgumentError for a name that no file there may have.
std::string saved_cache_path(const std::string& name);

/// Opens MODEL. Throws FormatError for everything that is no supported model, an absent file too.
std::shared_ptr<const model::ModelFile> open_model(const std::string& name);

}  // namespace quire::cli

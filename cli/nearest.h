#pragma once

#include <span>
#include <string>
#include <string_view>

namespace quire::cli {

/// The word that someone who typed `typed` most likely meant: one that it begins, else the one with
/// the fewest edits (insert, delete, replace, swap two neighbours). Empty when nothing is near.
std::string nearest(std::string_view typed, std::span<const std::string> words);

}  // namespace quire::cli

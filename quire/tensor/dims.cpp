#include "quire/tensor/dims.h"

#include "quire/base/error.h"

namespace quire {
namespace {

std::size_t slot(char letter, std::string_view name) {
  QUIRE_CHECK(letter >= 'A' && letter <= 'Z', name, ": '", letter, "' is not a letter from A to Z");
  return static_cast<std::size_t>(letter - 'A');
}

}  // namespace

Dims::Dims(std::initializer_list<Named> tensors) {
  size_.fill(-1);
  for (const Named& named : tensors) {
    const std::size_t underscore = named.name.rfind('_');
    QUIRE_CHECK(underscore != std::string_view::npos, named.name,
                ": the name ends in no letters of a shape, as src_ND does");
    const std::string_view letters = named.name.substr(underscore + 1);
    QUIRE_CHECK(static_cast<std::size_t>(named.tensor->rank()) == letters.size(), named.name,
                ": rank is ", named.tensor->rank(), ", expected ", std::uint64_t{letters.size()});
    for (std::size_t i = 0; i < letters.size(); ++i) {
      bind(letters[i], named.tensor->shape()[i], named.name);
    }
  }
}

std::int64_t Dims::operator[](char letter) const {
  const std::size_t i = slot(letter, "Dims");
  QUIRE_CHECK(size_[i] >= 0, "no tensor has the letter ", letter);
  return size_[i];
}

void Dims::bind(char letter, std::int64_t size, std::string_view name) {
  const std::size_t i = slot(letter, name);
  QUIRE_CHECK(size >= 0, name, ": ", letter, " is ", size, ", which is negative");
  if (size_[i] < 0) {
    size_[i] = size;
    from_[i] = name;
  }
  QUIRE_CHECK(size_[i] == size, from_[i], ": ", letter, " is ", size_[i], ", but ", name, " has ",
              letter, " = ", size);
}

}  // namespace quire

#pragma once

#include <string>

#include "quire/base/error.h"

namespace quire::test {

/// What the Failure says that `call` throws; a text without numbers when it throws none.
template <class Failure = ArgumentError, class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Failure& e) {
    return e.what();
  }
  return "nothing of this kind was thrown";
}

}  // namespace quire::test

#include <stdexcept>

#include "quire/base/json.h"
#include "tests/support/fuzz.h"

namespace quire::test {

std::vector<std::string> fuzz_seeds() {
  return {R"({"text": "a \u00e9\n", "ids": [1, -2, 3.5e-7], "more": {"deep": [[[null, true]]]}})",
          "[" + std::string(30, '[') + std::string(30, ']') + "]", R"("\ud83d\ude00")",
          "18446744073709551615"};
}

bool fuzz_one(std::string_view input) {
  JsonLimits limits;
  limits.bytes = 1 << 16;
  limits.values = 1000;
  const Json value = Json::parse(input, "fuzz", limits);
  // What was accepted can be written, and reads back as the same text.
  const std::string text = value.dump();
  if (Json::parse(text, "again").dump() != text) throw std::logic_error("dump does not round-trip");
  return true;
}

}  // namespace quire::test

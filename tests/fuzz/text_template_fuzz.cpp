// Any bytes as a template (before the first NUL) and as the variables (after it): an error or a
// text, never more.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quire/base/error.h"
#include "quire/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  const std::string_view variables = end == std::string_view::npos
                                         ? R"({"messages": [{"role": "user", "content": "x"}]})"
                                         : input.substr(end + 1);
  quire::text::TemplateLimits limits;
  limits.steps = 20'000;
  limits.output_bytes = 1 << 16;
  try {
    const quire::text::ChatTemplate chat{std::string(input.substr(0, end)), limits};
    quire::text::to_text(chat.render(quire::Json::parse(variables, "fuzz")));
  } catch (const quire::FormatError&) {
  }
  return 0;
}

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "quire/base/json.h"
#include "quire/text/chat_template.h"
#include "tests/support/fuzz.h"

namespace quire::test {

std::vector<std::string> fuzz_seeds() {
  return {
      "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
      "{%- set first = messages[0].content | trim -%}\n{%- if first is defined and not first == '' "
      "%}{{ bos_token ~ first }}{% else %}{{ 'none' }}{% endif %}",
      "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ m.content }}{% endfor %}",
  };
}

bool fuzz_one(std::string_view input) {
  static const Json variables = Json::parse(
      R"({"messages": [{"role": "system", "content": "Be brief."},
          {"role": "user", "content": "<|im_end|> é {{ 1 }}"}],
          "add_generation_prompt": true, "bos_token": "<s>"})",
      "fuzz");
  text::TemplateLimits limits;
  limits.steps = 20'000;
  limits.output_bytes = 1 << 16;
  const text::ChatTemplate chat_template{std::string(input), limits};
  std::size_t bytes = 0;
  for (const text::Piece& piece : chat_template.render(variables)) bytes += piece.text.size();
  if (bytes > limits.output_bytes) throw std::logic_error("the output is over its limit");
  return true;
}

}  // namespace quire::test

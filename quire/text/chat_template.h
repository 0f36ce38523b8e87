#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/json.h"
#include "quire/text/tokenizer.h"

namespace quire::text {

/// Bounds on what a template may do; each ends in FormatError.
struct TemplateLimits {
  std::size_t source_bytes = 1 << 20;
  int depth = 128;  // of nesting, in source and in calls
  std::int64_t steps = 1'000'000;
  std::size_t output_bytes = 16 << 20;  // of the output and of any one string
};

/// A chat template in the Jinja dialect of Hugging Face (trim_blocks, lstrip_blocks). Strings carry
/// their origin: what the template wrote is kTemplate, what came in through a variable is kData,
/// through every operation.
class ChatTemplate {
 public:
  /// Parses. Throws FormatError with line and column for syntax it does not know.
  explicit ChatTemplate(std::string source, TemplateLimits limits = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders with these variables (an object: messages, add_generation_prompt, bos_token, …).
  /// Strings named in bos_token and eos_token count as the template's own. Throws FormatError: a
  /// limit, an undefined operation, raise_exception.
  std::vector<Piece> render(const Json& variables) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The pieces' text, one after another.
std::string to_text(const std::vector<Piece>& pieces);

}  // namespace quire::text

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quire/base/json.h"
#include "quire/model/model.h"
#include "quire/text/chat_template.h"
#include "quire/text/tokenizer.h"

namespace quire::cli {

/// Documents and what is asked about them.
struct Document {
  std::vector<std::string> files;  // their texts
  std::string prompt;
};

/// Each file's text, a blank line after each, then the prompt; a cut before and after each file's
/// text, so that it always gives the same ids. All of it counts as written by hand: special tokens
/// are recognised.
std::vector<text::Piece> raw_pieces(const Document& document);

/// One user message that holds the same text, through the chat template; what the files and the
/// prompt hold is data. `system` may be empty. Throws FormatError when the template fails.
std::vector<text::Piece> chat_pieces(const Document& document, const std::string& system,
                                     const text::ChatTemplate& chat_template,
                                     const text::TokenizerSpec& spec);

/// How many of the pieces come before the text behind the last file: before the last cut; 0 where a
/// template took the cuts away.
std::size_t pieces_of_files(const std::vector<text::Piece>& pieces);

/// {"role": role, "content": content}
Json message(const std::string& role, const std::string& content);

/// The variables that a template gets from us: messages, add_generation_prompt, bos_token,
/// eos_token.
Json template_variables(Json messages, const text::TokenizerSpec& spec);

/// Adds "bos_token" and "eos_token" where `variables` has none and the tokenizer has them.
void add_special_tokens(Json& variables, const text::TokenizerSpec& spec);

/// The ids of the pieces, with the BOS in front when the tokenizer wants it and it is not there
/// yet.
std::vector<std::int32_t> encode(const text::Tokenizer& tokenizer,
                                 const std::vector<text::Piece>& pieces);

/// The model's chat template. Throws ArgumentError with `advice` when it has none; FormatError.
text::ChatTemplate chat_template_of(const model::ModelFile& file, const std::string& advice);

}  // namespace quire::cli

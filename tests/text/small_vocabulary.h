#pragma once

#include <string>
#include <vector>

#include "quire/text/byte_alphabet.h"
#include "quire/text/tokenizer.h"

namespace quire::test {

/// A vocabulary small enough to work out by hand: ids 0 to 255 are the bytes, then the merges in
/// order, then the special tokens <s> (control), <|im_start|>, <|im_end|> (control), <|im_end|>>
/// (control) and <user> (user defined).
inline text::TokenizerSpec small_vocabulary() {
  text::TokenizerSpec spec;
  spec.source = "small.gguf";
  spec.model = "gpt2";
  spec.pre = "smollm";
  for (unsigned byte = 0; byte < 256; ++byte) {
    spec.tokens.push_back(text::token_of_byte(static_cast<unsigned char>(byte)));
  }
  for (const char* merge :
       {"h e", "l l", "he ll", "hell o", "Ġ w", "a a", "aa aa", "Ġ Ġ", "ĠĠ ĠĠ", "1 2"}) {
    std::string both = merge;
    both.erase(both.find(' '), 1);
    spec.merges.emplace_back(merge);
    spec.tokens.push_back(both);
  }
  spec.types.assign(spec.tokens.size(), 1);
  for (const char* special : {"<s>", "<|im_start|>", "<|im_end|>", "<|im_end|>>", "<user>"}) {
    spec.tokens.emplace_back(special);
    spec.types.push_back(3);
  }
  spec.types.back() = 4;
  spec.bos = 266;
  spec.eos = 268;
  return spec;
}

enum SmallId : std::int32_t {
  kHe = 256,
  kLl,
  kHell,
  kHello,
  kSpaceW,
  kAa,
  kAaaa,
  kTwoSpaces,
  kFourSpaces,
  k12,
  kBos,
  kImStart,
  kImEnd,
  kImEndLonger,
  kUser
};

}  // namespace quire::test

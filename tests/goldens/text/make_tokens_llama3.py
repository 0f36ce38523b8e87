"""Token ids of many strings by the Hugging Face `tokenizers` library, for the tiny model with Llama 3's pre-tokenizer.

usage: make_tokens_llama3.py STRINGS.json TOKENIZER.json OUT.jsonl     STRINGS.json as for make_tokens.py
"""
import json
import sys

from tokenizers import Tokenizer

strings, tokenizer, out = sys.argv[1:4]
cases = json.load(open(strings))
items = [(t, None) for t in cases["text"]] + [(bytes.fromhex(h).decode("utf-8", "replace"), h) for h in cases["hex"]]
hf = Tokenizer.from_file(tokenizer)
with open(out, "w") as f:
    for text, raw in items:
        ids = hf.encode(text, add_special_tokens=False).ids
        f.write(json.dumps({"text": text, **({"hex": raw} if raw else {}), "ids": ids}) + "\n")

"""Small templates rendered by jinja2 the way Hugging Face transformers renders them.

usage: make_jinja.py CASES.txt OUT.jsonl
CASES.txt: one template a line, written as a JSON string; lines that begin with "#" say what follows. Each output line: template, and
"expected" or "error". All are rendered with the same variables, which stand in every line's "variables" once, in the first line of OUT.
"""
import json
import sys

from hf_jinja import environment

VARIABLES = {
    "s": "Hello World", "u": "Grüße ΟΔΟΣ ﬁ İß", "e": "", "w": "  \t pad \n ", "n": 7, "f": 2.5, "t": True, "no": False, "z": None,
    "l": [3, 1, 2], "names": ["bob", "Alice", "carl"], "d": {"a": 1, "b": [1, {"c": "x"}], "A": "q"},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2, "o": {"p": "deep"}}, {"k": "x", "v": 3}], "q": "it's \"quoted\" \\ \n\t\u0001\u00a0é🙂",
}

env = environment()
with open(sys.argv[2], "w") as out:
    out.write(json.dumps({"variables": VARIABLES}, ensure_ascii=False) + "\n")
    for line in open(sys.argv[1]):
        if line.startswith("#") or not line.strip():
            continue
        row = {"template": json.loads(line)}
        try:
            row["expected"] = env.from_string(row["template"]).render(**VARIABLES)
        except Exception as error:
            row["error"] = str(error)
        out.write(json.dumps(row, ensure_ascii=False) + "\n")

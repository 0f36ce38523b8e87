#!/usr/bin/env python3
"""Checks that public headers document what they declare, and that links and file paths in Markdown pages exist.

A class, struct, enum, function or macro at namespace scope needs a `///` comment: its own, or one at the head of the
lines without a gap that it stands among, or a `//` at its end. Namespaces `detail` and `kernel` are not public.
"""

import re

import tree

PRIVATE_NAMESPACE = re.compile(r"namespace\s+[\w:]*\b(detail|kernel)\b")
TYPE = re.compile(r"^\s*(class|struct|enum|union)\b[^;]*\{|^\s*(class|struct|enum)\b[^;(]*$")
CALL = re.compile(r"\w\s*\(|operator")
NAME = re.compile(r"(?:class|struct|enum(?:\s+class)?|#define)\s+(\w+)|([~\w]+(?:\s*\W+)?)\s*\(")
DOC_PATH = re.compile(r"`((?:quire|cli|tests|bench|examples|docs|tools|cmake|scripts|\.ci)/[\w./+-]*)`")
DOC_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def strip_code(line):
    """The line without comments, and without what is between quotes."""
    line = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
    line = re.sub(r"'(?:[^'\\]|\\.)'", "''", line)
    return re.sub(r"//.*", "", line)


def declarations(lines):
    """(line number, text, documented) of each declaration at namespace scope."""
    scopes, documented, start, text = [], False, 0, ""
    private = 0
    continued = False  # inside a macro's body
    for number, line in enumerate(lines, 1):
        code, outside = strip_code(line), all(scopes)
        if continued or line.lstrip().startswith("#"):
            if not continued and re.match(r"\s*#\s*define\s+\w+\(", line):
                yield number, line, documented or bool(private)
            continued = line.rstrip().endswith("\\")
            continue
        if outside and not text:
            if not line.strip():
                documented = False
            elif line.lstrip().startswith("///"):
                documented = True
        namespace = outside and re.match(r"\s*(inline\s+)?namespace\b", code)
        if outside and code.strip() and not namespace and not code.strip().startswith("}"):
            start = start or number
            text += line + "\n"
            if code.rstrip().endswith((";", "{", "}")) or "{" in code:
                yield start, text, documented or bool(private)
                start, text = 0, ""
        for brace in re.findall(r"[{}]", code):
            if brace == "{":
                private += bool(private or (namespace and PRIVATE_NAMESPACE.search(code)))
                scopes.append(bool(namespace))
            elif scopes:
                private -= bool(private)
                scopes.pop()


def check_header(root, path):
    findings = []
    for number, text, documented in declarations((root / path).read_text(encoding="utf-8").splitlines()):
        code = "\n".join(strip_code(line) for line in text.splitlines())
        code = re.sub(r"template\s*<[^>]*>", "", code)
        matters = text.lstrip().startswith("#") or TYPE.search(code) or CALL.search(code)
        skip = re.match(r"\s*(using|static_assert|extern template|friend)\b|\s*(class|struct)\s+\w+<", code)
        if matters and not skip and not documented and "//" not in text:
            match = NAME.search(code)
            name = (match[1] or match[2]) if match else code.strip()
            findings.append(f"{path}:{number}: {name} has no /// contract")
    return findings


def check_page(root, path):
    findings, fenced = [], False
    for number, line in enumerate((root / path).read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        for link in DOC_LINK.findall(line):
            target = link.split("#")[0]
            if target and "://" not in link and not (root / path.parent / target).exists():
                findings.append(f"{path}:{number}: the link {link} leads nowhere")
        for name in DOC_PATH.findall(line):
            if not (root / name).exists():
                findings.append(f"{path}:{number}: {name} does not exist")
    return findings


def check(root):
    findings = []
    for path in tree.public_headers(root):
        findings += check_header(root, path)
    pages = [p.relative_to(root) for p in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]]
    for path in sorted(pages):
        findings += check_page(root, path)
    return findings


if __name__ == "__main__":
    tree.main(check, __doc__.splitlines()[0])

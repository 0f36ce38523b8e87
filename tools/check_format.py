#!/usr/bin/env python3
"""Checks the layout of the tree: clang-format 14 changes nothing, and lines and files keep to their limits.

usage: check_format.py [--fix] [ROOT]       --fix rewrites the C++ files instead
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

import tree

LINE = {".h": 100, ".cpp": 100, ".py": 120, ".cmake": 140, ".txt": 140, "": 140}
FILE_LINES = 800
RAW_BEGIN = re.compile(r'R"([^(\s]*)\(')


def clang_format():
    for name in ("clang-format-14", "clang-format"):
        if shutil.which(name):
            version = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
            if re.search(r"version 14\.", version):
                return name
    sys.exit("clang-format 14 is needed (Debian: clang-format-14); other versions lay out differently")


def check_cpp(root, paths, fix):
    """Findings of clang-format over the files, one line each."""
    mode = ["-i"] if fix else ["--dry-run", "-Werror"]
    run = subprocess.run([clang_format(), "--style=file", *mode, *map(str, paths)],
                         cwd=root, capture_output=True, text=True)
    dirty = sorted({match[1] for match in re.finditer(r"^(\S+?):\d+:\d+: error", run.stderr, re.MULTILINE)})
    if run.returncode and not dirty:
        return [run.stderr.strip() or "clang-format failed"]
    return [f"{path}: clang-format would change it (tools/check_format.py --fix)" for path in dirty]


def check_lines(root, path):
    findings, raw_end = [], None
    lines = (root / path).read_text(encoding="utf-8").splitlines()
    limit = LINE[path.suffix]
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}: "
        if raw_end is None:
            if len(line) > limit and "://" not in line and not RAW_BEGIN.search(line):
                findings.append(where + f"{len(line)} columns, at most {limit}")
            if line != line.rstrip() or "\t" in line:
                findings.append(where + "a tab, or white space at the end")
            if re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", line):
                findings.append(where + "a note to come back later")
            begin = RAW_BEGIN.search(line)
            if begin and f'){begin[1]}"' not in line[begin.end():]:
                raw_end = f'){begin[1]}"'
        elif raw_end in line:
            raw_end = None
    if len(lines) > FILE_LINES:
        findings.append(f"{path}: {len(lines)} lines, at most {FILE_LINES}")
    return findings


def other_files(root):
    """Python, CMake and shell files."""
    found = [root / "CMakeLists.txt", root / ".ci/run", *root.glob("cmake/*.cmake")]
    for pattern in ("tools/*.py", "tests/**/*.py", "bench/**/*.py"):
        found += root.glob(pattern)
    for folder in ("quire", "cli", "tests", "bench", "examples"):
        found += root.glob(f"{folder}/**/CMakeLists.txt")
    found += [p for p in root.glob("scripts/*") if p.is_file()]
    return sorted(p.relative_to(root) for p in found if p.is_file() and "goldens" not in p.parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true")
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent)
    args = parser.parse_args()
    root = args.root.resolve()
    paths = tree.sources(root)
    if not paths:
        sys.exit("no C++ file found")
    findings = check_cpp(root, paths, args.fix)
    for path in paths + other_files(root):
        findings += check_lines(root, path)
    for finding in findings:
        print(finding)
    if findings:
        sys.exit(f"{len(findings)} finding(s)")


if __name__ == "__main__":
    main()

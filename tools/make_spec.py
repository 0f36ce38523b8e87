#!/usr/bin/env python3
"""Writes docs/spec.md: every id of docs/spec_ids.txt, what it says, the tests that carry it, and its status.

A test carries the ids that its name begins with: TEST(Gather, IDX_02_B16_Slices). An id that is not in the list is an
error, but for those of other lists, a letter and a number (G01), which are passed over. --check writes nothing and
fails when docs/spec.md is not what would be written.
"""

import argparse
import pathlib
import re
import sys

import tree

FAMILIES = {
    "IDX": "Indexing", "KVM": "Merging keys and values", "ATT": "Attention modules", "HET": "Tiered cache",
    "PAG": "Paged attention", "FLA": "Attention kernels and positions", "INF": "Serving structures",
    "MOE": "Mixture of experts", "OTH": "Tape and other functions",
    "K": "Faults of the core of a KV cache", "D": "Faults of disks and of saved files",
    "I": "What is promised whatever happens",
    "B": "Faults that other attention had, each with a test that ours passes", "T": "Traps of attention",
}
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST|RC_GTEST_PROP)\(\s*(\w+),\s*(\w+)", re.MULTILINE)
ID = re.compile(r"([A-Z]{3}_|[A-Z])(\d{1,2})(?:_|$)")
LINE = re.compile(r"([A-Z]{3}-\d{2}|[A-Z]\d{1,2}) +([MSO]) +(gpu )? *(\S.*)")


def family(spec_id):
    return re.match("[A-Z]+", spec_id)[0]


def read_ids(root):
    """{id: (priority, is about CUDA too, statement)} in the order of the list, and findings."""
    ids, findings = {}, []
    path = pathlib.Path("docs/spec_ids.txt")
    for number, line in enumerate((root / path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match or family(match[1]) not in FAMILIES:
            findings.append(f"{path}:{number}: expected an id, M, S or O, and a statement")
        elif match[1] in ids:
            findings.append(f"{path}:{number}: {match[1]} stands twice")
        else:
            ids[match[1]] = (match[2], bool(match[3]), match[4])
    return ids, findings


def ids_of(name):
    """The ids that a test's name begins with."""
    found, at = [], 0
    while match := ID.match(name, at):
        found.append(match[1].replace("_", "-") + match[2])
        at = match.end()
    return [i for i in found if "-" in i or family(i) in FAMILIES]


def read_tests(root, ids):
    """{id: [(file, Suite.Name)]}, and findings for ids that are not in the list."""
    tests, findings = {}, []
    for path in tree.sources(root, ("tests",), (".cpp",)):
        text = (root / path).read_text(encoding="utf-8")
        for match in TEST.finditer(text):
            for spec_id in ids_of(match[2]):
                if spec_id not in ids:
                    line = text.count("\n", 0, match.start()) + 1
                    findings.append(f"{path}:{line}: {spec_id} is not in docs/spec_ids.txt")
                tests.setdefault(spec_id, []).append((path.as_posix(), f"{match[1]}.{match[2]}"))
    return tests, findings


def status(about_cuda, tests):
    if not tests:
        return "○"
    return "◐" if about_cuda and not any(name.endswith("_Cuda") for _, name in tests) else "●"


def cell(tests):
    """The files that carry the id, each with the number of its tests."""
    files = {}
    for path, _ in tests:
        files[path] = files.get(path, 0) + 1
    return "<br>".join(f"`{path}` {count}" for path, count in sorted(files.items()))


def page(ids, tests):
    out = ["# The specification and its tests", "",
           "Written by `tools/make_spec.py` from the names of the tests; the statements stand in `docs/spec_ids.txt`.",
           "● tested · ◐ tested, but for its CUDA half · ○ not taken yet. M must, S should, O optional.", ""]
    for name, title in FAMILIES.items():
        mine = [i for i in ids if family(i) == name]
        if not mine:
            continue
        out += [f"## {title}", "", "| id | | | what holds | tests |", "|---|---|---|---|---|"]
        for i in mine:
            priority, about_cuda, statement = ids[i]
            found = tests.get(i, [])
            out.append(f"| {i} | {priority} | {status(about_cuda, found)} | {statement} | {cell(found)} |")
        out.append("")
    free = [i for i in ids if i not in tests]
    out += ["## Nobody has taken yet", "", ", ".join(free) + "." if free else "None.", ""]
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when docs/spec.md is out of date")
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent)
    args = parser.parse_args()
    root = args.root.resolve()
    ids, findings = read_ids(root)
    tests, unknown = read_tests(root, ids)
    findings += unknown
    if not findings:
        text, path = page(ids, tests), root / "docs/spec.md"
        if not args.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            findings.append("docs/spec.md is out of date; run tools/make_spec.py")
    for finding in findings:
        print(finding)
    if findings:
        sys.exit(f"{len(findings)} finding(s)")


if __name__ == "__main__":
    main()

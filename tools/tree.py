"""What the checks share: the files of a source tree, their includes, and how a finding is reported."""

import argparse
import pathlib
import re
import sys

SOURCE_DIRS = ("quire", "cli", "tests", "bench", "examples")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def sources(root, dirs=SOURCE_DIRS, suffixes=(".h", ".cpp")):
    """C++ files below `dirs`, as paths relative to the root, sorted."""
    found = []
    for name in dirs:
        found += [p.relative_to(root) for p in (root / name).rglob("*") if p.suffix in suffixes]
    return sorted(found)


def includes(root, path):
    """(line number, "quote" or "system", what) of each include of a file."""
    found = []
    text = (root / path).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            found.append((number, "quote" if match[1] == '"' else "system", match[2]))
    return found


def closure(root, path):
    """Files of the tree that `path` reaches, each with the chain of includes that leads there."""
    chains, pending = {}, [(pathlib.Path(path), (str(path),))]
    while pending:
        current, chain = pending.pop(0)
        for _, kind, target in includes(root, current):
            if kind == "quote" and target not in chains and (root / target).is_file():
                chains[target] = chain + (target,)
                pending.append((pathlib.Path(target), chains[target]))
    return chains


def room_files(root):
    """{room folder: {"HEADERS": […], "SOURCES": […], "SIMD": […], "NEEDS": […]}} of the CMakeLists below quire/."""
    rooms = {}
    for cmake in sorted((root / "quire").rglob("CMakeLists.txt")):
        text = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
        call = re.search(r"quire_room\(([^()]*)\)", text)
        lists, key = {}, None
        for word in call[1].split()[1:] if call else []:
            if word in ("HEADERS", "SOURCES", "SIMD", "NEEDS", "PRIVATE"):
                key = lists.setdefault(word, [])
            elif key is not None:
                key.append(word)
        rooms[cmake.parent.relative_to(root)] = lists
    return rooms


def public_headers(root):
    """The headers that rooms install, as paths relative to the root."""
    return sorted(room / name for room, lists in room_files(root).items() for name in lists.get("HEADERS", []))


def main(check, description):
    """Runs check(root) -> findings, prints them, and exits 1 when there are any."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent)
    findings = check(parser.parse_args().root.resolve())
    for finding in findings:
        print(finding)
    if findings:
        sys.exit(f"{len(findings)} finding(s)")

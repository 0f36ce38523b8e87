#!/usr/bin/env python3
"""Checks that each room's library calls only itself and the rooms that its quire_room() NEEDS (and base).

usage: check_links.py FILE

FILE has a line `room;archive;need,need,…` for each room. A symbol that a room leaves undefined and another room
defines must be defined by a room on its line: the linker alone would not tell, because a library brings those that it
needs itself. That nothing at all stays undefined is shown by linking each room whole (tests/tools/CMakeLists.txt).
"""

import argparse
import pathlib
import subprocess
import sys


def symbols(archive):
    """(defined, undefined) mangled names of an archive's objects; undefined are those that none of its objects has."""
    nm = ["nm", "--extern-only", "--format=posix", archive]
    result = subprocess.run(nm, capture_output=True, text=True, check=False)
    if result.returncode or not result.stdout.strip():
        sys.exit(f"nm printed no symbols: {result.stderr}")
    defined, undefined = set(), set()
    for line in result.stdout.splitlines():
        parts = line.split()
        if len(parts) >= 2 and len(parts[1]) == 1:
            (undefined if parts[1] in "Uwv" else defined).add(parts[0])
    return defined, undefined - defined


def demangle(name):
    return subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()


def check(rooms):
    """`rooms` is {name: (archive, needs)}."""
    tables = {name: symbols(archive) for name, (archive, _) in rooms.items()}
    findings = []
    for name, (_, needs) in rooms.items():
        line = {name, "base", *needs}
        reachable = set().union(*(tables[room][0] for room in line if room in tables))
        for other in sorted(set(rooms) - line):
            for symbol in sorted((tables[name][1] & tables[other][0]) - reachable):
                findings.append(f"{name} calls {demangle(symbol)} of {other}, which it does not NEED")
    return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    rooms = {}
    for line in parser.parse_args().file.read_text(encoding="utf-8").splitlines():
        if line:
            name, archive, needs = line.split(";")
            rooms[name] = (archive, [need for need in needs.split(",") if need])
    if not rooms:
        sys.exit("no rooms to check")
    findings = check(rooms)
    for finding in findings:
        print(finding)
    if findings:
        sys.exit(f"{len(findings)} finding(s)")


if __name__ == "__main__":
    main()

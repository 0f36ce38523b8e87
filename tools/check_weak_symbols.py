#!/usr/bin/env python3
"""Checks that objects compiled for an instruction set define no weak symbol that another object could share.

usage: check_weak_symbols.py ISA OBJECT…

A weak symbol (an inline function or template that was not inlined) is merged by the linker with every other of its
name; one compiled for AVX-512 would then run on a processor without it. A symbol whose mangled name contains
quire::kernel::ISA is that instruction set's own.
"""

import argparse
import re
import subprocess
import sys

WEAK = {"W", "V", "u"}  # defined weak function, weak object, unique global


def findings(isa, nm_output):
    """The weak symbols of `nm --print-file-name` output that lie outside the namespace of the instruction set."""
    own = re.compile(rf"5quire6kernel{len(isa)}{isa}")
    found = []
    for line in nm_output.splitlines():
        match = re.match(r"(?P<file>.+):\s*[0-9a-fA-F]*\s+(?P<kind>\S)\s+(?P<name>\S+)$", line)
        if match and match["kind"] in WEAK and not own.search(match["name"]):
            found.append(f"{match['file']}: weak symbol {match['name']} is not in quire::kernel::{isa}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("isa")
    parser.add_argument("objects", nargs="+")
    args = parser.parse_args()
    nm = ["nm", "--print-file-name", *args.objects]
    result = subprocess.run(nm, capture_output=True, text=True, check=False)
    if result.returncode or not result.stdout.strip():
        sys.exit(f"nm printed no symbols: {result.stderr}")
    found = findings(args.isa, result.stdout)
    for finding in found:
        print(finding)
    if found:
        sys.exit(f"{len(found)} finding(s)")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Checks what files that are compiled once per instruction set include, over all transitive includes.

A shared inline function in such a file would exist once per instruction set under one name, and the linker might hand
an old processor the new one's copy. So these files include intrinsics, <cstdint>, <cstddef> and kernel headers only.
tools/check_weak_symbols.py checks the objects for the same fault.
"""

import tree

SYSTEM = {"immintrin.h", "cstdint", "cstddef"}
# Further headers that a file of ours may include, each with the reason.
EXEMPT = {
    "quire/base/isa.h": {"string_view"},  # for declarations only; nothing in a kernel calls it
    "quire/base/simd_portable.h": {"cmath"},  # never compiled for a newer instruction set
    "quire/base/half.h": {"bit"},  # reached from simd_portable.h only
}


def check_file(root, path):
    findings = []
    chains = {str(path): (str(path),), **tree.closure(root, path)}
    for name, chain in chains.items():
        if name == "quire/base/half.h" and "quire/base/simd_portable.h" not in chain:
            findings.append(f"{path}: reaches half.h, whose functions are shared: {' -> '.join(chain)}")
        for number, kind, target in tree.includes(root, name):
            if kind == "system" and target not in SYSTEM | EXEMPT.get(name, set()):
                reach = " -> ".join(chain)
                findings.append(f"{name}:{number}: <{target}> in a file compiled per instruction set: {reach}")
    return findings


def check(root):
    findings = []
    for path in tree.sources(root, ("quire",)):
        if path.name.endswith("_simd.cpp"):
            findings += check_file(root, path)
    for room, lists in tree.room_files(root).items():
        for name in lists.get("SIMD", []):
            if not name.endswith("_simd.cpp"):
                findings.append(f"{room}/CMakeLists.txt: SIMD source {name} must be named *_simd.cpp")
        for name in lists.get("SOURCES", []):
            if name.endswith("_simd.cpp"):
                findings.append(f"{room}/CMakeLists.txt: {name} stands in SOURCES, not in SIMD")
    return sorted(set(findings))


if __name__ == "__main__":
    tree.main(check, __doc__.splitlines()[0])

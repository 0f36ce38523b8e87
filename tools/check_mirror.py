#!/usr/bin/env python3
"""Checks that each public header has a test at the mirrored path, and that each source file belongs to a room.

quire/ops/math/rope.h is tested by tests/ops/math/rope_test.cpp, and some CMakeLists.txt below tests/ builds it. A
header or source that no quire_room() names would silently not be built, installed or tested.
"""

import re

import tree

# Headers without a test of their own, each with the reason.
UNTESTED = {
    "quire/base/dtype_enum.h": "an enum alone; dtype_test.cpp tests it",
    "quire/base/simd_avx512.h": "an implementation of simd.h; simd_test.cpp tests them all",
    "quire/base/simd_portable.h": "an implementation of simd.h; simd_test.cpp tests them all",
    "quire/ops/attention/kv_view.h": "a plain struct without functions; attention_test.cpp is about nothing else",
    "quire/ops/index/reduce.h": "enums alone; scatter_reduce_test.cpp is about nothing else",
    "quire/ops/moe/expert_activation_kind.h": "enums alone; expert_activation_test.cpp is about nothing else",
    "quire/ops/moe/routing_spec.h": "enums alone; routing_test.cpp is about nothing else",
    "quire/cache/kv_cache.h": "an interface; each cache that implements it has its test",
}


def registered_tests(root):
    names = set()
    for cmake in (root / "tests").rglob("CMakeLists.txt"):
        text = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
        names.update(re.findall(r"quire_test\(\s*([\w/]+)", text))
        for loop in re.findall(r"foreach\(\w+\s+([^)]*)\)\s*\n\s*quire_test\(([^)\s]*)", text):
            names.update(re.sub(r"\$\{\w+\}", word, loop[1]) for word in loop[0].split())
    return names


def check_tests(root):
    findings, registered = [], registered_tests(root)
    for header in tree.public_headers(root):
        test = header.relative_to("quire").with_suffix("").as_posix() + "_test"
        exists = (root / "tests" / f"{test}.cpp").is_file()
        if str(header) in UNTESTED:
            if exists:
                findings.append(f"{header}: has a test now; take it off the list in tools/check_mirror.py")
        elif not exists:
            findings.append(f"{header}: has no test at tests/{test}.cpp")
        elif test not in registered:
            findings.append(f"tests/{test}.cpp: no quire_test({test} …) builds it")
    for header, _ in UNTESTED.items():
        if not (root / header).is_file():
            findings.append(f"{header}: is on the list in tools/check_mirror.py but does not exist")
    return findings


def check_rooms(root):
    named = set()
    for room, lists in tree.room_files(root).items():
        for key in ("HEADERS", "SOURCES", "SIMD"):
            named.update((root / room / name).resolve() for name in lists.get(key, []))
    return [f"{path}: no quire_room() names it" for path in tree.sources(root, ("quire",))
            if (root / path).resolve() not in named]


def check(root):
    return check_tests(root) + check_rooms(root)


if __name__ == "__main__":
    tree.main(check, __doc__.splitlines()[0])

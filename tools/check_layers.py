#!/usr/bin/env python3
"""Checks that each room includes only itself and the rooms on its line, and that kernels never reach a Tensor.

The lines are those of docs/architecture.md. A room's own folder and base/ are always allowed. Kernel files are held to
base/ and ops/ over all transitive includes: the public header of an op includes Tensor, so a kernel that reaches one
by any path is found. What a room's CMakeLists.txt links (NEEDS) must stand on its line too.
"""

import re

import tree

LINES = {
    "base": "",
    "tensor": "base",
    "ops": "base tensor",
    "io": "base tensor",
    "cache": "base tensor ops io",
    "grad": "base tensor ops",
    "nn": "tensor ops cache grad",
    "text": "base",
    "model": "tensor ops cache nn io text",
    "generate": "tensor ops cache text model",
    "eval": "tensor ops cache text model generate",
    "train": "tensor ops cache grad nn io text model",
}
KERNEL = re.compile(r"(_cpu\.cpp|_simd\.cpp|_kernel\.h|_cuda\.cu|\.cuh)$")
KERNEL_ROOMS = ("base", "ops")


def allowed(room):
    return {room, "base", *LINES[room].split()}


def room_of(include):
    parts = include.split("/")
    return parts[1] if parts[0] == "quire" and len(parts) > 2 else None


def check_file(root, path):
    room = path.parts[1]
    if room not in LINES:
        return [f"{path}: the room '{room}' has no line in tools/check_layers.py"]
    findings = []
    for number, kind, target in tree.includes(root, path):
        where = f"{path}:{number}: "
        if kind == "quote" and not target.startswith("quire/"):
            findings.append(where + f'"{target}": write the path from the root, "quire/…"')
        elif kind == "system" and target.startswith("quire/"):
            findings.append(where + f"<{target}>: Quire's own headers are included with quotes")
        elif kind == "quote" and not (root / target).is_file():
            findings.append(where + f'"{target}" does not exist')
        elif room_of(target) and room_of(target) not in allowed(room):
            findings.append(where + f'{room}/ may not include "{target}": {room_of(target)}/ is not on its line')
    if KERNEL.search(path.name):
        for target, chain in tree.closure(root, path).items():
            if room_of(target) and room_of(target) not in KERNEL_ROOMS:
                findings.append(f"{path}: a kernel file reaches {target}: {' -> '.join(chain)}")
    return findings


def check_needs(room, lists):
    findings = []
    for need in lists.get("NEEDS", []):
        if need.split("_")[0] not in allowed(room.parts[1]):
            findings.append(f"{room}/CMakeLists.txt: NEEDS {need}, which is not on the line of {room.parts[1]}/")
    return findings


def check(root):
    findings = []
    suffixes = (".h", ".cpp", ".cu", ".cuh")
    for path in tree.sources(root, ("quire",), suffixes):
        findings += check_file(root, path)
    for room, lists in tree.room_files(root).items():
        findings += check_needs(room, lists)
    for path in tree.sources(root, ("examples",), suffixes):
        for number, kind, target in tree.includes(root, path):
            if kind == "quote" and not target.startswith("quire/"):
                findings.append(f'{path}:{number}: an example includes only public headers, not "{target}"')
    return findings


if __name__ == "__main__":
    tree.main(check, __doc__.splitlines()[0])

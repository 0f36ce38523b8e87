#!/usr/bin/env python3
"""Runs every command of README.md: the lines of its ```sh blocks, as a reader would, and each must exit 0.

usage: readme_test.py README.md BIN_DIR     BIN_DIR holds `quire`; it stands first on PATH

- Commands run in order in one new folder, in which scripts/, bench/, examples/, … are seen as in the repository; each
  has a time limit.
- Those under the heading "Benchmarks" get `--smoke` at their end: one repetition, tiny sizes, no peers.
- Scripts that install, build or test are only checked to exist and to be executable: they would run this test again.
- `git clone` and `cd` lines are what a reader does before; they are not run.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

NOT_RUN = ("scripts/demo", "scripts/test", "scripts/build", "scripts/packages", ".ci/run", "bench/peers/install")
BEFORE = ("git", "cd", "cmake", "sudo")
TIME_LIMIT_S = 600


def commands(text):
    """(line number, heading, command) of each command in the ```sh blocks; a \\ at the end of a line continues it."""
    heading, inside, pending, start = "", False, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = not inside and line.strip() == "```sh"
        elif not inside:
            match = re.match(r"##\s+(.*)", line)
            heading = match[1].strip() if match else heading
        else:
            start = start or number
            pending += line
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            words = shlex.split(pending, comments=True)
            if words:
                yield start, heading, pending.strip(), words[0]
            pending, start = "", 0


def run(root, bin_dir, work, heading, command, first):
    """None when the command did what it must, else what went wrong."""
    first = first.removeprefix("./")
    if first in BEFORE:
        return None
    if first.startswith(("scripts/", ".ci/", "bench/", "tools/", "build/")):
        if not os.access(root / first, os.X_OK):
            return f"{first} is not an executable file of the repository"
        if first in NOT_RUN:
            return None
    if heading.lower().startswith("benchmarks"):
        command = re.sub(r"\s+#.*$", "", command) + " --smoke"
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}"}
    try:
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=work, env=env, text=True,
                                errors="replace", stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"still running after {TIME_LIMIT_S} s"
    if result.returncode:
        return f"exit code {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    return None


def check(readme, bin_dir):
    """Findings of all commands of the page. Raises ValueError when it has none."""
    root = readme.resolve().parent
    found = list(commands(readme.read_text(encoding="utf-8")))
    if not found:
        raise ValueError(f"{readme}: no ```sh block has a command")
    failures = []
    with tempfile.TemporaryDirectory() as work:
        for name in ("scripts", "bench", "build", "tools", "examples", "docs"):
            if (root / name).exists():
                (pathlib.Path(work) / name).symlink_to(root / name)
        for number, heading, command, first in found:
            print(f"{readme.name}:{number}: {command}", flush=True)
            problem = run(root, bin_dir.resolve(), work, heading, command, first)
            if problem:
                failures.append(f"{readme.name}:{number}: {command}: {problem}")
    return failures


def main():
    failures = check(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    for failure in failures:
        print("FAILED", failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

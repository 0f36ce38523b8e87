"""The programs that bench/peers/run compares: how each is started. All answer with the JSON of `quire bench model`."""

import dataclasses
import json
import os
import pathlib
import subprocess
from collections.abc import Sequence

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "quire"
PEERS = pathlib.Path(os.environ.get("QUIRE_PEERS") or CACHE / "peers")

QUIRE, LLAMA, OPENVINO = "quire", "llama.cpp", "openvino"

Points = dict[str, list[int]]  # {"prefill": [512, …], "decode": [0, …]}; either may be empty
Rates = dict[str, dict[str, float]]  # the same keys, tokens a second


@dataclasses.dataclass(frozen=True)
class Program:
    """One way to run one program; the table shows the better of those that share a `name`."""

    name: str
    setting: str
    command: Sequence[str]  # the points are appended

    def measure(self, points: Points, timeout_s: float) -> Rates:
        """Runs a fresh process. Throws: RuntimeError with what it said last, when it fails or leaves a point out."""
        command = list(self.command)
        for phase, sizes in points.items():
            if sizes:
                command += [f"--{phase}", ",".join(map(str, sizes))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{self.name}: {error}") from error
        if done.returncode != 0:
            raise RuntimeError(f"{self.name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        try:
            answer = json.loads(done.stdout)
            return {phase: {str(size): float(answer[phase][str(size)]) for size in sizes}
                    for phase, sizes in points.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{self.name} printed no such JSON ({error!r}): {done.stdout[:200]}") from error


def quire(program: pathlib.Path, model: str, threads: int) -> Program:
    return Program(QUIRE, "fast", [str(program), "bench", "model", model, "--threads", str(threads), "--json"])


def peers(names: Sequence[str], model: str, ids: pathlib.Path, threads: int) -> list[Program]:
    """Every setting of the peers in `names`; `ids` is a file of token ids that both read."""
    python = str(PEERS / "bin" / "python")
    common = [model, "--ids", str(ids), "--threads", str(threads)]
    llama = [python, str(HERE / "llama_cpp_worker.py"), *common]
    openvino = [python, str(HERE / "openvino_worker.py"), *common]
    all_peers = [
        Program(LLAMA, "flash attention on", [*llama, "--flash", "on"]),
        Program(LLAMA, "flash attention off", [*llama, "--flash", "off"]),
        Program(OPENVINO, "paged attention", [*openvino, "--backend", "PA"]),
        Program(OPENVINO, "plain attention", [*openvino, "--backend", "SDPA"]),
    ]
    return [program for program in all_peers if program.name in names]


def tokenize(model: str, text: pathlib.Path) -> str:
    """The ids of `text`, by llama.cpp."""
    worker = [str(PEERS / "bin" / "python"), str(HERE / "llama_cpp_worker.py")]
    done = subprocess.run([*worker, model, "--tokenize", str(text)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"llama.cpp cannot tokenize {text}: {done.stderr.strip()[-500:]}")
    return done.stdout

#!/usr/bin/env python3
"""gather, index_select and scatter_reduce beside PyTorch, in turns, with the same threads and sizes.

    python3 bench/ops/index/beside_torch.py --quire build/release/bin/quire

Needs a Python with PyTorch (python3 -m venv V; V/bin/pip install torch). Each turn runs `quire bench ops index` and
then the same cases in PyTorch; a line gives the median over all turns of both, in GB/s by the same count of bytes, and
how many times as fast Quire is.
"""

import argparse
import collections
import json
import statistics
import subprocess
import time

import torch

REDUCES = ("sum", "mean", "prod", "amax", "amin")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quire", default="build/release/bin/quire")
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--places", type=int, default=1 << 16)
    parser.add_argument("--floats", default="1,64,128", help="floats in a row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="calls of each case in a turn; their median counts")
    return parser.parse_args()


def quire_turn(options, floats):
    command = [options.quire, "bench", "ops", "index", "--json", "--floats", str(floats), "--rows", str(options.rows),
               "--places", str(options.places), "--threads", str(options.threads), "--rounds", str(options.rounds)]
    out = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {(row["op"], row["shape"][1], row["index"], row["layout"]): row["gb_s"] for row in out["rows"]}


def median_seconds(rounds, body):
    body()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        body()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def torch_turn(options, d):
    n, m = options.rows, options.places
    src, self = torch.rand(n, d) + 0.5, torch.rand(m, d) + 0.5
    rates = {}

    def add(op, spread, layout, index, body):
        rows = index.shape[0]
        count = rows * d * 4 + rows * 8 + (2 * m * d * 4 if op.startswith("scatter") else rows * d * 4)
        rates[op, d, spread, layout] = count / median_seconds(options.rounds, body) / 1e9

    for spread in ("uniform", "skewed"):
        u = torch.rand(n, dtype=torch.float64)
        flat = ((u**10 if spread == "skewed" else u) * m).long().clamp_(max=m - 1)
        index, layout = flat[:, None].expand(n, d), "full" if d == 1 else "expanded"
        add("gather", spread, layout, index, lambda: torch.gather(self, 0, index))
        add("index_select", spread, "rows", flat, lambda: torch.index_select(self, 0, flat))
        for reduce in REDUCES:
            add("scatter_reduce " + reduce, spread, layout, index,
                lambda: torch.scatter_reduce(self, 0, index, src, reduce))
        if d == 1 or n * d * 8 > 1e9:  # as quire bench ops index
            continue
        u = torch.rand((n + 7) // 8, d, dtype=torch.float64)
        own = ((u**10 if spread == "skewed" else u) * m).long().clamp_(max=m - 1)
        for layout, index in (("copied", index.contiguous()), ("full", own)):
            add("gather", spread, layout, index, lambda: torch.gather(self, 0, index))
            for reduce in ("sum", "mean", "amax"):
                add("scatter_reduce " + reduce, spread, layout, index,
                    lambda: torch.scatter_reduce(self, 0, index, src[:index.shape[0]], reduce))
    return rates


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(7)
    ours, theirs = collections.defaultdict(list), collections.defaultdict(list)
    for _ in range(options.turns):
        for floats in map(int, options.floats.split(",")):
            for rates, table in ((quire_turn(options, floats), ours), (torch_turn(options, floats), theirs)):
                for case, rate in rates.items():
                    table[case].append(rate)
    print(f"{options.rows} rows, {options.places} places, {options.threads} threads, torch {torch.__version__}, GB/s\n")
    print("| op | floats | index | layout | quire | torch | times |\n|---|---:|---|---|---:|---:|---:|")
    for case, rates in ours.items():
        mine, other = statistics.median(rates), statistics.median(theirs[case])
        print(f"| {case[0]} | {case[1]} | {case[2]} | {case[3]} | {mine:.1f} | {other:.1f} | {mine / other:.1f} |")


if __name__ == "__main__":
    main()

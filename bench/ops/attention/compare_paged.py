#!/usr/bin/env python3
"""What pages cost: attention over a contiguous cache and over pages of it, call by call in turn, in one program each.

  compare_paged.py PROGRAM [--rounds 15] [--threads 2] [--only WORD]

PROGRAM is bench_ops_attention. Prints a line per case: the contiguous cache's median, and for each size of page the
median of the ratio of two calls that followed one another (1.00: pages cost nothing), with the pages in no order, as a
pool that has been used for a while gives them out, and in order. Behind a decode stands what no order costs the memory
alone: as many bytes read, and not computed with, in pieces as large as a head's keys in a page of 16.
"""

import argparse
import statistics
import subprocess

# name, dtype, layout, B, H, G, K, T, S
CASES = [
    ("prefill f32 rows d64 2k", "f32", "rows", 1, 8, 8, 64, 2048, 2048),
    ("prefill f32 rows d128 2k", "f32", "rows", 1, 8, 8, 128, 2048, 2048),
    ("prefill bf16 rows d128 2k", "bf16", "rows", 1, 8, 8, 128, 2048, 2048),
    ("prefill bf16 blocks d128 2k", "bf16", "blocks", 1, 8, 8, 128, 2048, 2048),
    ("decode bf16 blocks d128 8k", "bf16", "blocks", 1, 32, 8, 128, 1, 8192),
    ("decode bf16 rows d128 8k", "bf16", "rows", 1, 32, 8, 128, 1, 8192),
    ("decode bf16 blocks d128 32k", "bf16", "blocks", 1, 32, 8, 128, 1, 32768),
    ("decode bf16 rows d128 32k", "bf16", "rows", 1, 32, 8, 128, 1, 32768),
    ("decode f32 blocks d128 16k", "f32", "blocks", 1, 32, 8, 128, 1, 16384),
    ("decode f16 blocks d64 64k", "f16", "blocks", 1, 9, 3, 64, 1, 65536),
]
PAGES = ["16", "64", "256", "16+", "64+"]


class Program:
    def __init__(self, path, threads):
        self.process = subprocess.Popen([path, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--pages", default=",".join(PAGES), help="slots of a page; with + they lie in order")
    args = parser.parse_args()
    pages = args.pages.split(",")
    programs = {z: Program(args.program, args.threads) for z in ["0"] + pages}
    print("ceilings:", programs["0"].ask("ceilings"), flush=True)
    for name, dtype, layout, b, h, g, k, t, s in CASES:
        if args.only not in name:
            continue
        # A step of a decode is short and never comes alone: each turn's first call wakes the threads.
        calls = 1 if t == s else 4
        times = {z: [] for z in programs}
        for _ in range(args.rounds + 1):
            for z, program in programs.items():
                turn = [float(program.ask(f"{dtype} {layout} {z} {b} {h} {g} {k} {k} {t} {s}")) for _ in range(calls)]
                times[z].append(statistics.median(turn[calls > 1:]))
        seconds = statistics.median(times["0"][1:])
        if t == s:
            amount, unit = 4 * b * h * k * t * (t + 1) / 2 / 1e9, "GFLOP/s"
        else:
            amount, unit = 2 * b * g * k * s * {"f32": 4, "i8": 1}.get(dtype, 2) / 1e9, "GB/s"
        text = f"{name:28} {seconds * 1e3:8.2f} ms {amount / seconds:7.1f} {unit:8}"
        for z in pages:
            ratio = statistics.median(x / y for x, y in zip(times[z][1:], times["0"][1:]))
            text += f"  {z}: {ratio:5.3f}"
        if t < s:
            size = {"f32": 4, "i8": 1}.get(dtype, 2)
            text += f"  memory: {programs['0'].ask(f'pieces {16 * k * size} {2 * b * g * k * s * size}')}"
        print(text, flush=True)


if __name__ == "__main__":
    main()

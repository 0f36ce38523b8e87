#!/usr/bin/env python3
"""Times of the same cases as index_bench.cpp in PyTorch: torch_index.py [rows] [places] [rounds] (2 threads)."""

import statistics
import sys
import time

import torch


def median_seconds(rounds, body):
    body()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        body()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    n, m, rounds = (int(a) for a in (sys.argv[1:] + ["1048576", "65536", "9"][len(sys.argv) - 1:]))
    torch.set_num_threads(2)
    torch.manual_seed(7)
    for d in (1, 64, 128):
        src, self = torch.rand(n, d) + 0.5, torch.rand(m, d) + 0.5
        for skewed in (False, True):
            u = torch.rand(n, dtype=torch.float64)
            flat = ((u**10 if skewed else u) * m).long().clamp_(max=m - 1)
            index = flat[:, None].expand(n, d)

            def show(name, bytes_, seconds):
                kind = "skewed" if skewed else "uniform"
                rate = bytes_ / seconds / 1e9
                print(f"{name:22} D {d:3} {kind:7} {seconds * 1e3:7.2f} ms {rate:6.1f} GB/s", flush=True)

            gather_bytes, scatter_bytes = 2 * n * d * 4 + n * 8, n * d * 4 + n * 8 + 2 * m * d * 4
            show("gather", gather_bytes, median_seconds(rounds, lambda: torch.gather(self, 0, index)))
            out = torch.empty(n, d)
            show("gather_out", gather_bytes, median_seconds(rounds, lambda: torch.gather(self, 0, index, out=out)))
            show("index_select", gather_bytes, median_seconds(rounds, lambda: torch.index_select(self, 0, flat)))
            for reduce in ("sum", "mean", "amax", "prod"):
                show("scatter_reduce " + reduce, scatter_bytes,
                     median_seconds(rounds, lambda: torch.scatter_reduce(self, 0, index, src, reduce)))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Merging of keys beside PyTorch's with the notebook's formula, in turn: torch_merge.py BENCH [rounds=5]  (2 threads).

BENCH is the program bench_ops_merge. Every round runs each side once; what is printed are medians, the median of the
ratios of one round (larger is better for us), and the memory that each side held above its inputs.

PyTorch comes twice. "As it comes" its matrices of 1 GiB go back to the system after each operation and are faulted in
for the next, which takes most of its time, and far more on a machine that is short of memory. "Memory kept" is the
same with an allocator that never gives anything back (MALLOC_MMAP_MAX_=0), its arithmetic alone.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

import torch

S, M, G, K = 32768, 1024, 8, 128
# The threads of either side go on spinning for a while after their work, on the other side's cores.
PAUSE_SECONDS = 0.02


def notebook(a, b):
    """The notebook's merge: the softmax of cosines over each group, by scatter_reduce and gather."""
    lengths = a.norm(dim=-1, keepdim=True) @ b.norm(dim=-1, keepdim=True).transpose(-1, -2)
    similarity = (a @ b.transpose(-1, -2)) / lengths
    value, index = similarity.max(dim=-1)
    peak = torch.full(b.shape[:-1], float("-inf")).scatter_reduce_(-1, index, value, "amax")
    weight = (value - peak.gather(-1, index)).exp()
    total = torch.zeros(b.shape[:-1]).scatter_reduce_(-1, index, weight, "sum")
    rows = index.unsqueeze(-1).expand(*a.shape)
    merged = torch.zeros_like(b).scatter_reduce_(-2, rows, a * weight.unsqueeze(-1), "sum")
    return merged / total.unsqueeze(-1).expand_as(merged).clamp_min(1e-12)


def serve():
    """Answers each line with seconds and the bytes held above the inputs."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    a, b = torch.rand(1, G, S, K), torch.rand(1, G, M, K)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        for _ in sys.stdin:
            begin = time.perf_counter()
            notebook(a, b)
            seconds = time.perf_counter() - begin
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(seconds, held * 1024, flush=True)


class Side:
    """A program that runs a case for each line."""

    def __init__(self, command, **settings):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | settings)

    def run(self, case):
        time.sleep(PAUSE_SECONDS)
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        seconds, held = self.process.stdout.readline().split()
        return float(seconds), int(held)


def main():
    if sys.argv[1] == "--serve":
        return serve()
    ours = Side([sys.argv[1], str(S), str(M), str(G), str(K)])
    torch_command = [sys.executable, __file__, "--serve"]
    peers = {"as it comes": Side(torch_command),
             "memory kept": Side(torch_command, MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_=str(2**40))}
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    cases = ("keys", "merge", "group", "match")
    times, ratios, held = {}, {}, {}
    for _ in range(rounds + 1):
        peer = {}
        for name, side in peers.items():
            peer[name], held[name] = side.run("keys")
            times.setdefault(name, []).append(peer[name])
        for case in cases:
            seconds, held[case] = ours.run(case)
            times.setdefault(case, []).append(seconds)
            for name in peers:
                ratios.setdefault((case, name), []).append(peer[name] / seconds)
    # The first round warms up.
    print(f"{S} keys into {M}, {G} heads of {K}")
    for name in peers:
        print(f"torch, {name}: {statistics.median(times[name][1:]):.3f} s (keys alone), {held[name] / 2**20:.0f} MiB")
    for case in cases:
        over = ", ".join(f"{statistics.median(ratios[case, name][1:]):.1f} ({name})" for name in peers)
        print(f"{case:6} {statistics.median(times[case][1:]):.3f} s, torch / ours {over}, {held[case] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Merging of keys beside PyTorch's with the notebook's formula, in turn: torch_merge.py BENCH [rounds=5]  (2 threads).

BENCH is the program bench_ops_merge. Every round runs each side once; what is printed are medians, the median of the
ratios of one round (larger is better for us), and the memory that each side held above its inputs.
"""

import resource
import statistics
import subprocess
import sys
import time

import torch

S, M, G, K = 32768, 1024, 8, 128
# The threads of either side go on spinning for a while after their work, on the other side's cores.
PAUSE_SECONDS = 0.02


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program, str(S), str(M), str(G), str(K)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def run(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        seconds, held = self.process.stdout.readline().split()
        return float(seconds), int(held)


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


def timed(call):
    time.sleep(PAUSE_SECONDS)
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main():
    ours = Ours(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(2)
    torch.manual_seed(0)
    a, b = torch.rand(1, G, S, K), torch.rand(1, G, M, K)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cases = ("keys", "merge", "group", "match")
    times, ratios, held, peer = {c: [] for c in cases}, {c: [] for c in cases}, {}, []
    with torch.no_grad():
        for _ in range(rounds + 1):
            peer.append(timed(lambda: notebook(a, b)))
            for case in cases:
                time.sleep(PAUSE_SECONDS)
                seconds, held[case] = ours.run(case)
                times[case].append(seconds)
                ratios[case].append(peer[-1] / seconds)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # The first round warms up.
    print(f"{S} keys into {M}, {G} heads of {K}: torch {statistics.median(peer[1:]):.3f} s (keys alone), "
          f"{extra:.0f} MiB")
    for case in cases:
        print(f"{case:6} {statistics.median(times[case][1:]):.3f} s, "
              f"torch / ours {statistics.median(ratios[case][1:]):.1f}, {held[case] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

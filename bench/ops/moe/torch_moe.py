#!/usr/bin/env python3
"""Products of experts beside PyTorch's, run in turn: torch_moe.py BENCH [rounds=7] [tokens=32,512,2048]  (2 threads).

BENCH is the program bench_ops_moe. Every round runs each side once; what is printed are medians and the median of the
ratios of one round (larger is better for us). PyTorch's products get grouped rows and need not gather.
"""

import statistics
import subprocess
import sys
import time

import torch

E, C, D, F = 128, 8, 512, 256
# The threads of either side go on spinning for a while after their work, on the other side's cores: each side waits
# that long and then runs twice, of which the second time counts.
PAUSE_SECONDS = 0.02


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program, str(E), str(C), str(D), str(F)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def seconds(self, case, tokens, dtype):
        self.process.stdin.write(f"{case} {tokens} {dtype}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Torch:
    """The same number of rows for each expert as a uniform choice gives."""

    def __init__(self, tokens, dtype):
        torch.manual_seed(7)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        counts = torch.bincount(torch.randint(E, (tokens * C,)), minlength=E)
        self.ends = counts.cumsum(0).to(torch.int32)
        self.edges = [0] + self.ends.tolist()
        self.x = torch.randn(tokens * C, D).to(dtype).requires_grad_()
        self.w = (torch.randn(E, D, F) / 20).to(dtype).requires_grad_()
        self.dout = torch.randn(tokens * C, F).to(dtype)

    def loop(self):
        with torch.no_grad():
            out = torch.empty_like(self.dout)
            for e in range(E):
                begin, end = self.edges[e], self.edges[e + 1]
                if begin < end:
                    torch.mm(self.x[begin:end], self.w[e], out=out[begin:end])

    def grouped(self):
        with torch.no_grad():
            torch.nn.functional.grouped_mm(self.x, self.w, offs=self.ends)

    def seconds(self, case):
        if case == "backward":
            self.x.grad = self.w.grad = None
            out = torch.nn.functional.grouped_mm(self.x, self.w, offs=self.ends)
            start = time.perf_counter()
            out.backward(self.dout)
        else:
            start = time.perf_counter()
            getattr(self, case)()
        return time.perf_counter() - start


def row(ours, peer, case, peers, tokens, dtype, rounds):
    """One line: our case against the fastest of the peers' (or of our own) in each round."""
    times = {case: [], **{name: [] for name in peers}}
    ratios = []
    for _ in range(rounds):
        now = {}
        for name in times:
            side, what = name.split(":") if ":" in name else ("ours", name)
            time.sleep(PAUSE_SECONDS)
            for _ in range(2):
                now[name] = ours.seconds(what, tokens, dtype) if side == "ours" else peer.seconds(what)
        for name, seconds in now.items():
            times[name].append(seconds)
        ratios.append(min(now[name] for name in peers) / now[case])
    flops = 2 * tokens * C * D * F * (2 if case == "backward" else 1)
    text = "  ".join(f"{name} {statistics.median(t) * 1e3:8.3f} ms {flops / statistics.median(t) / 1e9:6.1f} GFLOP/s"
                     for name, t in times.items())
    print(f"{tokens * C / E:6.1f} rows {dtype:4}  {text}  ratio {statistics.median(ratios):.2f}", flush=True)


def main():
    program = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    sizes = [int(n) for n in (sys.argv[3] if len(sys.argv) > 3 else "32,512,2048").split(",")]
    torch.set_num_threads(2)
    ours = Ours(program)
    for tokens in sizes:
        for dtype in ("f32", "bf16"):
            peer = Torch(tokens, dtype)
            row(ours, peer, "product", ["torch:loop", "torch:grouped"], tokens, dtype, rounds)
            row(ours, peer, "grouped", ["torch:loop", "torch:grouped"], tokens, dtype, rounds)
            row(ours, peer, "backward", ["torch:backward"], tokens, dtype, rounds)
            if dtype == "f32":
                row(ours, peer, "grouped", ["ours:dense"], tokens, dtype, rounds)
                row(ours, peer, "grouped", ["ours:loop"], tokens, dtype, rounds)


if __name__ == "__main__":
    main()

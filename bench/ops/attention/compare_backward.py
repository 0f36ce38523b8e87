#!/usr/bin/env python3
"""Attention backward beside PyTorch's flash attention and beside gather-softmax-scatter, with the same threads.

  compare_backward.py PROGRAM [--rounds 7] [--threads 2] [--only WORD] [--no-torch]

PROGRAM is bench_ops_attention_backward. Prints a line per case: medians, GFLOP/s (five products of the keys that a
causal query sees), the share of the FMA ceiling, and the other's time divided by ours; for `curve` also the most bytes
that each held beside inputs and results.
"""

import argparse
import statistics
import subprocess
import time

# name, dtype, page (0: contiguous), B, H, G, K, S
CASES = [
    ("f32 d64 2k", "f32", 0, 1, 8, 8, 64, 2048),
    ("f32 d128 2k", "f32", 0, 1, 8, 8, 128, 2048),
    ("f32 d64 2k batch", "f32", 0, 4, 2, 2, 64, 2048),
    ("f32 gqa d64 2k", "f32", 0, 1, 8, 2, 64, 2048),
    ("f32 one kv head d64 2k", "f32", 0, 1, 8, 1, 64, 2048),
    ("f32 d64 8k", "f32", 0, 1, 2, 2, 64, 8192),
    ("f32 d128 8k", "f32", 0, 1, 2, 2, 128, 8192),
    ("bf16 d64 2k", "bf16", 0, 1, 8, 8, 64, 2048),
    ("paged16 f32 d64 2k", "f32", 16, 1, 8, 8, 64, 2048),
    ("paged16 f32 d128 2k", "f32", 16, 1, 8, 8, 128, 2048),
]
# The curves against gathering, B 1, K 64, pages of 16: S, H, G. Gathering holds three matrices of S · S numbers for
# each head: 12 GiB for the one head of the last.
CURVE = [(1024, 4, 2), (2048, 4, 2), (4096, 4, 2), (8192, 4, 2), (16384, 4, 2), (32768, 4, 2),
         (8192, 1, 1), (16384, 1, 1), (32768, 1, 1)]


def torch_call(torch, dtype, b, h, g, k, s):
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    q = torch.randn(b, h, s, k).to(kind).requires_grad_()
    key, value = (torch.randn(b, g, s, k).to(kind).requires_grad_() for _ in range(2))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    out = sdpa(q, key, value, is_causal=True, enable_gqa=h != g)
    dout = torch.randn(out.shape).to(kind)
    return lambda: torch.autograd.grad(out, (q, key, value), dout, retain_graph=True)


class Program:
    def __init__(self, path, threads):
        self.process = subprocess.Popen([path, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def call(self, line):
        seconds, held = self.ask(line).split()
        return float(seconds), int(held)


def compare(ours, torch, args, peak):
    for name, dtype, z, b, h, g, k, s in CASES:
        if args.only not in name:
            continue
        line = f"owners {dtype} {z} {b} {h} {g} {k} {s}"
        theirs = torch_call(torch, dtype, b, h, g, k, s) if torch else None
        mine, other = [], []
        for _ in range(args.rounds + 1):
            mine.append(ours.call(line)[0])
            if theirs:
                start = time.perf_counter()
                theirs()
                other.append(time.perf_counter() - start)
                time.sleep(0.05)  # its worker threads spin for a while
        seconds = statistics.median(mine[1:])
        amount = 10 * b * h * k * s * (s + 1) / 2 / 1e9
        rate = amount / seconds
        text = f"{name:26} {seconds * 1e3:8.2f} ms {rate:6.1f} GFLOP/s {100 * rate / peak:4.0f}%"
        if theirs:
            seconds2 = statistics.median(other[1:])
            text += f"   torch {seconds2 * 1e3:8.2f} ms {amount / seconds2:6.1f}   {seconds2 / seconds:5.2f}x"
        print(text, flush=True)


def curve(ours, args):
    for s, h, g in CURVE:
        name = f"curve {s} heads {h}"
        if args.only not in name:
            continue
        times, held = {}, {}
        for how in ("owners", "gathered"):
            if how == "gathered" and 12 * h * s * s > args.most * 2**30:
                continue
            rounds = args.rounds if s < 8192 else 3 if s < 16384 or how == "owners" else 1
            runs = [ours.call(f"{how} f32 16 1 {h} {g} 64 {s}") for _ in range(rounds)]
            times[how] = statistics.median(r[0] for r in runs[rounds > 1:])
            held[how] = max(r[1] for r in runs)
        text = f"{name:20} {times['owners'] * 1e3:9.1f} ms {held['owners'] / 2**20:8.2f} MiB"
        if "gathered" in times:
            text += f"   gathered {times['gathered'] * 1e3:9.1f} ms {held['gathered'] / 2**20:9.1f} MiB"
            text += f"   {times['gathered'] / times['owners']:5.2f}x, {held['gathered'] / held['owners']:6.0f}x less"
        print(text, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--most", type=int, default=4, help="GiB that gathering may hold")
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    torch = None
    if not args.no_torch:
        import torch
        torch.set_num_threads(args.threads)
    ours = Program(args.program, args.threads)
    ceilings = ours.ask("ceilings").strip()
    print("ceilings:", ceilings, flush=True)
    compare(ours, torch, args, float(ceilings.split()[0]))
    curve(ours, args)


if __name__ == "__main__":
    main()

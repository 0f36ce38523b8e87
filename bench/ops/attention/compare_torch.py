#!/usr/bin/env python3
"""Attention forward beside PyTorch's scaled_dot_product_attention, call by call in turn, with the same threads.

  compare_torch.py PROGRAM [--rounds 9] [--threads 2] [--only WORD] [--no-torch]

PROGRAM is bench_ops_attention. Prints a line per case: medians of both, GFLOP/s (two products of the keys that a causal
query sees) or GB/s (keys and values read once), and PyTorch's time divided by ours.
"""

import argparse
import statistics
import subprocess
import time

# name, dtype, layout, page (0: contiguous), B, H, G, K, T, S
CASES = [
    ("prefill f32 d64 2k", "f32", "rows", 0, 1, 8, 8, 64, 2048, 2048),
    ("prefill f32 d64 8k", "f32", "rows", 0, 1, 2, 2, 64, 8192, 8192),
    ("prefill f32 d128 2k", "f32", "rows", 0, 1, 8, 8, 128, 2048, 2048),
    ("prefill f32 d128 8k", "f32", "rows", 0, 1, 2, 2, 128, 8192, 8192),
    ("prefill bf16 d64 2k", "bf16", "rows", 0, 1, 8, 8, 64, 2048, 2048),
    ("prefill bf16 d128 2k", "bf16", "rows", 0, 1, 8, 8, 128, 2048, 2048),
    ("prefill bf16 d64 8k", "bf16", "rows", 0, 1, 2, 2, 64, 8192, 8192),
    ("prefill bf16 d128 8k", "bf16", "rows", 0, 1, 2, 2, 128, 8192, 8192),
    ("prefill f32 gqa d64 2k", "f32", "rows", 0, 1, 9, 3, 64, 2048, 2048),
    ("prefill f16 blocks gqa d64 2k", "f16", "blocks", 0, 1, 9, 3, 64, 2048, 2048),
    ("paged16 f32 d64 2k", "f32", "rows", 16, 1, 8, 8, 64, 2048, 2048),
    ("paged64 f32 d64 2k", "f32", "rows", 64, 1, 8, 8, 64, 2048, 2048),
    ("paged16 f32 d128 2k", "f32", "rows", 16, 1, 8, 8, 128, 2048, 2048),
    ("paged64 f32 d128 2k", "f32", "rows", 64, 1, 8, 8, 128, 2048, 2048),
    ("decode bf16 blocks d128 8k", "bf16", "blocks", 0, 1, 32, 8, 128, 1, 8192),
    ("decode bf16 blocks d128 32k", "bf16", "blocks", 0, 1, 32, 8, 128, 1, 32768),
    ("decode bf16 rows d128 8k", "bf16", "rows", 0, 1, 32, 8, 128, 1, 8192),
    ("decode bf16 rows d128 32k", "bf16", "rows", 0, 1, 32, 8, 128, 1, 32768),
    ("decode-paged16 bf16 blocks d128 8k", "bf16", "blocks", 16, 1, 32, 8, 128, 1, 8192),
    ("decode-paged64 bf16 blocks d128 8k", "bf16", "blocks", 64, 1, 32, 8, 128, 1, 8192),
    ("decode-paged16 bf16 rows d128 8k", "bf16", "rows", 16, 1, 32, 8, 128, 1, 8192),
    ("decode f16 blocks d64 7k", "f16", "blocks", 0, 1, 9, 3, 64, 1, 7000),
    ("decode i8 blocks d128 8k", "i8", "blocks", 0, 1, 32, 8, 128, 1, 8192),
]


def torch_call(torch, dtype, b, h, g, k, t, s):
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    q = torch.randn(b, h, t, k).to(kind)
    key, value = (torch.randn(b, g, s, k).to(kind) for _ in range(2))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda: sdpa(q, key, value, is_causal=t == s, enable_gqa=h != g)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    torch = None
    if not args.no_torch:
        import torch
        torch.set_num_threads(args.threads)
        torch.set_grad_enabled(False)
    ours = subprocess.Popen([args.program, str(args.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def our_seconds(line):
        ours.stdin.write(line + "\n")
        ours.stdin.flush()
        return float(ours.stdout.readline())

    ours.stdin.write("ceilings\n")
    ours.stdin.flush()
    print("ceilings:", ours.stdout.readline().strip(), flush=True)
    for name, dtype, layout, z, b, h, g, k, t, s in CASES:
        if args.only not in name:
            continue
        line = f"{dtype} {layout} {z} {b} {h} {g} {k} {k} {t} {s}"
        theirs = torch_call(torch, dtype, b, h, g, k, t, s) if torch and dtype != "i8" else None
        our_times, their_times = [], []
        # A step of a decode is short and never comes alone: each turn's first call wakes the threads.
        calls = 1 if t == s else 4
        for i in range(args.rounds + 1):
            our_times += [our_seconds(line) for _ in range(calls)][calls > 1:]
            if theirs:
                for call in range(calls):
                    start = time.perf_counter()
                    theirs()
                    if call > 0 or calls == 1:
                        their_times.append(time.perf_counter() - start)
                time.sleep(0.05)  # its worker threads spin for a while
        seconds = statistics.median(our_times[1:])
        if t == s:
            amount, unit = 4 * b * h * k * t * (t + 1) / 2 / 1e9, "GFLOP/s"
        else:
            size = {"f32": 4, "i8": 1}.get(dtype, 2)
            amount, unit = 2 * b * g * k * s * size / 1e9, "GB/s"
        text = f"{name:36} {seconds * 1e3:8.2f} ms {amount / seconds:7.1f} {unit}"
        if theirs:
            other = statistics.median(their_times[1:])
            text += f"   torch {other * 1e3:8.2f} ms {amount / other:7.1f}   {other / seconds:5.2f}x"
        print(text, flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""examples/attention_timing in PyTorch: one attention layer, batch 2, hidden 512, reads 4096 tokens, then writes five.

usage: torch_attention_timing.py [PROGRAM] [--tokens 4096] [--hidden 512] [--batch 2] [--threads 2] [--rounds 5]

The layer is the notebook's: four projections without biases, one head, scores over √hidden, no mask. It attends with
scaled_dot_product_attention. The prompt is read four times into the same preallocated room, the first not counted (the
median of three, as in the example); the tokens are written once each. The cache is written in place; with `cat`, as
the notebook wrote it, a step also copies the whole history, and has a line of its own.

With PROGRAM, example_attention_timing, both are measured in turn, each round in a fresh process, and the medians over
the rounds are compared.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time

STEPS = 5


def milliseconds(body):
    start = time.perf_counter()
    out = body()
    return (time.perf_counter() - start) * 1e3, out


def measure(args):
    import torch
    import torch.nn.functional as F

    tokens, hidden, batch = args.tokens, args.hidden, args.batch
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    wq, wk, wv, wo = (torch.nn.Linear(hidden, hidden, bias=False) for _ in range(4))
    x = torch.randn(batch, tokens + STEPS, hidden)
    k_room, v_room = torch.zeros(2, batch, tokens + STEPS, hidden)

    def attend(q, k, v):
        return wo(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])

    def in_place(begin, end):
        part = x[:, begin:end]
        k_room[:, begin:end] = wk(part)
        v_room[:, begin:end] = wv(part)
        return attend(wq(part), k_room[:, :end], v_room[:, :end])

    def by_cat(begin, end, past):
        part = x[:, begin:end]
        past[0] = torch.cat([past[0], wk(part)], dim=1)
        past[1] = torch.cat([past[1], wv(part)], dim=1)
        return attend(wq(part), past[0], past[1])

    with torch.no_grad():
        in_place(0, tokens)
        prefill = statistics.median(milliseconds(lambda: in_place(0, tokens))[0] for _ in range(3))
        past = [k_room[:, :tokens].clone(), v_room[:, :tokens].clone()]
        steps, copied, plain = [], [], []
        for at in range(tokens, tokens + STEPS):
            spent, _ = milliseconds(lambda: in_place(at, at + 1))
            steps.append(spent)
            spent, _ = milliseconds(lambda: by_cat(at, at + 1, past))
            copied.append(spent)
            spent, _ = milliseconds(lambda: attend(*(w(x[:, : at + 1]) for w in (wq, wk, wv))))
            plain.append(spent)
    print(f"torch {torch.__version__}, {args.threads} threads")
    print(f"read the prompt           {prefill:9.1f} ms")
    print(f"a token with the cache    {statistics.median(steps):9.2f} ms   {[round(t, 2) for t in steps]}")
    print(f"  by cat, as the notebook {statistics.median(copied):9.2f} ms   {[round(t, 2) for t in copied]}")
    print(f"a token without           {statistics.median(plain):9.1f} ms")


def numbers(command):
    """Milliseconds of the prompt, of a token with the cache and of one without."""
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kinds = ["read the prompt", r"(?:a token|token \d) with the cache", r"(?:a token|token \d) without"]
    return [statistics.median(map(float, re.findall(kind + r" +([\d.]+) ms", text))) for kind in kinds]


def compare(args):
    sizes = [str(n) for n in (args.tokens, args.hidden, args.batch, args.threads)]
    names = ["--tokens", "--hidden", "--batch", "--threads"]
    own = [sys.executable, __file__, *(word for pair in zip(names, sizes) for word in pair)]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(numbers([args.program, *sizes]))
        theirs.append(numbers(own))
    names = ["read the prompt", "a token with the cache", "a token without"]
    mine, other = ([statistics.median(column) for column in zip(*rounds)] for rounds in (ours, theirs))
    for i, name in enumerate(names):
        spread = f"{min(r[i] for r in ours):.2f} to {max(r[i] for r in ours):.2f}"
        spread2 = f"{min(r[i] for r in theirs):.2f} to {max(r[i] for r in theirs):.2f}"
        text = f"{name:24} {mine[i]:8.2f} ms ({spread})   torch {other[i]:8.2f} ms ({spread2})"
        print(f"{text}   {other[i] / mine[i]:5.2f}x")
    print(f"a token without, over one with the cache: {mine[2] / mine[1]:.0f}; torch {other[2] / other[1]:.0f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    compare(args) if args.program else measure(args)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""examples/attention_timing in PyTorch: one attention layer, batch 2, hidden 512, reads 4096 tokens, then writes five.

usage: torch_attention_timing.py [tokens=4096] [hidden=512] [batch=2] [threads=2]

The layer is the notebook's: four projections without biases, one head, scores over √hidden, no mask. It attends with
scaled_dot_product_attention. The cache is written in place (a preallocated tensor); with `cat`, as the notebook wrote
it, a step also copies the whole history, and has a line of its own.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

STEPS = 5


def milliseconds(body):
    start = time.perf_counter()
    out = body()
    return (time.perf_counter() - start) * 1e3, out


def main(tokens=4096, hidden=512, batch=2, threads=2):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
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
    print(f"torch {torch.__version__}, {threads} threads")
    print(f"read the prompt           {prefill:9.1f} ms")
    print(f"a token with the cache    {statistics.median(steps):9.2f} ms   {[round(t, 2) for t in steps]}")
    print(f"  by cat, as the notebook {statistics.median(copied):9.2f} ms   {[round(t, 2) for t in copied]}")
    print(f"a token without           {statistics.median(plain):9.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

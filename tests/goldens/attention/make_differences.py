#!/usr/bin/env python3
"""The same attention through three systems: writes differences.safetensors, differences.jsonl and the table of
docs/attention_differences.md.

    make_differences.py       with torch 2.x and safetensors

right   what is meant, written out below as loops over masks, in double precision
torch   scaled_dot_product_attention as a user would call it for the case
boostr  its stated semantics (v0.2.0, read, not run): top-left alignment whatever was asked, a window without a right
        side, softmax of a row of −inf, products with masked values, and on its paged CPU path one key head always

tests/ops/attention/attention_differences_test.cpp runs Quire on every case, expects `right`, and checks that the
verdicts about the other two are what their numbers say.
"""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent
INF = float("inf")

# name, what is asked, T, S, H, G, alignment, left, right, extra
TOP, BOTTOM = "top_left", "bottom_right"
CASES = [
    ("square_causal", "causal, as many queries as keys", 4, 4, 2, 2, TOP, None, 0, None),
    ("chunk", "causal, the second chunk of a prompt: 2 queries at the end of 5 keys (B8)",
     2, 5, 2, 2, BOTTOM, None, 0, None),
    ("decode", "causal, one query at the end of 5 keys (B7)", 1, 5, 2, 2, BOTTOM, None, 0, None),
    ("top_left", "top-left by name: 2 queries beside the first of 5 keys", 2, 5, 2, 2, TOP, None, 0, None),
    ("more_queries", "causal, 5 queries, the last beside the last of 2 keys: three rows see nothing (B9)",
     5, 2, 2, 2, BOTTOM, None, 0, None),
    ("window", "causal window of 3 keys", 6, 6, 2, 2, BOTTOM, 2, 0, None),
    ("two_sided", "a window of one key to either side", 6, 6, 2, 2, BOTTOM, 1, 1, None),
    ("grouped", "4 query heads on 2 key heads (B3)", 4, 4, 4, 2, BOTTOM, None, 0, None),
    ("prefill", "causal prompt over pages (B8: the model passes causal = false)",
     4, 4, 2, 2, BOTTOM, None, 0, "not_causal"),
    ("empty_row", "a mask that hides every key from query 1 (B10)", 3, 3, 2, 2, BOTTOM, None, None, "mask"),
    ("no_keys", "a sequence without keys (B10)", 2, 0, 2, 2, BOTTOM, None, None, None),
    ("nan", "NaN in a key and a value that the mask hides", 3, 4, 2, 2, BOTTOM, None, None, "nan"),
]
K = 4


def inputs(T, S, H, G):
    q = torch.cos(0.7 * torch.arange(T * H * K)).view(T, H, K)
    k = torch.sin(0.3 * torch.arange(S * G * K)).view(S, G, K)
    v = torch.cos(0.2 * torch.arange(S * G * K)).view(S, G, K)
    return q, k, v


def mask_of(extra, T, S):
    """True where a key is allowed."""
    allowed = torch.ones(T, S, dtype=torch.bool)
    if extra == "mask":
        allowed[1] = False
    if extra == "nan":
        allowed[:, 2] = False
    return allowed


def right(q, k, v, alignment, left, right_side, allowed):
    T, H, _ = q.shape
    S, G, _ = k.shape
    out = torch.zeros(T, H, K)
    for t in range(T):
        at = t if alignment == "top_left" else S - T + t
        keys = [s for s in range(S) if allowed[t, s] and (left is None or s >= at - left)
                and (right_side is None or s <= at + right_side)]
        for h in range(H):
            if keys:
                g = h // (H // G)
                weights = torch.softmax(k[keys, g] @ q[t, h] / math.sqrt(K), 0)
                out[t, h] = weights @ v[keys, g]
    return out


def in_torch(q, k, v, left, right_side, extra, allowed, G):
    T, H, _ = q.shape
    S = k.shape[0]
    options = {"enable_gqa": True} if H != G else {}
    causal = left is None and right_side == 0
    if not causal and not (left is None and right_side is None):  # windows: a mask, as its manual says
        i, j = torch.arange(T)[:, None] + S - T, torch.arange(S)[None]
        allowed = (j >= i - left) & (j <= i + right_side)
    mask = None if causal or (extra is None and left is None) else allowed
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, attn_mask=mask, is_causal=causal, **options)[0].transpose(0, 1)


def in_boostr(q, k, v, left, right_side, extra, allowed, name):
    T, H, _ = q.shape
    S, G, _ = k.shape
    causal = right_side == 0 and extra != "not_causal"
    i, j = torch.arange(T)[:, None], torch.arange(S)[None]
    hidden = torch.zeros(T, S, dtype=torch.bool)
    if causal:
        hidden |= j > i
    if left is not None:
        hidden |= j + left + 1 <= i  # its window w keeps the keys i − w + 1 … i
    if extra in ("mask", "nan"):
        hidden |= ~allowed
    if name == "grouped":  # the paged path on the CPU reads the pool as if it had one key head
        k, v = (x.reshape(-1, K)[:S, None].expand(S, G, K) for x in (k, v))
    out = torch.zeros(T, H, K)
    for h in range(H):
        g = h // (H // G)
        scores = q[:, h] @ k[:, g].T / math.sqrt(K)
        scores = scores + torch.where(hidden, -INF, 0.0)
        # exp(s − max) / Σ: a row of −inf, and a row of nothing, are 0/0
        largest = scores.max(-1, keepdim=True).values if S else torch.zeros(T, 1)
        weights = torch.exp(scores - largest)
        out[:, h] = (weights @ v[:, g]) / weights.sum(-1, keepdim=True)
    return out


def verdict(found, expected):
    if torch.isnan(found).any():
        return "NaN in " + ("all rows" if torch.isnan(found).flatten(1).any(1).all() else "a row")
    apart = (found - expected).abs().flatten(1).amax(1) if found.numel() else torch.zeros(0)
    wrong = (apart > 1e-12).nonzero().flatten().tolist()
    if not wrong:
        return "same"
    rows = f"row {wrong[0]} differs" if len(wrong) == 1 else f"rows {', '.join(map(str, wrong))} differ"
    return f"{rows} by up to {apart.max():.2f}"


def main():
    tensors, lines, table = {}, [], []
    for name, what, T, S, H, G, alignment, left, right_side, extra in CASES:
        q, k, v = inputs(T, S, H, G)
        allowed = mask_of(extra, T, S)
        if extra == "nan":
            k[2], v[2] = float("nan"), float("nan")
        expected = right(q, k, v, alignment, left, right_side, allowed)
        found = {"torch": in_torch(q, k, v, left, right_side, extra, allowed, G),
                 "boostr": in_boostr(q, k, v, left, right_side, extra, allowed, name)}
        verdicts = {system: verdict(out, expected) for system, out in found.items()}
        for part, x in {"q": q, "k": k, "v": v, "right": expected, **found}.items():
            tensors[f"{name}.{part}"] = x.contiguous()
        if extra in ("mask", "nan"):
            tensors[f"{name}.allow"] = allowed.to(torch.uint8)
        lines.append({"name": name, "alignment": alignment, "left": -1 if left is None else left,
                      "right": -1 if right_side is None else right_side, **verdicts})
        table.append(f"| {what} | same | {verdicts['torch']} | {verdicts['boostr']} |")
    save_file(tensors, HERE / "differences.safetensors")
    (HERE / "differences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = (HERE.parents[2] / "docs/attention_differences.md")
    head = page.read_text().split("| what is asked")[0]
    page.write_text(head + "| what is asked | Quire | torch | boostr |\n|---|---|---|---|\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()

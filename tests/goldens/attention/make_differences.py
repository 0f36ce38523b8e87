#!/usr/bin/env python3
"""The same attention through three systems: writes differences.safetensors, differences.jsonl and the table of
docs/attention_differences.md.

    make_differences.py       with torch 2.x and safetensors

right   what is meant, written out below as loops over masks, in double precision
torch   scaled_dot_product_attention as a user would call it for the case
boostr  its stated semantics (v0.2.0, read, not run): top-left alignment whatever was asked, a window without a right
        side, softmax of a row of −inf, products with masked values, and on its paged CPU path one key head always

Each system's gradients stand beside its outputs: of right and torch by autograd, of boostr by the dense formulas of its
paged backward, which recomputes the weights and takes Σ dO·O from the output it is given.

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


def gradient_of_output(T, H):
    return torch.sin(0.3 * torch.arange(T * H * K) + 0.5).view(T, H, K)


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


def boostr_mask(T, S, left, right_side, extra, allowed):
    """−inf where its mask hides a key."""
    i, j = torch.arange(T)[:, None], torch.arange(S)[None]
    hidden = torch.zeros(T, S, dtype=torch.bool)
    if right_side == 0 and extra != "not_causal":
        hidden |= j > i
    if left is not None:
        hidden |= j + left + 1 <= i  # its window w keeps the keys i − w + 1 … i
    if extra in ("mask", "nan"):
        hidden |= ~allowed
    return torch.where(hidden, -INF, 0.0)


def boostr_weights(q, k, mask):
    scores = q @ k.T / math.sqrt(K) + mask
    # exp(s − max) / Σ: a row of −inf, and a row of nothing, are 0/0
    largest = scores.max(-1, keepdim=True).values if len(k) else torch.zeros(len(q), 1)
    weights = torch.exp(scores - largest)
    return weights, weights.sum(-1, keepdim=True)


def in_boostr(q, k, v, mask, name):
    _, H, _ = q.shape
    S, G, _ = k.shape
    if name == "grouped":  # the paged path on the CPU reads the pool as if it had one key head
        k, v = (x.reshape(-1, K)[:S, None].expand(S, G, K) for x in (k, v))
    out = torch.zeros_like(q)
    for h in range(H):
        weights, total = boostr_weights(q[:, h], k[:, h // (H // G)], mask)
        out[:, h] = (weights @ v[:, h // (H // G)]) / total
    return out


def boostr_backward(dout, q, k, v, out, mask):
    """Of the generic paged path: keys are expanded to all query heads, and their gradients summed over each group."""
    _, H, _ = q.shape
    G = k.shape[1]
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for h in range(H):
        g = h // (H // G)
        weights, total = boostr_weights(q[:, h], k[:, g], mask)
        p = weights / total
        dp = dout[:, h] @ v[:, g].T
        ds = p * (dp - (dout[:, h] * out[:, h]).sum(-1, keepdim=True)) / math.sqrt(K)
        dq[:, h] = ds @ k[:, g]
        dk[:, g] += ds.T @ q[:, h]
        dv[:, g] += p.T @ dout[:, h]
    return dq, dk, dv


def by_autograd(forward, dout, q, k, v):
    """out, and the gradients of q, k and v."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = forward(*leaves)
    if not out.requires_grad:  # no query sees a key
        return (out, *map(torch.zeros_like, leaves))
    grads = torch.autograd.grad(out, leaves, dout, allow_unused=True)
    return (out.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads)))


def verdict(found, expected):
    if torch.isnan(found).any():
        return "NaN in " + ("all rows" if torch.isnan(found).flatten(1).any(1).all() else "a row")
    apart = (found - expected).abs().flatten(1).amax(1) if found.numel() else torch.zeros(0)
    wrong = (apart > 1e-12).nonzero().flatten().tolist()
    if not wrong:
        return "same"
    rows = f"row {wrong[0]} differs" if len(wrong) == 1 else f"rows {', '.join(map(str, wrong))} differ"
    return f"{rows} by up to {apart.max():.2f}"


def verdict_of_gradients(found, expected):
    """Which of dq, dk and dv are not right."""
    broken, wrong, worst = [], [], 0.0
    for name, x, y in zip(GRADIENTS, found, expected):
        apart = (x - y).abs().max() if x.numel() else torch.zeros(())
        if torch.isnan(x).any():
            broken.append(name)
        elif apart > 1e-12:
            wrong.append(name)
            worst = max(worst, apart.item())
    said = [f"NaN in {', '.join(broken)}"] if broken else []
    if wrong:
        said.append(f"{', '.join(wrong)} {'differ' if len(wrong) > 1 else 'differs'} by up to {worst:.2f}")
    return "; ".join(said) or "same"


GRADIENTS = ("dq", "dk", "dv")


def main():
    tensors, lines, forward, backward = {}, [], [], []
    for name, what, T, S, H, G, alignment, left, right_side, extra in CASES:
        q, k, v = inputs(T, S, H, G)
        dout = gradient_of_output(T, H)
        allowed = mask_of(extra, T, S)
        if extra == "nan":
            k[2], v[2] = float("nan"), float("nan")
        mask = boostr_mask(T, S, left, right_side, extra, allowed)
        # (Its backward is stated for the generic path, which does not take the heads for one.)
        dense = in_boostr(q, k, v, mask, "")
        found = {
            "right": by_autograd(lambda *x: right(*x, alignment, left, right_side, allowed), dout, q, k, v),
            "torch": by_autograd(lambda *x: in_torch(*x, left, right_side, extra, allowed, G), dout, q, k, v),
            "boostr": (in_boostr(q, k, v, mask, name), *boostr_backward(dout, q, k, v, dense, mask)),
        }
        line = {"name": name, "alignment": alignment, "left": -1 if left is None else left,
                "right": -1 if right_side is None else right_side}
        for part, x in {"q": q, "k": k, "v": v, "dout": dout}.items():
            tensors[f"{name}.{part}"] = x.contiguous()
        for system, (out, *gradients) in found.items():
            tensors[f"{name}.{system}"] = out.contiguous()
            for part, x in zip(GRADIENTS, gradients):
                tensors[f"{name}.{system}.{part}"] = x.contiguous()
            if system != "right":
                line[system] = verdict(out, found["right"][0])
                line[f"{system}_backward"] = verdict_of_gradients(gradients, found["right"][1:])
        if extra in ("mask", "nan"):
            tensors[f"{name}.allow"] = allowed.to(torch.uint8)
        lines.append(line)
        forward.append(f"| {what} | same | {line['torch']} | {line['boostr']} |")
        backward.append(f"| {what} | same | {line['torch_backward']} | {line['boostr_backward']} |")
    save_file(tensors, HERE / "differences.safetensors")
    (HERE / "differences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = HERE.parents[2] / "docs/attention_differences.md"
    head = page.read_text().split("\n## Outputs")[0]
    columns = "| what is asked | Quire | torch | boostr |\n|---|---|---|---|\n"
    page.write_text(head + "\n## Outputs\n\n" + columns + "\n".join(forward) + "\n\n## Gradients\n\n" + columns
                    + "\n".join(backward) + "\n")


if __name__ == "__main__":
    main()

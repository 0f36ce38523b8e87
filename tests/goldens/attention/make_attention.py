#!/usr/bin/env python3
"""Writes attention.safetensors: attention with every option as PyTorch computes it in double precision.

    make_attention.py       with torch 2.x and safetensors, in this folder

For each case NAME: NAME.q [N, H, K] (the queries of all sequences, one after the other), NAME.k [ΣS, G, K] and NAME.v
[ΣS, G, U], NAME.lengths i64 [2, B] (queries, then keys), NAME.window i64 [left, right, top-left] (-1: unlimited),
NAME.numbers f64 [scale, softcap] (0: none), and, where the case has them, NAME.slope f32 [H], NAME.sink f32 [H],
NAME.mask f32 and NAME.allow u8 [B, H, T, S] of the longest sequences. Results: NAME.out [N, H, U], NAME.lse [N, H]. Cases
whose name begins with sdpa are torch.nn.functional.scaled_dot_product_attention itself; the others are written out.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
INF = math.inf


def allowed(t, s, left, right, top_left):
    position = torch.arange(t)[:, None] + (0 if top_left else s - t)
    distance = torch.arange(s)[None, :] - position
    seen = torch.ones(t, s, dtype=torch.bool)
    if left >= 0:
        seen &= -distance <= left
    if right >= 0:
        seen &= distance <= right
    return seen, distance


def attend(q, k, v, seen, distance, scale, softcap, slope, sink, mask):
    """q [H, T, K], k and v [H, S, …]; a row that sees nothing is 0."""
    scores = (q @ k.transpose(1, 2)) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slope is not None:
        scores = scores + slope.double()[:, None, None] * distance
    if mask is not None:
        scores = scores + mask
    scores = scores.masked_fill(~seen, -INF)
    if sink is not None:
        scores = torch.cat([scores, sink.double()[:, None, None].expand(-1, q.shape[1], 1)], 2)
        v = torch.cat([v, torch.zeros_like(v[:, :1])], 1) if v.shape[1] else torch.zeros(v.shape[0], 1, v.shape[2])
    lse = torch.logsumexp(scores, 2)
    weights = torch.exp(scores - lse[..., None]).masked_fill(torch.isinf(scores), 0)
    return weights @ v, lse


def make(out, name, heads=(2, 2), sizes=(8, 8), lengths=((5,), (5,)), window=(-1, 0), top_left=False, scale=0.0,
         softcap=0.0, slope=None, sink=None, mask=None, allow=None):
    (h, g), (d, u), (queries, keys) = heads, sizes, lengths
    k_all, v_all = torch.randn(sum(keys), g, d), torch.randn(sum(keys), g, u)
    q_all = torch.randn(sum(queries), h, d)
    results, lses, q_at, k_at = [], [], 0, 0
    for b, (t, s) in enumerate(zip(queries, keys)):
        q = q_all[q_at:q_at + t].transpose(0, 1)
        k, v = (x[k_at:k_at + s].transpose(0, 1).repeat_interleave(h // g, 0) for x in (k_all, v_all))
        seen, distance = allowed(t, s, *window, top_left)
        seen = seen.expand(h, t, s)
        if allow is not None:
            seen = seen & allow[b, :, :t, :s].bool()
        bias = None if mask is None else mask[b, :, :t, :s].double()
        if bias is not None:
            seen = seen & ~torch.isinf(bias)
            bias = bias.masked_fill(torch.isinf(bias), 0)
        one, lse = attend(q, k, v, seen, distance, scale or d**-0.5, softcap, slope, sink, bias)
        if name.startswith("sdpa"):
            sdpa_mask = torch.zeros(h, t, s).masked_fill(~seen, -INF) + (0 if bias is None else bias)
            if allow is not None and mask is None:
                sdpa_mask = seen
            theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sdpa_mask, scale=scale or None)
            theirs = torch.where(seen.any(2)[..., None], theirs, 0)
            assert torch.allclose(one, theirs, atol=1e-13), name
            one = theirs
        results.append(one.transpose(0, 1))
        lses.append(lse.transpose(0, 1))
        q_at, k_at = q_at + t, k_at + s
    put = {"q": q_all, "k": k_all, "v": v_all, "lengths": torch.tensor([queries, keys]),
           "window": torch.tensor([*window, int(top_left)]), "numbers": torch.tensor([scale, softcap]),
           "slope": slope, "sink": sink, "mask": mask, "allow": allow,
           "out": torch.cat(results), "lse": torch.cat(lses)}
    out.update({f"{name}.{key}": x.contiguous().clone() for key, x in put.items() if x is not None})


def main():
    torch.manual_seed(5)
    out = {}
    all_ = (-1, -1)
    make(out, "sdpa_all", window=all_, lengths=((3,), (7,)))
    make(out, "sdpa_causal", lengths=((9,), (9,)))
    make(out, "sdpa_grouped", heads=(6, 2), lengths=((4,), (9,)))
    make(out, "sdpa_top_left", lengths=((4,), (9,)), top_left=True)
    make(out, "sdpa_more_queries_than_keys", lengths=((6,), (3,)))
    make(out, "sdpa_scale", scale=0.7, lengths=((4,), (6,)))
    make(out, "sdpa_latent_sizes", sizes=(24, 16), lengths=((4,), (6,)))
    make(out, "sdpa_ragged", heads=(4, 2), lengths=((3, 0, 1, 4, 2), (7, 5, 1, 4, 0)))
    allow = (torch.rand(2, 4, 5, 9) < 0.6).to(torch.uint8)
    allow[1, :, 2] = 0
    make(out, "sdpa_allow", heads=(4, 2), window=all_, lengths=((5, 4), (9, 6)), allow=allow)
    mask = torch.randn(2, 4, 5, 9).float()
    mask[torch.rand(2, 4, 5, 9) < 0.3] = -INF
    mask[0, 1, 3] = -INF
    make(out, "sdpa_mask", heads=(4, 2), window=all_, lengths=((5, 4), (9, 6)), mask=mask)
    make(out, "sdpa_mask_and_causal", heads=(4, 2), lengths=((5, 4), (9, 6)), mask=mask)
    make(out, "mask_and_allow", heads=(4, 2), lengths=((5, 4), (9, 6)), mask=mask, allow=allow)
    make(out, "window_left", window=(2, 0), lengths=((9,), (9,)))
    make(out, "window_both", window=(2, 1), lengths=((4,), (9,)))
    make(out, "softcap", softcap=1.5, scale=1.0, lengths=((4,), (9,)))
    slope, sink = (torch.tensor(x).float() for x in ([0.5, 0.0625, 0.25, 0.03125], [0.5, -2.0, 3.0, 0.0]))
    make(out, "slope", heads=(4, 2), slope=slope, lengths=((4, 2), (9, 3)))
    make(out, "slope_all", heads=(4, 2), slope=slope, window=all_, lengths=((4,), (9,)))
    make(out, "sink", heads=(4, 2), sink=sink, lengths=((4, 3), (9, 2)))
    make(out, "everything", heads=(4, 2), sizes=(20, 12), scale=0.9, softcap=2.0, slope=slope, sink=sink, window=(3, 1),
         lengths=((4, 5), (9, 8)), mask=mask, allow=allow)
    save_file(out, pathlib.Path(__file__).parent / "attention.safetensors")


if __name__ == "__main__":
    main()

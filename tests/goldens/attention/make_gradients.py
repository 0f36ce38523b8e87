#!/usr/bin/env python3
"""Writes gradients.safetensors: gradients of attention over pages with every option, by PyTorch in double precision.

    make_gradients.py       with torch 2.x and safetensors, in this folder

The loss is Σ dout · out + Σ dlse · lse (dlse where a row sees anything), differentiated by autograd through the table:
a page that two sequences name receives both gradients. For each case NAME: NAME.q [N, H, K], NAME.k [P, Z, G, K], NAME.v
[P, Z, G, U] (NaN in every slot that no sequence has), NAME.table i32 [B, W] (−1: none), NAME.lengths i64 [2, B] (queries,
then keys), NAME.first i64 [B] (the position of a sequence's first key), NAME.window i64 [left, right, top-left] (−1:
unlimited), NAME.numbers [scale, softcap] (0: none), NAME.dout [N, H, U] and, where the case has them, NAME.dlse [N, H],
NAME.bias f32 [P, Z, 1, G or H], NAME.slope f32 [H], NAME.sink f32 [H], NAME.mask f32 and NAME.allow u8 [B or 1, H or 1,
T or 1, S]. Results, f64: NAME.out, NAME.lse, NAME.dq, NAME.dk, NAME.dv, NAME.dbias, NAME.dslope, NAME.dsink.
tests/ops/attention/attention_gradient_golden_test.cpp reads them.
"""

import math
import pathlib

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
INF = math.inf
SLOPE = torch.tensor([0.5, 0.0625, 0.25, 0.03125]).float()
SINK = torch.tensor([0.5, -2.0, 3.0, 0.0]).float()


def seen_by(t, s, left, right, top_left):
    """Which of s keys each of t queries sees, and key − query positions."""
    distance = torch.arange(s)[None, :] - torch.arange(t)[:, None] - (0 if top_left else s - t)
    seen = torch.ones(t, s, dtype=torch.bool)
    if left >= 0:
        seen &= -distance <= left
    if right >= 0:
        seen &= distance <= right
    return seen, distance


def one_sequence(c, b, q, k, v):
    """q [T, H, K], k and v [S, G, …] of sequence b: out [T, H, U] and lse [T, H]."""
    (t, h, _), (s, g, _) = q.shape, k.shape
    seen, distance = seen_by(t, s, *c["window"], c["top_left"])
    seen = seen.expand(h, t, s)
    k, v = (x.transpose(0, 1).repeat_interleave(h // g, 0) for x in (k, v))
    scores = q.transpose(0, 1) @ k.transpose(1, 2) * (c["scale"] or q.shape[2] ** -0.5)
    if c["softcap"]:
        scores = c["softcap"] * torch.tanh(scores / c["softcap"])
    if c["slope"] is not None:
        scores = scores + c["slope"][:, None, None] * distance
    if c["bias"] is not None:
        rows = c["bias"].reshape(-1, c["bias"].shape[2])[c["slots"][b]].transpose(0, 1)  # [1, G or H, S]
        rows = rows.repeat_interleave(h // rows.shape[0], 0)[:, None, :]
        seen = seen & ~torch.isinf(rows)
        scores = scores + rows.masked_fill(torch.isinf(rows), 0)
    for name in ("mask", "allow"):
        if c[name] is None:
            continue
        part = c[name][b % c[name].shape[0]][:, :, :s].expand(h, -1, s)
        part = (part if part.shape[1] == 1 else part[:, :t]).expand(h, t, s)
        if name == "allow":
            seen = seen & part.bool()
        else:
            seen = seen & ~torch.isinf(part)
            scores = scores + part.double().masked_fill(torch.isinf(part), 0)
    scores = scores.masked_fill(~seen, -INF)
    if c["sink"] is not None:
        scores = torch.cat([scores, c["sink"][:, None, None].expand(h, t, 1)], 2)
        v = torch.cat([v, torch.zeros(h, 1, v.shape[2])], 1)
    empty = torch.isinf(scores).all(2) if scores.shape[2] else torch.ones(h, t, dtype=torch.bool)
    scores = torch.where(empty[..., None], 0.0, scores)  # keeps the NaN of 0/0 out of autograd
    lse = torch.logsumexp(scores, 2) if scores.shape[2] else torch.zeros(h, t)
    out = torch.where(empty[..., None], 0.0, torch.softmax(scores, 2) @ v)
    return out.transpose(0, 1), torch.where(empty, -INF, lse).transpose(0, 1)


def make(file, name, heads=(2, 2), sizes=(5, 5), lengths=((4, 3), (7, 6)), table=((4, 1), (0, 2)), slots=4, window=(-1, 0),
         top_left=False, scale=0.0, softcap=0.0, bias=0, slope=None, sink=None, mask=None, allow=None, first=None, dlse=True,
         hide_bias=False):
    (h, g), (d, u), (queries, keys) = heads, sizes, lengths
    pages, n = max(max(row) for row in table) + 2, sum(queries)
    # One page more than anyone names; its slots, and those behind a sequence's end, are NaN.
    slots_of = [torch.tensor([row[s // slots] * slots + s % slots for s in range(count)], dtype=torch.long)
                for row, count in zip(table, keys)]
    used = torch.zeros(pages * slots, dtype=torch.bool)
    for one in slots_of:
        used[one] = True

    def pool(*shape, dtype=torch.float64):
        x = torch.randn(pages * slots, *shape).to(dtype)
        x[~used] = math.nan
        return x.view(pages, slots, *shape)

    q, k, v = torch.randn(n, h, d), pool(g, d), pool(g, u)
    bias = pool(bias, dtype=torch.float32) if bias else None
    if hide_bias:
        bias.view(-1, bias.shape[2])[slots_of[0][2], 0] = -INF
    dout = torch.randn(n, h, u)
    plain = {"bias": bias, "slope": slope, "sink": sink}
    leaves = {x: y.double().requires_grad_() for x, y in {"q": q, "k": k, "v": v, **plain}.items() if y is not None}
    c = {"window": window, "top_left": top_left, "scale": scale, "softcap": softcap, "mask": mask, "allow": allow,
         "slots": slots_of, **{x: leaves.get(x) for x in plain}}
    outs, lses, at = [], [], 0
    for b, t in enumerate(queries):
        rows = [leaves[x].reshape(pages * slots, g, -1)[slots_of[b]] for x in ("k", "v")]
        out, lse = one_sequence(c, b, leaves["q"][at:at + t], *rows)
        outs.append(out)
        lses.append(lse)
        at += t
    out, lse = torch.cat(outs), torch.cat(lses)
    loss = (dout * out).sum()
    if dlse:
        dlse_NH = torch.randn(n, h)
        loss = loss + (dlse_NH * torch.where(torch.isinf(lse), 0.0, lse)).sum()
        file[f"{name}.dlse"] = dlse_NH
    found = torch.autograd.grad(loss, list(leaves.values()))
    put = {"q": q, "k": k, "v": v, "table": torch.tensor(table, dtype=torch.int32), "lengths": torch.tensor([queries, keys]),
           "first": torch.tensor(first or [0] * len(keys)), "window": torch.tensor([*window, int(top_left)]),
           "numbers": torch.tensor([scale, softcap]), "dout": dout, "mask": mask, "allow": allow, **plain,
           "out": out.detach(), "lse": lse.detach(), **{"d" + x: y for x, y in zip(leaves, found)}}
    file.update({f"{name}.{key}": x.contiguous().clone() for key, x in put.items() if x is not None})


def masks(*shape):
    mask, allow = torch.randn(shape).float(), (torch.rand(shape) < 0.6).to(torch.uint8)
    mask[torch.rand(shape) < 0.3] = -INF
    if shape[2] > 1:
        mask[0, 0, 1], allow[-1, :, 2] = -INF, 0  # rows that see nothing
    return mask, allow


def main():
    torch.manual_seed(9)
    file = {}
    everything = (-1, -1)
    make(file, "causal")
    make(file, "without_dlse", dlse=False)
    make(file, "not_causal", window=everything)
    make(file, "top_left", top_left=True)
    make(file, "window", window=(2, 0))
    make(file, "window_both", window=(1, 2), top_left=True)
    make(file, "window_of_one", window=(0, 0))
    make(file, "scale", scale=0.9)
    make(file, "softcap", softcap=1.5, scale=1.0)
    make(file, "grouped", heads=(6, 2))
    make(file, "one_kv_head", heads=(4, 1))
    make(file, "wider_values", sizes=(4, 7))
    make(file, "wider_keys", sizes=(24, 16), heads=(4, 2))
    make(file, "slopes", heads=(4, 2), slope=SLOPE)
    make(file, "slopes_both_sides", heads=(4, 2), slope=SLOPE, window=everything)
    make(file, "sinks", heads=(4, 2), sink=SINK)
    for heads in (1, 2, 4):
        make(file, f"bias_{heads}", heads=(4, 2), bias=heads, hide_bias=True)
    mask, allow = masks(2, 4, 4, 7)
    make(file, "mask", heads=(4, 2), window=everything, mask=mask)
    make(file, "allow", heads=(4, 2), window=everything, allow=allow)
    make(file, "mask_and_allow_causal", heads=(4, 2), mask=mask, allow=allow)
    make(file, "one_mask_for_all", heads=(4, 2), window=everything, mask=masks(1, 1, 1, 7)[0])
    make(file, "one_allow_for_each_head", heads=(4, 2), allow=masks(1, 4, 4, 7)[1])
    ragged = {"lengths": ((3, 0, 1, 4, 2, 0), (7, 5, 1, 4, 0, 0)),
              "table": ((6, 0), (2, 5), (1, -1), (3, -1), (-1, -1), (-1, -1))}
    make(file, "ragged", heads=(4, 2), **ragged)
    make(file, "ragged_with_sinks", heads=(4, 2), sink=SINK, **ragged)
    for top_left in (False, True):
        name = "more_queries_than_keys" + ("_top_left" if top_left else "")
        make(file, name, heads=(4, 2), lengths=((6, 5), (2, 3)), top_left=top_left)
    shared = {"lengths": ((3, 2, 7), (11, 9, 8)), "table": ((5, 1, 0), (5, 1, 3), (5, 2, -1))}
    make(file, "shared_pages", heads=(4, 2), **shared)
    make(file, "a_page_twice", lengths=((4,), (11,)), table=((2, 0, 2),))
    make(file, "pages_of_one", slots=1, lengths=((2, 3), (3, 4)), table=((3, 1, 5, -1), (0, 1, 5, 2)))
    make(file, "pages_of_sixteen", slots=16, heads=(4, 2), sizes=(17, 16), lengths=((5, 20), (33, 18)),
         table=((3, 0, 1), (3, 2, -1)))
    make(file, "positions", heads=(4, 2), slope=SLOPE, window=(3, 0), first=[40, 3])
    mask, allow = masks(3, 4, 7, 11)
    make(file, "all_options", heads=(4, 2), sizes=(6, 9), window=(8, 1), scale=0.9, softcap=2.0, bias=4, slope=SLOPE,
         sink=SINK, mask=mask, allow=allow, hide_bias=True, first=[3, 0, 70], **shared)
    save_file(file, pathlib.Path(__file__).parent / "gradients.safetensors")


if __name__ == "__main__":
    main()

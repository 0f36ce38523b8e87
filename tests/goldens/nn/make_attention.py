#!/usr/bin/env python3
"""Writes attention.safetensors: three attention layers of the notebook in double precision, with their gradients.

    make_attention.py       with torch 2.x and safetensors, in this folder

For each case NAME: NAME.x, the weights NAME.q .k .v .output (outputs × inputs), NAME.dout, and for the mask kinds
`all` and `causal` NAME.KIND.out, .dx, .dq, .dk, .dv, .doutput. gqa.without_softmax is what the notebook's third class
computes: it forgot the softmax.
"""

import pathlib

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)


class SelfAttention(torch.nn.Module):
    def __init__(self, hidden, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, hidden // heads
        self.Wq = torch.nn.Linear(hidden, hidden, bias=False)
        self.Wk = torch.nn.Linear(hidden, kv_heads * self.size, bias=False)
        self.Wv = torch.nn.Linear(hidden, kv_heads * self.size, bias=False)
        self.Wo = torch.nn.Linear(hidden, hidden, bias=False)

    def forward(self, x, kind):
        b, t, _ = x.shape
        q = self.Wq(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.Wk(x).view(b, t, self.kv_heads, self.size)
        v = self.Wv(x).view(b, t, self.kv_heads, self.size)
        k = k.repeat_interleave(self.heads // self.kv_heads, dim=2).transpose(1, 2)
        v = v.repeat_interleave(self.heads // self.kv_heads, dim=2).transpose(1, 2)
        scores = q @ k.transpose(-1, -2) / self.size**0.5
        if kind == "causal":
            scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
        weights = scores if kind == "without_softmax" else torch.softmax(scores, dim=-1)
        return self.Wo((weights @ v).transpose(1, 2).reshape(b, t, -1))


def main():
    torch.manual_seed(5)
    out = {}
    for name, hidden, heads, kv_heads in (("self", 12, 1, 1), ("multi", 12, 3, 3), ("gqa", 16, 4, 2)):
        layer = SelfAttention(hidden, heads, kv_heads)
        weights = {"q": layer.Wq, "k": layer.Wk, "v": layer.Wv, "output": layer.Wo}
        x, dout = torch.randn(2, 2, 7, hidden)
        x.requires_grad_()
        out |= {f"{name}.x": x, f"{name}.dout": dout}
        out |= {f"{name}.{part}": linear.weight for part, linear in weights.items()}
        for kind in ("all", "causal"):
            y = layer(x, kind)
            gradients = torch.autograd.grad(y, [x] + [linear.weight for linear in weights.values()], dout)
            out[f"{name}.{kind}.out"] = y
            out |= {f"{name}.{kind}.d{part}": g for part, g in zip(["x", *weights], gradients)}
        if name == "gqa":
            out["gqa.without_softmax"] = layer(x, "without_softmax")
    here = pathlib.Path(__file__).parent
    save_file({name: x.detach().contiguous() for name, x in out.items()}, here / "attention.safetensors")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes statistics.safetensors: divergences, quantiles and bootstrap intervals as numpy computes them in doubles.

usage: make_statistics.py OUT.safetensors     (needs numpy and safetensors)
The bootstrap draws with numpy's own generator and 200,000 resamples: Quire's interval of 20,000 must come close to it.
"""

import sys

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(7)
rows, vocabulary = 6, 211
full = rng.normal(0, 4, (rows, vocabulary)).astype(np.float32)
other = (full + rng.normal(0, 0.5, full.shape)).astype(np.float32)
target = rng.integers(0, vocabulary, rows).astype(np.int32)


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


log_p, log_q = log_softmax(full), log_softmax(other)
kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
nll_full = -log_p[np.arange(rows), target]
nll = -log_q[np.arange(rows), target]

# A series with stretches, as the divergences along a text are.
n = 384
noise = rng.normal(0, 1, n)
series = np.empty(n)
state = 0.0
for i in range(n):
    state = 0.7 * state + noise[i]
    series[i] = np.exp(state)
levels = np.array([0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0])

block = int(np.ceil(n ** (1 / 3)))
starts = rng.integers(0, n, (200_000, n // block))
assert n % block == 0
cumulative = np.concatenate([[0], np.cumsum(np.concatenate([series, series]))])
means = (cumulative[starts + block] - cumulative[starts]).sum(axis=1) / n

save_file(
    {
        "full": full, "other": other, "target": target, "kl": kl, "nll_full": nll_full, "nll": nll,
        "series": series, "levels": levels, "quantiles": np.quantile(series, levels),
        "interval": np.quantile(means, [0.025, 0.975]), "deviation": np.array([means.std()]),
    },
    sys.argv[1],
)

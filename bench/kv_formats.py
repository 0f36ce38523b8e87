#!/usr/bin/env python3
"""What the storage of keys and values costs in accuracy: KL of each --kv to f32, over the last positions of a text.

usage: bench/kv_formats.py QUIRE MODEL TEXT [--tokens 7639] [--last 384] [--kv i8,i4,i4h]

Runs `quire score --mode exact` once for each type (the whole text is read through the cache) and compares the logits
of the last positions, teacher-forced. Needs numpy. Prints one line a type: mean, standard error, median and 99th
percentile of KL(f32 || type) in nats, and how often the first choice is the same.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import tempfile

import numpy


def tensor(path, name):
    """One tensor of a safetensors file."""
    dtypes = {"F32": numpy.float32, "F64": numpy.float64, "I32": numpy.int32}
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        return numpy.frombuffer(file.read(end - begin), dtypes[entry["dtype"]]).reshape(entry["shape"])


def log_probabilities(logits):
    shifted = logits.astype(numpy.float64) - logits.max(axis=1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(axis=1, keepdims=True))


def score(args, kv, ids, folder):
    out = pathlib.Path(folder) / f"{kv}.safetensors"
    at = ",".join(str(p) for p in range(args.tokens - args.last, args.tokens))
    subprocess.run([args.quire, "score", args.model, "--ids", ids, "--mode", "exact", "--kv", kv, "--at", at,
                    "--out", str(out), "--quiet"], check=True, stdout=subprocess.DEVNULL)
    logits = log_probabilities(tensor(out, "logits"))
    out.unlink()
    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quire")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=7639)
    parser.add_argument("--last", type=int, default=384)
    parser.add_argument("--kv", default="f16,i8,i4,i4h")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "text"
        text.write_bytes(pathlib.Path(args.text).read_bytes())
        run = subprocess.run([args.quire, "tokenize", args.model, "--file", str(text), "--json"], check=True,
                             capture_output=True, text=True)
        ids = json.loads(run.stdout)["ids"][: args.tokens]
        args.tokens = len(ids)
        listed = pathlib.Path(folder) / "ids"
        listed.write_text(" ".join(str(i) for i in ids))
        truth = score(args, "f32", str(listed), folder)
        print(f"{len(ids)} tokens, the last {args.last}", flush=True)
        for kv in args.kv.split(","):
            other = score(args, kv, str(listed), folder)
            kl = (numpy.exp(truth) * (truth - other)).sum(axis=1)
            same = (truth.argmax(axis=1) == other.argmax(axis=1)).mean()
            print(f"{kv:5} mean {kl.mean():.6f} ± {kl.std() / len(kl) ** 0.5:.6f}  median {numpy.median(kl):.6f}  "
                  f"p99 {numpy.quantile(kl, 0.99):.5f}  top-1 {same:.3f}", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes PyTorch's own samples of the index ops, with results and gradients, beside this file.

    python3 -m venv VENV && VENV/bin/pip install torch numpy safetensors expecttest pytest
    VENV/bin/python tests/goldens/index/make_index.py

The samples are the OpInfo samples that PyTorch tests itself with. README.md describes the layout.
"""

import json
import math
import pathlib
import sys
import warnings

import torch
from safetensors.torch import save_file
from torch.testing._internal.common_methods_invocations import op_db

FOLDER = pathlib.Path(__file__).resolve().parent
DTYPES = {
    torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8",
    torch.uint8: "u8", torch.bool: "bool",
}
# The names of the arguments after the input, and how many samples of each dtype at most.
OPS = {
    "gather": (("dim", "index"), 40),
    "scatter": (("dim", "index", "src"), 40),
    "scatter_add": (("dim", "index", "src"), 40),
    "scatter_reduce": (("dim", "index", "src", "reduce"), 80),
    "index_select": (("dim", "index"), 40),
    "index_add": (("dim", "index", "src"), 40),
    "index_reduce": (("dim", "index", "src", "reduce"), 80),
    "repeat_interleave": (("repeats", "dim"), 40),
    "take_along_dim": (("index", "dim"), 40),
    "sort": (("dim", "descending"), 24),
    "argsort": (("dim", "descending"), 24),
    "_segment_reduce": (("reduce",), 60),
}
RENAMED = {"indices": "index", "source": "src", "value": "src"}
MAX_ELEMENTS = 800  # of the largest tensor of a sample
SEED = 20


class Writer:
    """One safetensors file and the manifest's lines that speak of it."""

    def __init__(self, op):
        self.op, self.file = op, op.replace(".", "_") + ".safetensors"
        self.tensors, self.lines, self.cases = {}, [], 0

    def keep(self, name, tensor):
        """Stores the values row-major; strides other than row-major are told in the manifest."""
        name = f"{self.cases}.{name}"
        value = tensor.detach()
        self.tensors[name] = value.contiguous().clone()
        if value.is_contiguous():
            return {"tensor": name}
        return {"tensor": name, "strides": list(value.stride())}

    def argument(self, name, value):
        if isinstance(value, torch.Tensor):
            if name == "out":  # what it holds before it is written is anybody's guess
                memory = torch.zeros(len(value.untyped_storage()) // value.element_size())
                value = memory.to(value.dtype).as_strided(
                    value.size(), value.stride(), value.storage_offset())
            return self.keep(name, value)
        if isinstance(value, torch.dtype):
            return DTYPES[value]
        if isinstance(value, float) and not math.isfinite(value):
            return repr(value)
        return value

    def add(self, line):
        self.lines.append(line)
        self.cases += 1


def named(op, sample):
    """The sample's arguments by name, the input first."""
    out = {"input": sample.input}
    names = OPS[op][0]
    if op == "repeat_interleave" and not isinstance(sample.input, torch.Tensor):
        raise ValueError("an input that is no tensor")
    for name, value in zip(names, sample.args):
        out[name] = value
    for name, value in sample.kwargs.items():
        out[RENAMED.get(name, name)] = value
    return out


def storages(arguments):
    """Names of arguments that share memory: {"src": "input"}."""
    seen, shared = {}, {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.numel() > 0:
            start = value.untyped_storage().data_ptr()
            if start in seen:
                shared[name] = seen[start]
            seen.setdefault(start, name)
    return shared


def supported(arguments):
    for value in arguments.values():
        if isinstance(value, torch.Tensor):
            if value.dtype not in DTYPES or value.numel() > MAX_ELEMENTS:
                return False
        elif isinstance(value, complex):
            return False
    return isinstance(arguments["input"], torch.Tensor)


def gradients(writer, line, leaves, outputs, generator):
    """Random dy (rounded to the dtype), and what PyTorch's backward makes of it."""
    outputs = [y for y in outputs if y.requires_grad]
    if not outputs or not leaves:
        return
    y = outputs[0]
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    line["dy"] = writer.keep("dy", dy)
    try:
        grads = torch.autograd.grad(y, list(leaves.values()), dy, allow_unused=True)
    except RuntimeError as error:
        line["grad_error"] = str(error).splitlines()[0]
        return
    line["grads"] = {name: writer.keep("d" + name, torch.zeros_like(x) if g is None else g)
                     for (name, x), g in zip(leaves.items(), grads)}


def record(writer, call, dtype, arguments, error=None, generator=None):
    line = {"op": writer.op, "dtype": DTYPES.get(dtype, str(dtype)), "case": writer.cases,
            "file": writer.file}
    line["args"] = {name: writer.argument(name, value) for name, value in arguments.items()}
    shared = storages(arguments)
    if shared:
        line["shares"] = shared
    if error is not None:
        line["error"] = error
        return writer.add(line)
    leaves = {}
    for name, value in arguments.items():
        if name in ("input", "src") and isinstance(value, torch.Tensor):
            if value.dtype.is_floating_point and generator is not None:
                arguments[name] = leaves[name] = value.detach().clone().requires_grad_()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call(arguments)
    except (RuntimeError, IndexError, NotImplementedError) as problem:
        line["error"] = {"type": type(problem).__name__, "text": str(problem).splitlines()[0]}
        return writer.add(line)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    line["outputs"] = [writer.keep(f"out{i}", y) for i, y in enumerate(outputs)]
    gradients(writer, line, leaves, outputs, generator)
    writer.add(line)


def call_of(info, op):
    """Calls the op by the names that the manifest uses."""
    names = OPS[op][0]

    def call(arguments):
        rest = dict(arguments)
        x = rest.pop("input")
        positional = []
        for name in names:
            if name not in rest or op in ("sort", "argsort"):
                break
            positional.append(rest.pop(name))
        back = {"take_along_dim": {"index": "indices"}}.get(op, {})
        return info.op(x, *positional, **{back.get(k, k): v for k, v in rest.items()})

    return call


def key_of(arguments):
    """Equal for samples that test nothing new: the same arguments but for the numbers."""
    def one(value):
        if isinstance(value, torch.Tensor):
            return (tuple(value.shape), tuple(value.stride()), value.dtype)
        return repr(value)
    return tuple((name, one(value)) for name, value in arguments.items())


def is_special(op, arguments):
    """The zero and tie cases of scatter_reduce are written out by hand and always kept."""
    return op == "scatter_reduce" and arguments["input"].shape == (3, 2)


def samples(info, op, dtype):
    torch.manual_seed(SEED)
    seen, kept = {}, 0
    floating = dtype.is_floating_point
    for sample in info.sample_inputs("cpu", dtype, requires_grad=floating):
        try:
            arguments = named(op, sample)
        except ValueError:
            continue
        if not supported(arguments) or arguments.get("unsafe"):
            continue
        if op in ("sort", "argsort"):
            arguments["stable"] = True
        key = key_of(arguments)
        if not is_special(op, arguments):
            if seen.get(key) or kept >= OPS[op][1]:
                continue
        seen[key] = True
        kept += 1
        yield arguments


def write_op(info, op, label, generator, writers):
    writer = writers.setdefault(label, Writer(label))
    dtypes = sorted(info.supported_dtypes("cpu"), key=str)
    for dtype in dtypes:
        if dtype not in DTYPES:
            continue
        for arguments in samples(info, op, dtype):
            record(writer, call_of(info, op), dtype, arguments, generator=generator)
    for dtype in DTYPES:
        if dtype not in dtypes:
            writer.lines.append({"op": label, "dtype": DTYPES[dtype], "unsupported": True})
    if info.error_inputs_func is None:
        return
    torch.manual_seed(SEED)
    for bad in info.error_inputs("cpu"):
        try:
            arguments = named(op, bad.sample_input)
        except ValueError:
            continue
        if not supported(arguments):
            continue
        kind = bad.error_type.__name__ if isinstance(bad.error_type, type) else str(bad.error_type)
        record(writer, None, arguments["input"].dtype, arguments,
               error={"type": kind, "text": str(bad.error_regex)})


def write_bincount(writers):
    writer = writers.setdefault("bincount", Writer("bincount"))
    call = lambda a: torch.bincount(a["input"], a.get("weights"), a["minlength"])
    generator = torch.Generator().manual_seed(SEED)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        for count, minlength in ((0, 0), (0, 5), (1, 0), (7, 0), (7, 20), (40, 3)):
            x = torch.randint(0, 11, (count,), generator=generator).to(dtype)
            record(writer, call, dtype, {"input": x, "minlength": minlength})
            for weight in (torch.float32, torch.float64, torch.int64, torch.float16):
                w = torch.randn(count, generator=generator, dtype=torch.float64)
                w = (w * 5).to(weight)
                line = {"input": x, "weights": w, "minlength": minlength}
                if count in (0, 7):
                    record(writer, call, dtype, line)
    for x in (torch.tensor([1, -1, 2]), torch.zeros(2, 2, dtype=torch.int64),
              torch.tensor([0.5, 1.0])):
        record(writer, call, x.dtype, {"input": x, "minlength": 0})
    record(writer, call, torch.int64, {"input": torch.tensor([1, 2]), "minlength": -1})
    record(writer, call, torch.int64, {"input": torch.tensor([1, 2]), "minlength": 0,
                                       "weights": torch.tensor([1.0])})


def write_repeats(writers):
    """The cases that a list of counts decides, which OpInfo has few of."""
    writer = writers["repeat_interleave"]
    call = lambda a: torch.repeat_interleave(
        a["input"], a["repeats"], **{k: v for k, v in a.items() if k not in ("input", "repeats")})
    generator = torch.Generator().manual_seed(SEED)
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensor = torch.tensor
    for extra in ({"repeats": 3, "dim": 1}, {"repeats": tensor([2, 0, 1]), "dim": 0},
                  {"repeats": tensor([2]), "dim": 1}, {"repeats": tensor(2), "dim": -1},
                  {"repeats": tensor([1, 0, 2, 3], dtype=torch.int32), "dim": 1},
                  {"repeats": tensor([0, 0, 0]), "dim": 0}, {"repeats": 0, "dim": 0},
                  {"repeats": tensor([2, 0, 1]), "dim": 0, "output_size": 3},
                  {"repeats": 2}, {"repeats": tensor([2, 0, 1]), "dim": 0, "output_size": 4},
                  {"repeats": tensor([2, 0]), "dim": 0}, {"repeats": tensor([2, -1, 1]), "dim": 0},
                  {"repeats": tensor([2.0, 0.0, 1.0]), "dim": 0}, {"repeats": -1, "dim": 0}):
        record(writer, call, x.dtype, {"input": x, **extra}, generator=generator)


def main():
    generator = torch.Generator().manual_seed(SEED)
    writers = {}
    for info in op_db:
        if info.name not in OPS:
            continue
        label = info.name.lstrip("_")
        if info.variant_test_name:
            label += "." + info.variant_test_name
        write_op(info, info.name, label, generator, writers)
    write_repeats(writers)
    write_bincount(writers)
    lines = []
    for writer in writers.values():
        save_file(writer.tensors, FOLDER / writer.file)
        lines += writer.lines
    with open(FOLDER / "manifest.jsonl", "w") as out:
        out.write(json.dumps({"torch": torch.__version__, "seed": SEED}) + "\n")
        for line in lines:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
    total = sum(f.stat().st_size for f in FOLDER.iterdir())
    print(f"{len(lines)} lines, {total / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()

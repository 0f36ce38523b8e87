"""Measures llama.cpp: prints {"program", "version", "prefill": {N: tok/s}, "decode": {C: tok/s}} as JSON.

Runs inside the environment that bench/peers/install makes. The low-level API is used, so that nothing but
llama_decode and one argmax per generated token lies between the two readings of the clock.

    python llama_cpp_worker.py MODEL --ids FILE --flash on|off [--prefill 512,…] [--decode 0,…]
    python llama_cpp_worker.py MODEL --tokenize TEXT
"""

import argparse
import ctypes
import json
import pathlib
import statistics
import time

import llama_cpp
import numpy as np
import numpy.typing as npt

CHUNK = 512  # tokens of a prompt per llama_decode: its default n_ubatch
Ids = npt.NDArray[np.int32]


class Llama:
    """One model with one context of a fixed size; llama.cpp's defaults (f16 cache) but for what is named."""

    def __init__(self, model: str, context: int, threads: int, flash: str, sequences: int = 1,
                 kv: int = llama_cpp.GGML_TYPE_F16) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = -(-context // 256) * 256  # whole pages of its cache
        params.n_batch = params.n_ubatch = CHUNK
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max = sequences
        params.kv_unified = True  # sequences that are copies of one share its cells
        params.type_k = params.type_v = kv
        params.flash_attn_type = {"on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
                                  "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED}[flash]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def read(self, ids: Ids) -> None:
        """Appends `ids`; the logits of the last one are there afterwards."""
        for start in range(0, len(ids), CHUNK):
            part = np.ascontiguousarray(ids[start:start + CHUNK], dtype=np.int32)
            tokens = part.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
            if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(part))):
                raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)

    def best(self) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocab_size,))))

    def tokenize(self, text: bytes) -> list[int]:
        ids = (llama_cpp.llama_token * (len(text) + 1))()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), ids, len(ids), False, False)
        return list(ids[:count])


def prefill(llama: Llama, ids: Ids, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        llama.clear()
        start = time.perf_counter()
        llama.read(ids)
        times.append(time.perf_counter() - start)
    return len(ids) / statistics.median(times)


def decode(llama: Llama, token: int, count: int) -> float:
    """Generates `count` tokens greedily after `token`, whatever they are: the end-of-text token ends nothing."""
    start = time.perf_counter()
    for _ in range(count):
        llama.read(np.array([token], dtype=np.int32))
        token = llama.best()
    return count / (time.perf_counter() - start)


def measure(args: argparse.Namespace) -> dict[str, object]:
    text = np.array(pathlib.Path(args.ids).read_text().split(), dtype=np.int32)
    need = max([*args.prefill, *(context + args.tokens for context in args.decode)]) + 1
    ids = np.resize(text, need)  # repeats the text where it is too short
    llama = Llama(args.model, max(need, CHUNK), args.threads, args.flash)
    llama.read(ids[:64])  # warm: the weights' pages, the thread pool
    result: dict[str, dict[str, float]] = {"prefill": {}, "decode": {}}
    for size in args.prefill:
        result["prefill"][str(size)] = prefill(llama, ids[:size], 3 if size <= 1024 else 1)
    # The longer contexts grow out of the shorter ones, cut back to what was read.
    llama.clear()
    done = 0
    for context in sorted(args.decode):
        llama.read(ids[done:context])
        done = context
        result["decode"][str(context)] = decode(llama, int(ids[context]), args.tokens)
        llama_cpp.llama_memory_seq_rm(llama.memory, 0, context, -1)
    return {"program": f"llama.cpp, flash attention {args.flash}",
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "features": llama_cpp.llama_print_system_info().decode(), **result}


def sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def be_quiet() -> None:
    """llama.cpp logs dozens of lines per token. A callback in Python would cost time; C's abs() takes the level, does
    nothing, and is quick. What fails is said by the checks above."""
    llama_cpp.llama_log_set(ctypes.cast(ctypes.CDLL(None).abs, llama_cpp.llama_log_callback), ctypes.c_void_p())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ids", help="whitespace-separated token ids")
    parser.add_argument("--tokenize", metavar="TEXT", help="print the ids of this file and stop")
    parser.add_argument("--prefill", type=sizes, default=[])
    parser.add_argument("--decode", type=sizes, default=[])
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated per decode measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", choices=("on", "off"), default="off")
    args = parser.parse_args()
    be_quiet()
    if args.tokenize:
        llama = Llama(args.model, 256, args.threads, args.flash)
        print(*llama.tokenize(pathlib.Path(args.tokenize).read_bytes()))
    else:
        print(json.dumps(measure(args)))


if __name__ == "__main__":
    main()

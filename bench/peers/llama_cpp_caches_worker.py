"""Measures what llama.cpp does with a document that it has read: prints JSON. Runs inside the environment that
bench/peers/install makes.

    answers  many questions about it: {"together": s, "alone": [s, …]}. Together, each question is a sequence that
             shares the document's cells (llama_memory_seq_cp) and all are decoded as one batch; alone, one after
             another. The times are those of reading the question and writing the answer, whatever it is.
    state    {"read": s, "save": s, "load": s, "bytes": size of the file}: llama_state_save_file, and
             llama_state_load_file into a fresh context. It verifies nothing.

    python llama_cpp_caches_worker.py answers MODEL --ids FILE --document N --questions 12,9,… --tokens N --flash on|off
    python llama_cpp_caches_worker.py state MODEL --ids FILE --document N --kv f16|q8_0 --file PATH
"""

import argparse
import ctypes
import json
import os
import pathlib
import time

import llama_cpp
import numpy as np
from llama_cpp_worker import CHUNK, Ids, Llama, be_quiet, sizes

KV = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class Batch:
    """A llama_batch that is filled anew for each step."""

    def __init__(self, llama: Llama) -> None:
        self.llama = llama
        self.batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """(id, position, sequence, wanted) of each token; of the wanted ones there are logits afterwards."""
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        self.batch.n_tokens = len(tokens)
        if llama_cpp.llama_decode(self.llama.context, self.batch):
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.llama.context)

    def best(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.llama.context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.llama.vocab_size,))))


def answer(llama: Llama, document: int, questions: list[Ids], count: int) -> float:
    """Seconds to read the questions behind the document of sequence 0, and to write `count` tokens for each."""
    batch = Batch(llama)
    for s in range(len(questions)):
        llama_cpp.llama_memory_seq_cp(llama.memory, 0, s + 1, -1, -1)
    start = time.perf_counter()
    asked = [(int(token), document + t, s + 1, t + 1 == len(ids))
             for s, ids in enumerate(questions) for t, token in enumerate(ids)]
    following = [0] * len(questions)
    for begin in range(0, len(asked), CHUNK):
        part = asked[begin:begin + CHUNK]
        batch.decode(part)
        for row, (_, _, sequence, wanted) in enumerate(part):
            if wanted:
                following[sequence - 1] = batch.best(row)
    for step in range(count - 1):
        batch.decode([(token, document + len(questions[s]) + step, s + 1, True)
                      for s, token in enumerate(following)])
        following = [batch.best(row) for row in range(len(questions))]
    seconds = time.perf_counter() - start
    for s in range(len(questions)):
        llama_cpp.llama_memory_seq_rm(llama.memory, s + 1, -1, -1)
    return seconds


def measure_answers(args: argparse.Namespace) -> dict[str, object]:
    text = np.array(pathlib.Path(args.ids).read_text().split(), dtype=np.int32)
    ids = np.resize(text, args.document + sum(args.questions))  # repeats the text where it is too short
    ends = args.document + np.cumsum(args.questions)
    questions = [ids[end - size:end] for end, size in zip(ends, args.questions)]
    cells = args.document + sum(args.questions) + len(questions) * args.tokens
    llama = Llama(args.model, cells, args.threads, args.flash, len(questions) + 1)
    llama.read(ids[:args.document])
    alone = [answer(llama, args.document, [questions[i]], args.tokens) for i in args.alone]
    return {"together": answer(llama, args.document, questions, args.tokens), "alone": alone}


def measure_state(args: argparse.Namespace) -> dict[str, object]:
    text = np.array(pathlib.Path(args.ids).read_text().split(), dtype=np.int32)
    ids = np.resize(text, args.document)
    flash = "off" if args.kv == "f16" else "on"  # quantized values want it
    llama = Llama(args.model, args.document + 1, args.threads, flash, kv=KV[args.kv])
    start = time.perf_counter()
    llama.read(ids)
    read = time.perf_counter() - start
    tokens = (llama_cpp.llama_token * len(ids))(*ids.tolist())
    start = time.perf_counter()
    if not llama_cpp.llama_state_save_file(llama.context, args.file.encode(), tokens, len(ids)):
        raise SystemExit("llama_state_save_file failed")
    save = time.perf_counter() - start
    other = Llama(args.model, args.document + 1, args.threads, flash, kv=KV[args.kv])
    count = ctypes.c_size_t()
    start = time.perf_counter()
    if not llama_cpp.llama_state_load_file(other.context, args.file.encode(), tokens, len(ids), ctypes.byref(count)):
        raise SystemExit("llama_state_load_file failed")
    load = time.perf_counter() - start
    if count.value != len(ids):
        raise SystemExit(f"llama_state_load_file gave {count.value} tokens of {len(ids)}")
    return {"read": read, "save": save, "load": load, "bytes": os.path.getsize(args.file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("answers", "state"))
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="whitespace-separated token ids")
    parser.add_argument("--document", type=int, required=True, help="tokens of the document")
    parser.add_argument("--questions", type=sizes, default=[], help="tokens of each question")
    parser.add_argument("--alone", type=sizes, default=[], help="which of them are also asked alone, from 0")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--kv", choices=tuple(KV), default="f16")
    parser.add_argument("--file", default="", help="where the state goes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", choices=("on", "off"), default="off")
    args = parser.parse_args()
    be_quiet()
    print(json.dumps(measure_answers(args) if args.what == "answers" else measure_state(args)))


if __name__ == "__main__":
    main()

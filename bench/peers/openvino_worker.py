"""Measures OpenVINO GenAI: prints {"program", "version", "prefill": {N: tok/s}, "decode": {C: tok/s}} as JSON.

Runs inside the environment that bench/peers/install makes. The times are the pipeline's own: to the first token for
prefill, between the tokens after it for decode. Two things keep a prompt from being answered out of an earlier one:
prefix caching is switched off by name, and no two prompts begin with the same tokens.

    python openvino_worker.py MODEL --ids FILE --backend PA|SDPA [--prefill 512,…] [--decode 0,…]
"""

import argparse
import itertools
import json
import pathlib
import statistics

import numpy as np
import numpy.typing as npt
import openvino
import openvino_genai

Ids = npt.NDArray[np.int64]


def scheduler() -> openvino_genai.SchedulerConfig:
    """GenAI's own settings for low latency (a prompt is read in one go), but for the prefix cache."""
    config = openvino_genai.SchedulerConfig()
    config.max_num_batched_tokens = 2**31 - 1
    config.enable_prefix_caching = False
    return config


class Pipeline:
    def __init__(self, model: str, backend: str, threads: int, text: Ids) -> None:
        options: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "ATTENTION_BACKEND": backend}
        if backend == "PA":
            options["scheduler_config"] = scheduler()
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", **options)
        self.text = text
        self.starts = itertools.count(0, 7)

    def prompt(self, size: int) -> Ids:
        """`size` tokens of the text, from a new place each time, around its end."""
        start = next(self.starts)
        return np.resize(np.roll(self.text, -start), size)[None]

    def run(self, size: int, tokens: int) -> openvino_genai.PerfMetrics:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        metrics = self.pipeline.generate(openvino.Tensor(self.prompt(size)), config).perf_metrics
        read, written = metrics.get_num_input_tokens(), metrics.get_num_generated_tokens()
        if (read, written) != (size, tokens):
            raise SystemExit(f"asked to read {size} and write {tokens} tokens, but it was {read} and {written}")
        return metrics


def prefill(pipeline: Pipeline, size: int, repeats: int) -> float:
    times_ms = [pipeline.run(size, 1).get_ttft().mean for _ in range(repeats)]
    return 1000 * size / statistics.median(times_ms)


def decode(pipeline: Pipeline, context: int, tokens: int) -> float:
    """The first new token belongs to reading the prompt, hence one more; a prompt has at least one token."""
    times_ms = pipeline.run(max(context, 1), tokens + 1).raw_metrics.m_new_token_times
    return 1000 * tokens / (times_ms[-1] - times_ms[0])


def measure(args: argparse.Namespace) -> dict[str, object]:
    text = np.array(pathlib.Path(args.ids).read_text().split(), dtype=np.int64)
    pipeline = Pipeline(args.model, args.backend, args.threads, text)
    pipeline.run(64, 4)  # warm: kernels are compiled at the first use of a shape, one token and many
    result: dict[str, dict[str, float]] = {"prefill": {}, "decode": {}}
    for size in args.prefill:
        result["prefill"][str(size)] = prefill(pipeline, size, 3 if size <= 1024 else 1)
    for context in args.decode:
        result["decode"][str(context)] = decode(pipeline, context, args.tokens)
    return {"program": f"OpenVINO GenAI, {args.backend}", "version": openvino_genai.get_version(), **result}


def sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="whitespace-separated token ids")
    parser.add_argument("--prefill", type=sizes, default=[])
    parser.add_argument("--decode", type=sizes, default=[])
    parser.add_argument("--tokens", type=int, default=64, help="tokens generated per decode measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", choices=("PA", "SDPA"), default="PA", help="paged or plain attention")
    print(json.dumps(measure(parser.parse_args())))


main()

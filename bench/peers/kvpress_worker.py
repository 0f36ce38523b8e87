"""How far kvpress's policies move a model: the counterpart of the program policies_bench, on the same weights and ids.

Runs inside the environment that bench/peers/install_kvpress makes. The weights come out of the GGUF file, widened to
float32 by transformers. The document is read in one call under a press, which compresses it at its end; the tokens that
follow are fed one by one at their own positions. Prints a JSON object a line: {"cache", "budget", "kl_mean"}.

kvpress has no Quest. Its rows here are the formula of the authors' evaluation/quest_attention.py, written down anew:
pages of 16, the bound Σ max(q·min, q·max), max(3, budget / 16) pages, the last always among them, two dense layers.
`quest` chooses pages for a kv head by the sum over its query heads, of the document alone, as Quire does;
`quest_heads` for each query head by itself, as the authors do.

    kvpress_worker.py MODEL.gguf --ids FILE --document 2048 --tokens 64 --budget 128,256 --cache window,snapkv
"""

import argparse
import json
import os
import sys

import torch
from kvpress import ExpectedAttentionPress, SnapKVPress, StreamingLLMPress
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PAGE, LEAST_PAGES, DENSE_LAYERS = 16, 3, 2
PRESSES = {"window": StreamingLLMPress, "snapkv": SnapKVPress, "expected_attention": ExpectedAttentionPress}
QUEST = ("quest", "quest_heads")


class Quest:
    """What the attention function below looks up while tokens are fed."""

    policy: str | None = None
    document = budget = 0


def quest_mask(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Which keys one query attends to, [1, H, 1, S]."""
    heads, groups, length = query.shape[1], key.shape[1], Quest.document
    pages = -(-length // PAGE)
    context = key[0, :, :length]
    short = pages * PAGE - length
    low = torch.nn.functional.pad(context, (0, 0, 0, short), value=torch.inf).view(groups, pages, PAGE, -1).amin(2)
    high = torch.nn.functional.pad(context, (0, 0, 0, short), value=-torch.inf).view(groups, pages, PAGE, -1).amax(2)
    q = query[0, :, 0].view(groups, heads // groups, 1, -1)
    bound = torch.maximum(q * low[:, None], q * high[:, None]).sum(-1)  # [G, R, pages]
    if Quest.policy == "quest":
        bound = bound.sum(1, keepdim=True).expand_as(bound)
    bound = bound.reshape(heads, pages).clone()
    bound[:, -1] = torch.inf
    best = bound.topk(min(pages, max(LEAST_PAGES, Quest.budget // PAGE)), -1).indices
    chosen = torch.zeros(heads, pages, dtype=torch.bool).scatter(1, best, True)
    mask = torch.ones(heads, key.shape[2], dtype=torch.bool)
    mask[:, :length] = chosen.repeat_interleave(PAGE, 1)[:, :length]
    return mask[None, :, None]


def quest_attention(module, query, key, value, attention_mask, **options):
    if Quest.policy is not None and query.shape[2] == 1 and module.layer_idx >= DENSE_LAYERS:
        attention_mask = quest_mask(query, key)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def read(model, ids: list[int]) -> DynamicCache:
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return cache


def feed(model, ids: list[int], cache: DynamicCache, first: int) -> torch.Tensor:
    """Log-probabilities after each token, [tokens, V]; the first stands at position `first`."""
    out = []
    for n, token in enumerate(ids):
        at = torch.tensor([first + n])
        logits = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True,
                       position_ids=at[None], cache_position=at).logits
        out.append(logits[0, -1].double().log_softmax(-1))
    return torch.stack(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ids", required=True)
    parser.add_argument("--document", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--budget", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with open(args.ids, encoding="utf-8") as file:
        ids = [int(word) for word in file.read().split()]
    document, rest = ids[: args.document], ids[args.document : args.document + args.tokens]
    if len(document) < args.document or len(rest) < args.tokens:
        parser.error(f"{args.ids} holds {len(ids)} ids")
    AttentionInterface.register("quest", quest_attention)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(args.model) or ".", dtype=torch.float32,
                                                 gguf_file=os.path.basename(args.model), attn_implementation="quest")
    model.eval()
    with torch.no_grad():
        whole = feed(model, rest, read(model, document), len(document))
        for name in args.cache.split(","):
            for budget in map(int, args.budget.split(",")):
                if name in QUEST:
                    cache = read(model, document)
                    Quest.policy, Quest.document, Quest.budget = name, len(document), budget
                else:
                    # kvpress keeps int(S · (1 − ratio)).
                    press = PRESSES[name](compression_ratio=1 - (budget + 0.5) / len(document))
                    with press(model):
                        cache = read(model, document)
                    kept = {layer.keys.shape[2] for layer in cache.layers}
                    if kept != {budget}:
                        raise RuntimeError(f"{name} kept {kept} tokens, not {budget}")
                got = feed(model, rest, cache, len(document))
                Quest.policy = None
                kl = (whole.exp() * (whole - got)).sum(-1).mean().item()
                print(json.dumps({"cache": name, "budget": budget, "kl_mean": kl}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

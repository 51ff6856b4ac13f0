"""Measure the embedded model on the held-out texts: bits per byte against a byte bigram, expert loads, samples.

`python -m moe.embedded.train.evaluate` writes `moe/embedded/evaluation.json`. The model runs as transformers loads
it, in float32 on the shipped bf16 weights. A window is 1024 tokens; its first token is context only, so short context
counts against the model. The bigram is trained on the same training text, once on the domain's own and once on all
of it; the lower of the two is the one compared with.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from moe.embedded.train import bigram
from moe.embedded.train.build_tokenizer import MODEL, read_documents
from moe.embedded.train.fetch_corpora import DOMAINS, ROOT

Array = np.ndarray[Any, np.dtype[Any]]
LENGTH = 1024
PROMPTS = {
    "code": "class Queue:\n    def __init__(self, maxsize=0):\n",
    "technical": "If the connection to the server is lost,",
    "prose": "Fellow citizens of the Senate and House of Representatives:",
    "maths": "  ${\n    $( The union of two finite sets is finite. $)\n",
    "german": "Klicken Sie auf",
    "chinese": "选择单元格后，",
}


def load(folder: Path = MODEL) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes that each token stands for; a special token stands for none."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    special = set(tokenizer.all_special_ids)
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [b"" if i in special else bytes(byte_of[c] for c in word) for i, word in enumerate(words)]


def windows(tokenizer: Any, domain: str, count: int) -> Array:
    """`[count, LENGTH + 1]` ids, spread evenly over the held-out text; fewer where the text is shorter."""
    ids: list[int] = []
    for document in read_documents(domain, "heldout"):
        ids += [*tokenizer(document, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    whole = (len(ids) - 1) // LENGTH
    chosen = np.linspace(0, whole - 1, min(count, whole)).round().astype(int)
    return np.stack([np.array(ids[w * LENGTH : (w + 1) * LENGTH + 1]) for w in chosen])


@torch.no_grad()
def measure(model: Any, blocks: Array) -> tuple[float, Array]:
    """Total bits of the predicted tokens, and how many (token, choice) pairs each expert of each layer got."""
    layers, experts = model.config.num_hidden_layers, model.config.num_experts
    loads = np.zeros((layers, experts), dtype=np.int64)
    bits = 0.0
    for block in blocks:
        ids = torch.from_numpy(block)[None]
        answer = model(ids[:, :-1], output_router_logits=True)
        bits += float(F.cross_entropy(answer.logits[0], ids[0, 1:], reduction="sum")) / math.log(2)
        for layer, logits in enumerate(answer.router_logits):
            chosen = logits.topk(model.config.num_experts_per_tok, -1).indices
            loads[layer] += np.bincount(chosen.flatten().numpy(), minlength=experts)
    return bits, loads


def total_variation(loads: dict[str, Array]) -> dict[str, list[float]]:
    """Half the summed difference of two domains' expert shares, by layer, for every pair of domains."""
    share = {d: counted / counted.sum(axis=1, keepdims=True) for d, counted in loads.items()}
    names = list(share)
    return {
        f"{a}/{b}": (0.5 * np.abs(share[a] - share[b]).sum(axis=1)).round(4).tolist()
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }


def sample(model: Any, tokenizer: Any, prompt: str) -> str:
    """A continuation of 60 tokens, seeded, at temperature 0.7 from the 40 likeliest."""
    torch.manual_seed(0)
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=60, do_sample=True, temperature=0.7, top_k=40)
    return str(tokenizer.decode(out[0]))


def evaluate(count: int) -> dict[str, Any]:
    model, tokenizer = load()
    stands_for = token_bytes(tokenizer)
    training = {d: bigram.counts((ROOT / "text" / f"{d}.train").read_bytes()) for d in DOMAINS}
    pooled = np.sum(list(training.values()), axis=0)
    meta = json.loads((ROOT / "tokens" / "meta.json").read_text())
    domains: dict[str, Any] = {}
    loads: dict[str, Array] = {}
    for domain in DOMAINS:
        blocks = windows(tokenizer, domain, count)
        bits, loads[domain] = measure(model, blocks)
        texts = [[stands_for[i] for i in block] for block in blocks]
        size = sum(len(word) for text in texts for word in text[1:])
        pairs = np.sum([bigram.counts(b"".join(text)) for text in texts], axis=0)
        own, all_text = bigram.bits_per_byte(training[domain], pairs), bigram.bits_per_byte(pooled, pairs)
        domains[domain] = {
            "training": meta[domain]["train"],
            "held_out_bytes_measured": size,
            "model_bits_per_byte": round(bits / size, 4),
            "bigram_own_bits_per_byte": round(own, 4),
            "bigram_pooled_bits_per_byte": round(all_text, 4),
            "ratio": round(bits / size / min(own, all_text), 4),
            "expert_load": (loads[domain] / loads[domain].sum(axis=1, keepdims=True)).round(4).tolist(),
            "sample": sample(model, tokenizer, PROMPTS[domain]),
        }
        print(domain, {k: v for k, v in domains[domain].items() if "per_byte" in k or k == "ratio"}, flush=True)
    return {"parameters": model.num_parameters(), "domains": domains, "total_variation": total_variation(loads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--out", type=Path, default=MODEL / "evaluation.json")
    options = parser.parse_args()
    result = evaluate(options.windows)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for pair, layers in result["total_variation"].items():
        print(f"{pair:20s}", " ".join(f"{v:.2f}" for v in layers))


if __name__ == "__main__":
    main()

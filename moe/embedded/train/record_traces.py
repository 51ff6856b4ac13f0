"""Record the embedded model's routing on held-out text of each domain, prefill and sampled decode.

`python -m moe.embedded.train.record_traces` writes `configs/workload/traces/embedded-<domain>.npz` in the trace
format of the workloads (version 1), with the token ids beside the routing. Computed in float32 on the shipped weights.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emulation.trace import Trace
from moe import determinism
from moe.checkpoint import Checkpoint
from moe.embedded.train.build_tokenizer import MODEL
from moe.embedded.train.evaluate import load, windows
from moe.embedded.train.fetch_corpora import DOMAINS
from moe.generate import Generation, Sampling
from moe.hook import ExpertHook, LocalExperts
from moe.record import record

MODEL_ID = "moelab-embedded"
TRACES = Path("configs/workload/traces")
FORMAT_VERSION = 1


def write(path: Path, prompts: Sequence[Sequence[int]], answer: Generation, trace: Trace) -> None:
    """One compressed .npz; weights in float16, which keeps three digits of a combine weight."""
    columns = {**trace.arrays(), "num_experts": np.array(trace.num_experts), "model": np.array(trace.model)}
    columns["weights"] = columns["weights"].astype(np.float16)
    texts = [[*prompt, *new] for prompt, new in zip(prompts, answer.tokens, strict=True)]
    columns["tokens"] = np.array(
        [texts[s][p] for s, p in zip(trace.sequence, trace.position, strict=True)], dtype=np.uint16
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, format_version=np.int64(FORMAT_VERSION), **columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--out", type=Path, default=TRACES)
    options = parser.parse_args()
    determinism.pin()
    model, tokenizer = load()
    hook = ExpertHook(model, LocalExperts(Checkpoint(MODEL)))
    with hook:
        for domain in DOMAINS:
            blocks = windows(tokenizer, domain, options.sequences)[:, : options.prompt_tokens]
            prompts = [[int(token) for token in block] for block in blocks]
            # The last new token is never fed back, so it has no routing: one more makes the decode rows complete.
            answer, trace = record(
                hook,
                prompts,
                options.decode_tokens + 1,
                model=MODEL_ID,
                num_experts=model.config.num_experts,
                sampling=Sampling(seed=DOMAINS.index(domain), temperature=options.temperature),
            )
            path = options.out / f"embedded-{domain}.npz"
            write(path, prompts, answer, trace)
            print(f"{path} {path.stat().st_size} bytes, {len(trace.step)} tokens in {answer.steps} steps", flush=True)


if __name__ == "__main__":
    main()

"""Train the embedded model on the packed tokens.

`python -m moe.embedded.train.train --seconds 330 --out DIR` uses CUDA where there is one, else the CPU. The number of
steps is set from the measured speed and logged; `--steps N` repeats a logged run. `DIR` receives the weights in hub
names (`weights-<i>.safetensors`) and `log.json`.
"""

import argparse
import json
import lzma
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from moe.embedded.train.network import Network, Shape, hub_tensors

PEAK_RATE = 3e-3
WARM_UP_STEPS = 200
BALANCE_WEIGHT = 0.01
Z_WEIGHT = 0.001
WEIGHT_DECAY = 0.1
MEASURED_STEPS = 30
PART_BYTES = 12_000_000


class Corpus:
    """All token files on one device; domains are drawn in proportion to (size)^0.75."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.domains = list(self.meta)
        self.device = device
        parts = {(d, s): self._read(folder, d, s) for d in self.domains for s in ("train", "heldout")}
        self.heldout = {d: parts[d, "heldout"].to(device) for d in self.domains}
        lengths = torch.tensor([len(parts[d, "train"]) for d in self.domains])
        self.train = torch.cat([parts[d, "train"] for d in self.domains]).to(device)
        self.start = (lengths.cumsum(0) - lengths).to(device)
        self.length = lengths.to(device)
        weight = lengths.double() ** 0.75
        self.weight = (weight / weight.sum()).to(device)

    @staticmethod
    def _read(folder: Path, domain: str, split: str) -> Tensor:
        data = lzma.decompress((folder / f"{domain}.{split}.xz").read_bytes())
        return torch.from_numpy(np.frombuffer(data, dtype="<u2").astype(np.int16))

    def batch(self, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """`[rows, length + 1]` token ids from random places."""
        domain = torch.multinomial(self.weight, rows, replacement=True, generator=generator)
        place = torch.rand(rows, device=self.device, dtype=torch.float64, generator=generator)
        first = self.start[domain] + (place * (self.length[domain] - length - 1)).long()
        return self.train[first[:, None] + torch.arange(length + 1, device=self.device)].long()


@torch.no_grad()
def heldout_bits_per_byte(network: Any, corpus: Corpus, length: int, windows: int) -> dict[str, float]:
    """Bits per byte on the first `windows` windows of each domain's held-out text."""
    result = {}
    for domain, tokens in corpus.heldout.items():
        count = min(windows, (len(tokens) - 1) // length)
        nats = 0.0
        for first in range(0, count, 16):
            rows = range(first, min(first + 16, count))
            block = torch.stack([tokens[r * length : (r + 1) * length + 1].long() for r in rows])
            with torch.autocast(corpus.device.type, torch.bfloat16):
                logits = network(block[:, :-1])[0]
            nats += float(F.cross_entropy(logits.float().flatten(0, 1), block[:, 1:].flatten(), reduction="sum"))
        size = corpus.meta[domain]["heldout"]
        result[domain] = nats / (count * length) / math.log(2) * size["tokens"] / size["bytes"]
    return result


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    return PEAK_RATE * min((step + 1) / WARM_UP_STEPS, (steps - step) / max(1, steps - WARM_UP_STEPS))


def optimizer_of(network: Network, device: torch.device) -> torch.optim.Optimizer:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=device.type == "cuda")


def save_parts(network: Network, out: Path) -> None:
    """Write the weights in files of at most about `PART_BYTES`."""
    part: dict[str, Tensor] = {}
    size = number = 0
    tensors = hub_tensors(network)
    for position, (name, tensor) in enumerate(tensors.items()):
        part[name] = tensor.contiguous()
        size += tensor.numel() * tensor.element_size()
        if size >= PART_BYTES or position == len(tensors) - 1:
            save_file(part, str(out / f"weights-{number}.safetensors"), metadata={"format": "pt"})
            part, size, number = {}, 0, number + 1


def train(options: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(options.tokens, device)
    shape = Shape()
    network = Network(shape, options.seed).to(device)
    optimizer = optimizer_of(network, device)
    generator = torch.Generator(device).manual_seed(options.seed)
    model: Any = torch.compile(network) if options.compile else network
    steps = options.steps or 10**9
    log: list[dict[str, Any]] = []
    started = mark = time.monotonic()
    step = 0
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        block = corpus.batch(options.rows, options.length, generator)
        with torch.autocast(device.type, torch.bfloat16):
            logits, balance, z_loss = model(block[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), block[:, 1:].flatten())
        (loss + BALANCE_WEIGHT * balance + Z_WEIGHT * z_loss).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step in (MEASURED_STEPS, 2 * MEASURED_STEPS) and not options.steps:
            loss.item()
            now = time.monotonic()
            if step == 2 * MEASURED_STEPS:
                steps = step + int((options.seconds - (now - started)) / ((now - mark) / MEASURED_STEPS))
                print(f"{(now - mark) / MEASURED_STEPS * 1e3:.1f} ms a step, {steps} steps", flush=True)
            mark = now
        if step % options.report == 0 or step == steps:
            entry = {
                "step": step,
                "of": steps,
                "seconds": round(time.monotonic() - started, 1),
                "loss": round(loss.item(), 4),
                "balance": round(balance.item(), 4),
                "bits_per_byte": heldout_bits_per_byte(network, corpus, options.length, options.windows),
            }
            log.append(entry)
            bits = " ".join(f"{d} {b:.3f}" for d, b in entry["bits_per_byte"].items())
            print(f"{step}/{steps} {entry['seconds']} s loss {entry['loss']} bal {entry['balance']} {bits}", flush=True)
    save_parts(network, options.out)
    record = {
        "shape": asdict(shape),
        "options": {k: v for k, v in vars(options).items() if not isinstance(v, Path)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "domain_weight": dict(zip(corpus.domains, corpus.weight.tolist(), strict=True)),
        "log": log,
    }
    (options.out / "log.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, default=Path("corpora/tokens"))
    parser.add_argument("--out", type=Path, default=Path("corpora/trained"))
    parser.add_argument("--seconds", type=float, default=330.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--report", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="fuse the training step with torch.compile")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

"""Record which experts a transformers model routes its tokens to, as a trace file that moelab replays.

One file that needs torch, transformers 5 or newer and numpy, and nothing of moelab: copy it to where the model runs.

    python record_routing.py MODEL --prompts prompts.txt --batch 8 --max-new-tokens 128 --out routing.npz

or around code of your own:

    with Recorder(model) as recorder:
        model.generate(**inputs)            # any batch, padded on the left; each call begins new sequences
    recorder.write("routing.npz", "my-model")

It listens where the router's choice arrives: at the entry of each layer's experts. Every token that the attention mask
names is recorded, in prefill and in decode, and no padding; a sequence ends with its end token, after which `generate`
feeds what fills its row. Format: docs/traces.md.
"""

import argparse
import os
import re
from typing import Any

import numpy as np
import torch

FORMAT_VERSION = 1
LAYER = re.compile(r"\blayers\.(\d+)\.(?:.+\.)?experts$")


class Recorder:
    """Records a model's routing while it is entered. `eos`: end tokens; by default those of its generation config."""

    def __init__(self, model: torch.nn.Module, eos: Any = None) -> None:
        self.model = model
        self.layers = {int(found[1]): module for name, module in model.named_modules()
                       if (found := LAYER.search(name)) and hasattr(module, "num_experts")}
        if not self.layers:
            raise ValueError(f"{type(model).__name__} has no layer whose experts transformers calls with the router's "
                             "choice: transformers 5 or newer and a Mixture-of-Experts model are needed")
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None) if eos is None else eos
        self.eos = {configured} if isinstance(configured, int) else set(configured or ())
        self._experts: dict[int, list[np.ndarray]] = {layer: [] for layer in self.layers}
        self._weights: dict[int, list[np.ndarray]] = {layer: [] for layer in self.layers}
        self._rows: list[np.ndarray] = []
        self._step = -1
        self._first = self._next = 0
        self._live = torch.zeros(0, dtype=torch.bool)
        self._length = np.zeros(0, np.int64)
        self._handles: list[Any] = []

    def __enter__(self) -> "Recorder":
        self._handles = [self.model.register_forward_pre_hook(self._forward, with_kwargs=True)]
        for layer, module in self.layers.items():
            self._handles.append(module.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: self._routed(layer, [*args, *kwargs.values()]), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which of the coming pass's tokens are none of padding, and whose they are."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise ValueError("the model was called without input_ids: tokens and padding cannot be told apart")
        past = kwargs.get("past_key_values")
        begins = past is None or int(past.get_seq_length()) == 0
        if begins:
            self._first, self._next = self._next, self._next + len(ids)
            self._live = torch.ones(len(ids), dtype=torch.bool)
            self._length = np.zeros(len(ids), np.int64)
        elif len(ids) != len(self._live):
            raise ValueError(f"a batch of {len(self._live)} sequences went on with {len(ids)}: reordered or expanded "
                             "batches (beam search) are not recorded")
        else:
            ended = torch.tensor([int(row[0]) in self.eos for row in ids.cpu()])
            self._live &= ~ended
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(ids)
        elif mask.ndim != 2:
            raise ValueError(f"the attention mask has {mask.ndim} dimensions; that of tokens, [batch, length], says "
                             "which are padding")
        self._mask = (mask[:, -ids.shape[1]:].cpu() != 0) & self._live[:, None]
        self._step += 1
        row, column = self._mask.nonzero().numpy().T
        position = self._length[row] + np.cumsum(self._mask.numpy(), axis=1)[row, column] - 1
        self._length += self._mask.sum(dim=1).numpy()
        phase = np.full(len(row), 0 if begins or ids.shape[1] > 1 else 1)
        self._rows.append(np.stack([np.full(len(row), self._step), self._first + row, position, phase,
                                    ids.cpu()[self._mask].numpy()], axis=1))

    def _routed(self, layer: int, given: list[Any]) -> None:
        """Note what the router of a layer chose: the second and third thing that its experts are called with."""
        experts, weights = (value.detach().cpu().reshape(-1, value.shape[-1]) for value in given[1:3])
        if len(experts) != self._mask.numel():
            raise ValueError(f"layer {layer} routed {len(experts)} tokens of a pass of {self._mask.numel()}")
        live = self._mask.reshape(-1)
        self._experts[layer].append(experts[live].numpy().astype(np.uint16))
        self._weights[layer].append(weights[live].float().numpy())

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """The trace recorded so far, column by column."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 5), np.int64)
        layers = sorted(self.layers)
        seen = [sum(map(len, self._experts[layer])) for layer in layers]
        if not len(rows) or any(count != len(rows) for count in seen):
            raise ValueError(f"{len(rows)} tokens went through the model, and {seen} through its layers")
        kept = {"step": rows[:, 0], "sequence": rows[:, 1], "position": rows[:, 2], "tokens": rows[:, 4]}
        return {
            "format_version": np.int64(FORMAT_VERSION), "model": np.array(name),
            "num_experts": np.int64(max(int(module.num_experts) for module in self.layers.values())),
            "layer_ids": np.array(layers, np.uint16),
            "experts": np.stack([np.concatenate(self._experts[layer]) for layer in layers], axis=1),
            "weights": np.stack([np.concatenate(self._weights[layer]) for layer in layers], axis=1),
            "phase": rows[:, 3].astype(np.uint8),
            **{column: values.astype(np.int32) for column, values in kept.items()},
        }

    def write(self, path: str, name: str) -> int:
        """Write the trace file, whole or not at all, and return how many tokens it holds."""
        columns = self.columns(name)
        with open(f"{path}.part", "wb") as file:
            np.savez_compressed(file, **columns)
        os.replace(f"{path}.part", path)
        return len(columns["step"])


def main() -> None:
    """Answer prompts with a model, and write the routing of every token."""
    parser = argparse.ArgumentParser(description="Record the routing of a transformers Mixture-of-Experts model.")
    parser.add_argument("model", help="a name on the hub, or a folder")
    parser.add_argument("--prompts", required=True, help="a text file with one prompt a line")
    parser.add_argument("--out", required=True, help="the trace file (.npz) to write")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(options.prompts, encoding="utf-8") as file:
        prompts = [line.rstrip("\n") for line in file if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).to(options.device).eval()
    with Recorder(model) as recorder, torch.inference_mode():
        for at in range(0, len(prompts), options.batch):
            inputs = tokenizer(prompts[at:at + options.batch], return_tensors="pt", padding=True).to(options.device)
            model.generate(**inputs, max_new_tokens=options.max_new_tokens, do_sample=False)
    print(f"{options.out}: {recorder.write(options.out, os.path.basename(options.model.rstrip('/')))} tokens")


if __name__ == "__main__":
    main()

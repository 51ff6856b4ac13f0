"""Every exact policy answers as the embedded model does by itself: the same tokens, and every logit alike."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import cluster.execute
import moelab
from cluster.resolve import EMBEDDED_FOLDER
from emulation.errors import ConfigError
from moe.determinism import pin
from moe.generate import generate
from schedulers.registry import policy_class, policy_names

MACHINES = {"edge-gpu-ndp": "bf16", "v100-node": "fp16", "chiplet-2x2": "int8"}
"""Machines that one or the other policy makes sense on, and a precision that they compute in (which times only)."""

EXACT = [name for name in policy_names() if policy_class(name).exact is True
         and getattr(policy_class(name), "clairvoyant", False) is not True]
TEXTS = ["It was", "def read"]
TOKENS = 3
CLOSE = 2e-5
"""Slices of an expert are added in another order than a whole one's columns: fp32 rounding of logits of size 10."""


class Watched:
    """`generate`, with the logits that the model gave."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []
        self.asked: tuple[Any, ...] = ()

    def __call__(self, model: torch.nn.Module, *asked: Any, **more: Any) -> Any:
        self.asked = asked
        handle = model.register_forward_hook(lambda _module, _args, answer: self.logits.append(answer.logits.clone()))
        try:
            return generate(model, *asked, **more)
        finally:
            handle.remove()


@cache
def alone(asked: tuple[Any, ...]) -> tuple[list[torch.Tensor], Any]:
    """Logits and tokens of plain transformers for the same prompts."""
    pin()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(EMBEDDED_FOLDER), dtype=torch.float32,
                                                 attn_implementation="eager", experts_implementation="eager").eval()
    watched = Watched()
    prompts, limits = asked
    return watched.logits, watched(model, prompts, limits).tokens


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_policy_gives_the_logits_of_plain_transformers(
        name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr(cluster.execute, "generate", watched)
    result = somewhere(name, tmp_path, lambda path: moelab.run(path))
    prompts, limits = watched.asked
    logits, tokens = alone((tuple(map(tuple, prompts)), tuple(limits)))
    assert result.exact
    assert result.text is not None
    assert [answer.token_ids for answer in result.text] == [tuple(row) for row in tokens]
    assert len(watched.logits) == len(logits) == TOKENS
    for got, wanted in zip(watched.logits, logits, strict=True):
        assert (got - wanted).abs().max() <= CLOSE


def somewhere(name: str, folder: Path, run: Callable[[Path], moelab.Result]) -> moelab.Result:
    """The policy's run on the first machine that it makes sense on."""
    parameters = {"slots": 3} if "slots" in policy_class(name).__dataclass_fields__ else {}
    told = []
    for machine, precision in MACHINES.items():
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump({
            "machine": machine, "precision": precision, "model": "embedded", "engine": "spec", "forecast": "next_gate",
            "policy": {"name": name, "parameters": parameters},
            "workload": {"work": "execute", "texts": TEXTS, "batch": 2, "output_tokens": TOKENS}}))
        try:
            return run(path)
        except ConfigError as refused:
            told.append(str(refused))
    raise AssertionError("no machine suits it: " + "; ".join(told))

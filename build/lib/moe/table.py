"""The family table: every family's tiny checkpoint through our hook against plain transformers, as markdown.

`python -m moe.table OUT.md` writes it and ends with 1 when a row breaks its promise.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from moe import determinism
from moe.families import family

PARTS = 3
RELATIVE = 1e-5  # of the largest logit, fp32, where tensor parallelism reorders sums
ROUNDED = {"nllb-moe": 1e-6}
"""Where whole experts give the plain model's logits up to this: its outputs are scaled twice, by router and dropout."""
PROMPT_TOKENS = 12
DECODE_STEPS = 4


@dataclass(frozen=True)
class Row:
    """One family: calls through the hook, and the largest logit difference as a share of the largest logit."""

    model_type: str
    calls: int
    whole: float
    split: float
    top1_kept: bool

    @property
    def holds(self) -> bool:
        """Whether whole experts give the plain model's bits, and split ones its logits and its choices."""
        whole = self.whole <= ROUNDED.get(self.model_type, 0.0)
        return self.calls > 0 and whole and self.split <= RELATIVE and self.top1_kept


def measure(model_type: str, folder: Path) -> Row:
    """Prefill and decode the checkpoint in `folder` plain, with whole experts, and with experts cut in three."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from moe.checkpoint import Checkpoint
    from moe.handed import repaired
    from moe.hook import ExpertHook, LocalExperts
    from moe.shell import load_shell

    kind: Any = AutoModelForSeq2SeqLM if family(model_type).stacks else AutoModelForCausalLM
    plain = kind.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    )
    prompt = torch.arange(3, 3 + 2 * PROMPT_TOKENS).reshape(2, PROMPT_TOKENS)
    with repaired(plain):
        expected, fed = _logits(plain, prompt, None)
    checkpoint = Checkpoint(folder)
    shell = load_shell(checkpoint)
    scale = float(expected.abs().max())
    differences, calls, kept = [], [], True
    for parts in (1, PARTS):
        with ExpertHook(shell, LocalExperts(checkpoint, parts)) as hook:
            got, _ = _logits(shell, prompt, fed)
        hook.check()
        calls.append(hook.calls)
        differences.append(float((got - expected).abs().max()) / scale)
        best = expected.topk(2, dim=-1).values
        clear = (best[..., 0] - best[..., 1]) > 2 * RELATIVE * scale
        kept &= bool((got.argmax(-1) == expected.argmax(-1))[clear].all())
    return Row(model_type, min(calls), differences[0], differences[1], kept)


def _logits(model: Any, prompt: Any, fed: Any) -> tuple[Any, Any]:
    """Logits of prefill and of each decode step, fed with `fed` or else with the model's own choices."""
    import torch

    if model.config.is_encoder_decoder:
        return _translated(model, prompt, fed)
    with torch.no_grad():
        answer = model(input_ids=prompt, use_cache=True)
        logits, tokens = [answer.logits.reshape(-1, answer.logits.shape[-1])], []
        for step in range(DECODE_STEPS):
            token = answer.logits[:, -1:].argmax(-1) if fed is None else fed[step]
            answer = model(input_ids=token, past_key_values=answer.past_key_values, use_cache=True)
            tokens.append(token)
            logits.append(answer.logits[:, -1])
    return torch.cat(logits), tokens


def _translated(model: Any, prompt: Any, fed: Any) -> tuple[Any, Any]:
    """The same of a model with an encoder, which reads the prompt once, the first a token shorter than the others."""
    import torch

    mask = torch.ones_like(prompt)
    mask[0, -1] = 0
    prompt = torch.where(mask.bool(), prompt, model.config.pad_token_id)
    with torch.no_grad():
        read = model.get_encoder()(input_ids=prompt, attention_mask=mask)
        token, past = torch.full((len(prompt), 1), model.config.decoder_start_token_id), None
        logits, tokens = [], []
        for step in range(DECODE_STEPS + 1):
            answer = model(encoder_outputs=read, attention_mask=mask, decoder_input_ids=token, past_key_values=past,
                           use_cache=True)
            past = answer.past_key_values
            logits.append(answer.logits[:, -1])
            token = answer.logits[:, -1:].argmax(-1) if fed is None else fed[step]
            tokens.append(token)
    return torch.cat(logits), tokens


def markdown(rows: list[Row]) -> str:
    """The table, with the families that are refused below it."""
    from moe.families import OUTSIDE

    lines = [
        "# Model families",
        "",
        f"Tiny random checkpoints in the hub's layout; prefill and {DECODE_STEPS} decode steps by the hook, fp32.",
        "Differences are the largest logit difference to plain transformers (eager), as a share of the largest logit.",
        "",
        f"| family | hook calls | whole experts | cut in {PARTS} | top-1 kept | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.model_type} | {row.calls} | {row.whole:.1e} | {row.split:.1e} |"
            f" {'yes' if row.top1_kept else 'no'} | {'ok' if row.holds else 'BROKEN'} |"
            for row in rows
        ),
        "",
        "nllb-moe is compared with plain transformers after one repair: version 5.23 sends all tokens to experts 0 and",
        "1 (`moe/handed.py`, `repaired`). Its outputs are scaled twice, so whole experts agree up to rounding.",
        "",
        "Refused by name:",
        "",
        *(f"- {name}: {reason}" for name, reason in OUTSIDE.items()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the table to the path given; 0 when every row holds."""
    if len(arguments) != 1:
        print("usage: python -m moe.table OUT.md", file=sys.stderr)
        return 2
    determinism.pin()
    from transformers.utils import logging

    from moe.families import FAMILIES
    from moe.tiny import write_tiny

    cast(Any, logging).disable_progress_bar()
    rows = []
    for model_type in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(model_type, write_tiny(model_type, Path(folder))))
    Path(arguments[0]).write_text(markdown(rows), encoding="utf-8")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

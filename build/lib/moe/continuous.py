"""Forward passes over tokens of several sequences at once, without padding: each sequence has a cache of its own.

All rows of a pass stand in one line; only attention looks at sequences one by one, each against its own keys and
values. So sequences join and leave from pass to pass without copies, a prompt may come in chunks, and what a sequence
gets does not depend on who stands beside it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from emulation.errors import InputError
from moe.lean import import_transformers

import_transformers()

from transformers import PreTrainedModel  # noqa: E402 (after the lean import)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

ATTENTION = "moelab_continuous"
FIRST_ROOM = 64
"""Positions for which a cache has room at first; it doubles when they are used up."""


class Piece(NamedTuple):
    """Tokens of one sequence that a pass computes: they follow the `first` positions that its cache holds."""

    sequence: int
    first: int
    tokens: Sequence[int]


class _Cache:
    """Keys and values of one sequence, by layer: each [heads, positions, width]."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, layer: int, first: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new rows behind the first positions; all keys and values up to there."""
        end = first + key.shape[1]
        kept = self._kept.get(layer)
        if kept is None or kept[0].shape[1] < end:
            room = max(FIRST_ROOM, 1 << (end - 1).bit_length())
            grown = [new.new_empty((new.shape[0], room, new.shape[2])) for new in (key, value)]
            for old, new in zip(kept or (), grown, strict=False):
                new[:, :first] = old[:, :first]
            kept = self._kept[layer] = grown[0], grown[1]
        kept[0][:, first:end], kept[1][:, first:end] = key, value
        return kept[0][:, :end], kept[1][:, :end]


class Continuous:
    """A causal language model whose passes take pieces of any sequences. Its model's attention is replaced."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._caches: dict[int, _Cache] = {}
        self._pieces: Sequence[Piece] = ()
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend)
        model.config._attn_implementation = ATTENTION
        layers = [module for name, module in model.named_modules() if name.endswith("attn") and
                  isinstance(getattr(module, "layer_idx", None), int)]
        if not layers:
            raise InputError(f"no layer of this {model.config.model_type!r} goes through transformers' attention "
                             "interface: it cannot be batched continuously")
        for module in layers:
            module.__dict__["moelab_continuous"] = self

    @property
    def sequences(self) -> int:
        """How many sequences have a cache."""
        return len(self._caches)

    def drop(self, sequence: int) -> None:
        """Forget the cache of a sequence."""
        self._caches.pop(sequence, None)

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece], wanted: Sequence[int]) -> torch.Tensor:
        """Compute the pieces. wanted: rows, counted over all pieces; their logits, [wanted, vocabulary], float64."""
        for piece in pieces:
            if piece.first == 0:
                self._caches[piece.sequence] = _Cache()
        self._pieces = pieces
        ids = torch.tensor([[token for piece in pieces for token in piece.tokens]])
        positions = torch.cat([torch.arange(p.first, p.first + len(p.tokens)) for p in pieces])[None]
        rows = torch.tensor(list(wanted) or [0])
        answer = cast(Any, self.model)(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=rows)
        logits: torch.Tensor = answer.logits[0].to(torch.float64)
        return logits[:len(wanted)]

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float,
               window: int | None, sinks: torch.Tensor | None) -> torch.Tensor:
        """Attention of one layer, [1, rows, heads, width], of [1, heads, rows, width] each."""
        out, at = [], 0
        for piece in self._pieces:
            end = at + len(piece.tokens)
            keys, values = self._caches[piece.sequence].add(layer, piece.first, key[0, :, at:end], value[0, :, at:end])
            out.append(_softmax(query[0, :, at:end], keys, values, piece.first, scaling, window, sinks))
            at = end
        return torch.cat(out, dim=1).transpose(0, 1)[None]


def _softmax(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, scaling: float,
             window: int | None, sinks: torch.Tensor | None) -> torch.Tensor:
    """Causal attention of one sequence as transformers' eager path computes it, [heads, rows, width]."""
    groups = query.shape[0] // key.shape[0]
    key, value = (part.repeat_interleave(groups, dim=0) if groups > 1 else part for part in (key, value))
    scores = torch.matmul(query, key.transpose(1, 2)) * scaling
    rows, positions = scores.shape[1:]
    if rows > 1 or window is not None:
        own, others = torch.arange(first, first + rows)[:, None], torch.arange(positions)[None]
        hidden = others > own
        if window is not None:
            hidden = hidden | (others <= own - window)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    if sinks is None:
        chances = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    else:
        sink = sinks.reshape(-1, 1, 1).expand(-1, rows, 1).to(scores.dtype)
        wide = torch.cat([scores, sink], dim=-1)
        wide = wide - wide.max(dim=-1, keepdim=True).values
        chances = torch.softmax(wide, dim=-1)[..., :-1].to(query.dtype)
    return torch.matmul(chances, value)


def _attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any,
            scaling: float | None = None, sliding_window: int | None = None, s_aux: torch.Tensor | None = None,
            **__: Any) -> tuple[torch.Tensor, None]:
    continuous = cast(Continuous, module.__dict__["moelab_continuous"])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return continuous.attend(cast(int, module.layer_idx), query, key, value, scale, sliding_window, s_aux), None

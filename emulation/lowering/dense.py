"""What happens outside the routed experts: attention, dense and shared FFNs, the router, the head."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.emit import Emitter
from emulation.model import Model, Work
from emulation.ops import Edge
from emulation.view import Step

Hidden = dict[int, list[Edge]]
"""Home device -> edges after which the hidden state of its tokens is there."""


@dataclass(frozen=True)
class Share:
    """What one home has to do in a step.

    tokens: its token rows. attended: positions that its tokens attend to, summed. kept: positions in the caches of
    its sequences, each read once a sequence. ends: rows whose logits are wanted. source, source_kept: attended and kept
    of the encoder's output, in a step of a decoder that has an encoder.
    """

    tokens: int
    attended: int
    kept: int
    ends: int
    source: int = 0
    source_kept: int = 0


def shares(step: Step, rows: NDArray[np.bool_] | None = None) -> dict[int, Share]:
    """The work of each home, by device number; rows: of these tokens only."""
    order = np.lexsort((step.position, step.sequence, step.home))
    if rows is not None:
        order = order[rows[order]]
    if not len(order):
        return {}
    home, sequence, position = (column[order] for column in (step.home, step.sequence, step.position))
    last = np.r_[sequence[1:] != sequence[:-1], True]
    last[:-1] |= home[1:] != home[:-1]
    at = np.flatnonzero(np.r_[True, home[1:] != home[:-1]])
    columns = [np.ones_like(home), position + 1, np.where(last, position + 1, 0), step.ends[order].astype(np.int64)]
    if step.source is not None:
        source = step.source[order]
        if step.encoder:
            columns[1:3] = source, np.where(last, source, 0)
        else:
            columns += [source, np.where(last, source, 0)]
    sums = [np.add.reduceat(column, at).tolist() for column in columns]
    return {number: Share(*work) for number, *work in zip(home[at].tolist(), *sums, strict=True)}


class Dense:
    """Lowers the dense parts of a model, home by home (data parallel over homes)."""

    def __init__(self, emit: Emitter, model: Model) -> None:
        self._emit, self._model = emit, model

    def attention(self, layer: int, share: dict[int, Share], hidden: Hidden) -> Hidden:
        """Norm, projections and attention over the kept context."""
        part = self._model.layers[layer]
        out = {}
        for home, work in share.items():
            edges = self._emit.kernel(
                home, "attention", part.attention.bytes_for(work.tokens) + work.kept * part.kv_bytes,
                part.attention.flops_for(work.tokens) + work.attended * part.context_flops, hidden[home])
            out[home] = self._norm(home, work.tokens, edges)
            if part.cross.token_flops:
                edges = self._emit.kernel(
                    home, "attention", part.cross.bytes_for(work.tokens) + work.source_kept * part.source_bytes,
                    part.cross.flops_for(work.tokens) + work.source * part.context_flops, out[home])
                out[home] = self._norm(home, work.tokens, edges)
        return out

    def encoded(self, share: dict[int, Share], hidden: Hidden) -> int:
        """Keys and values of the encoder's output, for every layer of the decoder; the op that ends the step."""
        edges = []
        for home, work in share.items():
            done = hidden[home]
            for layer in self._model.stack(encoder=False):
                part = self._model.layers[layer].source
                self._emit.layer = layer
                done = self._emit.kernel(home, "dense", part.bytes_for(work.tokens), part.flops_for(work.tokens), done)
            edges += self._emit.sync(home, done)
        return edges[0].op if len(edges) == 1 else self._emit.join(edges)

    def ffn(self, family: str, part: Work, share: dict[int, Share], hidden: Hidden) -> Hidden:
        """A dense FFN or shared experts: every token of the home visits it."""
        return {home: self._emit.kernel(home, family, part.bytes_for(work.tokens), part.flops_for(work.tokens),
                                        hidden[home]) for home, work in share.items()}

    def router(self, layer: int, share: dict[int, Share], hidden: Hidden) -> int:
        """Routers of all homes, and the decision op: the end of the last, or of the host's wait for it."""
        part = self._model.layers[layer].router
        edges = []
        for home, work in share.items():
            routed = self._emit.kernel(home, "router", part.bytes_for(work.tokens), part.flops_for(work.tokens),
                                       hidden[home])
            edges += self._emit.sync(home, routed)
        return edges[0].op if len(edges) == 1 else self._emit.join(edges)

    def after(self, share: dict[int, Share], hidden: Hidden) -> Hidden:
        """Residual and norm behind the experts."""
        return {home: self._norm(home, work.tokens, hidden[home]) for home, work in share.items()}

    def head(self, share: dict[int, Share], hidden: Hidden) -> int:
        """The language-model head for the rows whose logits are wanted; the op that ends the step."""
        part = self._model.head
        edges = []
        for home, work in share.items():
            done = hidden[home]
            if work.ends:
                done = self._emit.kernel(home, "head", part.bytes_for(work.ends), part.flops_for(work.ends), done)
            edges += self._emit.sync(home, done)
        return edges[0].op if len(edges) == 1 else self._emit.join(edges)

    def _norm(self, home: int, tokens: int, after: list[Edge]) -> list[Edge]:
        return self._emit.kernel(home, "norm", 2 * self._model.token_row_bytes(tokens), 0, after)

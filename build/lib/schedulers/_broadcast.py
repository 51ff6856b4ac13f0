"""HD-MoE's dynamic broadcast (arXiv 2509.09420): the heaviest expert of the node with most to do, copied ahead."""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.model import Model
from emulation.ops import PREFETCH
from emulation.plan import ALL_PARTS, Plan
from emulation.view import View

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
NONE = -1


def chunk_bytes(model: Model, nodes: int, start_s: float, bytes_per_s: float) -> float:
    """The stated size of a broadcast's pieces: sqrt(2 h I a / (2 b k sqrt(D))), a in s, b in s/B.

    A policy cuts no transfer: nmp-mesh's quantum, at which urgent messages take a prefetch's links, has this size.
    """
    h, inner, k = model.d_model, model.d_ff, model.top_k
    return sqrt(2 * h * inner * start_s / (2 / bytes_per_s * k * sqrt(nodes)))


class Sent(NamedTuple):
    """Of each MoE layer, the expert whose slices were copied to all nodes [moe_layers] (NONE), and which of them
    [moe_layers, parts]."""

    expert: Ints
    part: Mask

    @staticmethod
    def nothing(layers: int, parts: int) -> tuple[Ints, Mask]:
        return tuple(Sent(np.full(layers, NONE), np.zeros((layers, parts), np.bool_)))  # type: ignore[return-value]


def chosen(plan: Plan, view: View, sent: Sent, nodes: tuple[int, ...]) -> None:
    """Copy what is worth it behind this layer's runs; noted in `sent`.

    The most loaded node has the largest sum of P x load by the forecast, of its experts goes that with the highest
    (ties: lower numbers). As many of its slices are copied, one after the other to all other nodes, as this layer's
    longest node hides: each copy comes from where the expert rests, so that its links carry it once for every node,
    where the paper's nodes hand chunks on.
    """
    layer = view.next_layer
    if view.forecast is None or layer is None or len(nodes) < 2:
        return
    moe, costs, ledger = view.moe + 1, view.costs, view.ledger
    rest = ledger.start.rest[moe]
    share = np.stack([(rest == node).sum(axis=1) for node in nodes])
    load = share * view.forecast.counts(len(rest))
    most = int(load.sum(axis=1).argmax())
    expert = int(load[most].argmax())
    if not load[most, expert]:
        return
    left = _longest(view)
    others = [node for node in nodes if node != nodes[most]]
    for part in np.flatnonzero(rest[expert] == nodes[most]).tolist():
        left -= sum(costs.load_ps(nodes[most], node, part) for node in others)
        copied = int(sent.part[moe].sum()) + 1
        if left < 0 or any(ledger.free_bytes(node) < copied * int(ledger.part_bytes.max()) for node in others):
            break
        sent.part[moe, part], sent.expert[moe] = True, expert
        for node in others:
            plan.load(expert, to=node, part=part, layer=layer, priority=PREFETCH)


def _longest(view: View) -> int:
    """The time of the node that has most to run in this layer, in picoseconds."""
    rest, tokens = view.ledger.start.rest[view.moe], view.routing.counts(view.setting.model.experts)
    busy: dict[int, int] = {}
    for expert in view.routing.active.tolist():
        for part, node in enumerate(rest[expert].tolist()):
            busy[node] = busy.get(node, 0) + view.costs.run_ps(node, int(tokens[expert]), part)
    return max(busy.values(), default=0)


def run_sent(plan: Plan, view: View, sent: Sent, nodes: tuple[int, ...]) -> None:
    """Run the expert that was broadcast for this layer: its copied slices where each token lies (or dealt out over the
    nodes, where tokens lie elsewhere), the others where they rest; then drop the copies."""
    moe = view.moe
    expert = int(sent.expert[moe])
    if expert == NONE:
        return
    rest, copied = view.ledger.start.rest[moe, expert], np.flatnonzero(sent.part[moe]).tolist()
    tokens = np.sort(view.routing.pairs.tokens_of(expert))
    home = view.step.home[tokens]
    dealt = np.where(np.isin(home, nodes), home, np.array(nodes)[np.arange(len(tokens)) % len(nodes)])
    for part, node in enumerate(rest.tolist()):
        if len(tokens) and part not in copied:
            plan.run(expert, on=node, part=part if len(rest) > 1 else ALL_PARTS)
    for node in nodes:
        for part in copied if (dealt == node).any() else ():
            plan.run(expert, on=node, part=part, tokens=tokens[dealt == node])
    for node in nodes:
        for part in copied:
            if rest[part] != node:
                plan.evict(expert, of=node, part=part)
    sent.expert[moe], sent.part[moe] = NONE, False

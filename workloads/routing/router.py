"""Seeded routing for any step of a model."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from emulation.errors import ConfigError
from emulation.model import Model
from emulation.trace import NO_EXPERT, StepRouting
from emulation.view import Step
from workloads.routing import chances, draw
from workloads.routing.chances import Ids
from workloads.routing.draw import Ints, Source
from workloads.routing.kinds import Kind, kind


class Router:
    """top_k different experts for each token and layer, drawn from a seed as a generator says.

    A token's draws depend on the seed, its sequence and its position, and, where a generator's hot set moves, on the
    number of its step: they are the same whatever came before and whatever stands beside it.
    """

    def __init__(self, model: Model, generator: Kind | str, seed: int, **parameters: Any) -> None:
        of = fits(model, kind(generator, **parameters) if isinstance(generator, str) else generator)
        self.generator = of
        self._model = model
        self._source = source(of, len(model.moe_layers), model.experts, model.top_k, seed) if model.moe_layers else None
        self._draw = working_draw()

    def route(self, step: Step) -> StepRouting:
        """The routing of a step, NO_EXPERT in layers that it does not pass. Ids lie layer by layer in memory, so each
        layer's are contiguous; weights are equal, and one number in memory."""
        source = self._source
        if source is None:
            none = np.empty((len(step), 0, self._model.top_k))
            return StepRouting(none.astype(np.uint16), none.astype(np.float32))
        out = np.empty((len(source.keys), len(step), source.top_k), np.uint16)
        self._draw(source, out, step.sequence, step.position, self.generator.groups(source.root, step))
        if self._model.encoder_layers:
            passed = self._model.moe_stack(step.encoder)
            out[:passed.start] = out[passed.stop:] = NO_EXPERT
        experts = out.transpose(1, 0, 2)
        return StepRouting(experts, np.broadcast_to(np.float32(1.0 / source.top_k), experts.shape))


def fits(model: Model, of: Kind) -> Kind:
    """The generator, if its sets are no larger than the model's layers; refuses another."""
    if (members := of.members(model.experts)) > model.experts:
        raise ConfigError(f"generator {of.name}: a set of {members} experts is more than the {model.experts} that "
                          f"{model.name} has in a layer")
    return of


def working_draw() -> Callable[[Source, Ids, Ints, Ints, Ints], None]:
    """The compiled draws where numba is installed, and the specification elsewhere."""
    if find_spec("numba") is None:
        return draw.draw
    from workloads.routing import compiled_draw
    return compiled_draw.draw


def source(of: Kind, layers: int, experts: int, top_k: int, seed: int) -> Source:
    """What a generator draws from, for a model of this shape."""
    root, *keys = np.random.SeedSequence(seed).generate_state(2 * layers + 1, np.uint64).tolist()
    order = np.stack([draw.shuffled(key, experts) for key in keys[layers:]])
    repeat = [int(of.repeats(layer, layers) * (1 << 16)) for layer in range(layers)]
    pair = [chances.threshold(of.pairs(layer, layers)) for layer in range(layers)]
    by_rank = [of.ranks(layer, layers, experts) for layer in range(layers)] if of.name == "fitted" else (
        [of.ranks(0, layers, experts)] * layers)
    return Source(root, np.array(keys[:layers], np.uint64), chances.tables(by_rank, order), top_k,
                  np.array(repeat, np.uint64), np.array(pair, np.uint64), partners(order), of.members(experts),
                  chances.threshold(of.preference()))


def partners(order: Ids) -> Ids:
    """The partner of each expert, [layers, experts]: neighbours by rank, so that partners are about equally likely.

    The last of an odd number is its own, and so never taken twice.
    """
    experts = order.shape[1]
    other = np.minimum(np.arange(experts) ^ 1, experts - 1)
    partner = np.empty_like(order)
    np.put_along_axis(partner, order.astype(np.int64), order[:, other], axis=1)
    return partner

"""Seeded routing for any step of a model."""

from importlib.util import find_spec

import numpy as np

from emulation.errors import ConfigError, unknown
from emulation.model import Model
from emulation.trace import StepRouting
from emulation.view import Step
from workloads.routing import chances, draw
from workloads.routing.draw import Source

KINDS = ("balanced", "zipf")


class Router:
    """top_k different experts for each token and layer, drawn from a seed.

    A token's draws depend on the seed, its sequence and its position: they are the same in any step, whatever came
    before and whatever stands beside it.
    """

    def __init__(self, model: Model, kind: str, seed: int, skew: float = 1.0) -> None:
        if kind not in KINDS:
            raise ConfigError(unknown("generator", kind, KINDS))
        layers = len(model.moe_layers)
        root, *keys = np.random.SeedSequence(seed).generate_state(2 * layers + 1, np.uint64).tolist()
        order = np.stack([draw.shuffled(key, model.experts) for key in keys[layers:]])
        ranks = chances.zipf(model.experts, skew if kind == "zipf" else 0.0)
        self._source = Source(root, np.array(keys[:layers], np.uint64), chances.tables([ranks] * layers, order),
                              model.top_k)
        if find_spec("numba"):
            from workloads.routing import compiled_draw
            self._draw = compiled_draw.draw
        else:
            self._draw = draw.draw

    def route(self, step: Step) -> StepRouting:
        """The routing of a step. Ids lie layer by layer in memory, so each layer's are contiguous; weights are equal,
        and one number in memory."""
        source = self._source
        out = np.empty((len(source.keys), len(step), source.top_k), np.uint16)
        group = np.full(len(step), -1, np.int64)
        self._draw(source, out, step.sequence, step.position, group)
        experts = out.transpose(1, 0, 2)
        return StepRouting(experts, np.broadcast_to(np.float32(1.0 / source.top_k), experts.shape))

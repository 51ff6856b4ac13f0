"""What happens outside the routed experts, in the columns that the compiled lowering reads."""

import numpy as np

from emulation.lowering.compiled_layers import Dense
from emulation.lowering.dense import Share
from emulation.machine import Machine
from emulation.model import Model, Work

FAMILIES = ("attention", "norm", "router", "shared", "dense", "head")


class DenseColumns:
    """Makes the `Dense` of each step on one machine; layers that are alike are told once."""

    def __init__(self, machine: Machine, model: Model) -> None:
        self._machine, self._model = machine, model
        self._kinds = list(dict.fromkeys(model.layers))
        self._kind = np.array([self._kinds.index(layer) for layer in model.layers], np.int64)
        self._is_moe = np.array([layer.is_moe for layer in model.layers], np.int64)
        self._shared = np.array([bool(layer.shared.token_flops) for layer in model.layers], np.int64)

    def of(self, share: dict[int, Share]) -> Dense:
        """A step in which each home, by device number, has so much to do."""
        homes = self._machine.homes
        ps = np.zeros((len(self._kinds), len(homes), len(FAMILIES)), np.int64)
        bytes_, done = np.zeros_like(ps), np.zeros_like(ps)
        for h, home in enumerate(homes):
            work = share.get(home)
            if work is None:
                continue
            kernels, n = self._machine.devices[home].kernels, work.tokens

            def note(kind: int, at: int, moved: int, flops: int) -> None:
                cost = kernels.get(FAMILIES[at])  # noqa: B023
                bytes_[kind, h, at], done[kind, h, at] = moved, flops  # noqa: B023
                if cost is not None:
                    ps[kind, h, at] = cost.ps(moved, flops)  # noqa: B023

            for kind, part in enumerate(self._kinds):
                note(kind, 0, part.attention.bytes_for(n) + work.kept * part.kv_bytes,
                     part.attention.flops_for(n) + work.attended * part.context_flops)
                note(kind, 1, 2 * self._model.token_row_bytes(n), 0)
                for at, each in ((2, part.router), (3, part.shared), (4, part.dense)):
                    note(kind, at, each.bytes_for(n), each.flops_for(n))
            head: Work = self._model.head
            note(0, 5, head.bytes_for(work.ends), head.flops_for(work.ends))
        present = np.array([home in share for home in homes], np.int64)
        ends = np.array([share[home].ends if home in share else 0 for home in homes], np.int64)
        return Dense(ps, bytes_, done, self._kind, self._is_moe, self._shared, present, ends)

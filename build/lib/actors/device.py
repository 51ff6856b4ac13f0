"""A device actor: holds shards of experts and computes what it is sent, on real weights where there are any."""

from typing import TYPE_CHECKING

import numpy as np

from actors.messages import DeviceSpec, Floats, Move, Placed, Reply, Run, Work
from emulation.errors import PlanError
from emulation.plan import ALL_PARTS
from emulation.shards import slice_bounds

if TYPE_CHECKING:
    import torch

    import moe.checkpoint
    import moe.experts


class DeviceActor:
    """One emulated device. The same class in every transport; several may live in one process."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        self._checkpoint: moe.checkpoint.Checkpoint | None = None
        if spec.folder is not None:
            from moe.checkpoint import Checkpoint

            self._checkpoint = Checkpoint(spec.folder)
        self._place(Placed(spec.parts, spec.held))

    def _place(self, placed: Placed) -> None:
        """Hold these shards and no others."""
        self._parts = placed.parts
        self._held = {(int(m), int(e), int(p)) for m, e, p in placed.held.tolist()}
        self._slices: dict[tuple[int, int, int], moe.experts.ExpertSlice] = {}
        self._bounds: tuple[tuple[int, int], ...] = ()
        if self._checkpoint is not None:
            self._bounds = slice_bounds(self._checkpoint.shape.expert_ff, placed.parts)

    def work(self, work: Work) -> Reply:
        """Do the runs and note the moves in the plan's order; refuses to run what is not here."""
        runs: list[Run] = []
        for item in work.items:
            if isinstance(item, Move):
                change = self._held.add if item.comes else self._held.discard
                change((item.moe, item.expert, item.part))
                continue
            if isinstance(item, Placed):
                self._place(item)
                continue
            for part in range(self._parts) if item.part == ALL_PARTS else (item.part,):
                if (item.moe, item.expert, part) not in self._held:
                    raise PlanError(f"device {self.spec.name!r} is sent expert {item.expert} part {part} of MoE layer "
                                    f"{item.moe}, which it does not hold")
            runs.append(item)
        if self._checkpoint is None or work.x is None or not runs:
            return Reply(None, len(runs))
        return Reply(self._compute(runs, work.x), len(runs))

    def _compute(self, runs: list[Run], x: Floats) -> Floats:
        """The runs' weighted shares, one below the other."""
        import torch

        from moe.experts import partial_ffn

        with torch.inference_mode():
            shares = [partial_ffn(self._slice(run.moe, run.expert, run.part), torch.from_numpy(x[run.rows]))
                      for run in runs]
            scales = torch.from_numpy(np.concatenate([run.weights for run in runs]))
            scaled = torch.cat(shares).mul_(scales[:, None])
        result: Floats = scaled.numpy()
        return result

    def shard(self, moe: int, expert: int, part: int) -> "list[torch.Tensor]":
        """The matrices of a shard, as they lie in the mapped checkpoint; nothing where nothing is computed for real."""
        if self._checkpoint is None:
            return []
        found = self._slice(moe, expert, part)
        return [tensor for tensor in (found.gate, found.up, found.down) if tensor is not None]

    def _slice(self, moe: int, expert: int, part: int) -> "moe.experts.ExpertSlice":
        """What a run multiplies: views, made once and kept, since making them costs more than a small product."""
        found = self._slices.get((moe, expert, part))
        if found is None:
            assert self._checkpoint is not None
            lo, hi = (0, self._checkpoint.shape.expert_ff) if part == ALL_PARTS else self._bounds[part]
            found = self._checkpoint.slice(self._checkpoint.shape.moe_layers[moe], expert, lo, hi)
            self._slices[moe, expert, part] = found
        return found

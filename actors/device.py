"""A device actor: holds shards of experts and computes what it is sent, on real weights where there are any."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.messages import DeviceSpec, Floats, Move, Reply, Run, Work
from emulation.errors import PlanError
from emulation.plan import ALL_PARTS
from emulation.shards import slice_bounds

if TYPE_CHECKING:
    import moe.checkpoint


class DeviceActor:
    """One emulated device. The same class in every transport; several may live in one process."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        self._held = {(int(m), int(e), int(p)) for m, e, p in spec.held.tolist()}
        self._checkpoint: moe.checkpoint.Checkpoint | None = None
        self._bounds: tuple[tuple[int, int], ...] = ()
        if spec.folder is not None:
            from moe.checkpoint import Checkpoint

            self._checkpoint = Checkpoint(spec.folder)
            self._bounds = slice_bounds(self._checkpoint.shape.expert_ff, spec.parts)

    def work(self, work: Work) -> Reply:
        """Do the runs and note the moves in the plan's order; refuses to run what is not here."""
        out: list[Floats] = []
        runs = 0
        for item in work.items:
            if isinstance(item, Move):
                change = self._held.add if item.comes else self._held.discard
                change((item.moe, item.expert, item.part))
                continue
            for part in range(self.spec.parts) if item.part == ALL_PARTS else (item.part,):
                if (item.moe, item.expert, part) not in self._held:
                    raise PlanError(f"device {self.spec.name!r} is sent expert {item.expert} part {part} of MoE layer "
                                    f"{item.moe}, which it does not hold")
            runs += 1
            if self._checkpoint is not None and work.x is not None:
                out.append(self._ffn(item, work.x[item.rows]))
        return Reply(np.concatenate(out) if out else None, runs)

    def _ffn(self, run: Run, x: Floats) -> Floats:
        import torch

        from moe.experts import partial_ffn

        assert self._checkpoint is not None
        layer = self._checkpoint.shape.moe_layers[run.moe]
        lo, hi = (0, self._checkpoint.shape.expert_ff) if run.part == ALL_PARTS else self._bounds[run.part]
        with torch.no_grad():
            share = partial_ffn(self._checkpoint.slice(layer, run.expert, lo, hi), torch.from_numpy(x))
            scaled = share * torch.from_numpy(run.weights)[:, None]
        result: NDArray[Any] = scaled.numpy()
        return result

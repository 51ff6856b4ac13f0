"""A device actor: holds shards of experts and computes what it is sent, on real weights where there are any."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.messages import DeviceSpec, Floats, Reply, Work
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
        """Take what is loaded, do the runs in order, drop what is evicted; refuses to run what is not here.

        A plan may evict before it loads into the same place: the ledger has checked the order, here only the
        outcome counts, so loads come first and evictions last.
        """
        self._held.update(work.loads)
        out: list[Floats] = []
        for run in work.runs:
            for part in range(self.spec.parts) if run.part == ALL_PARTS else (run.part,):
                if (run.moe, run.expert, part) not in self._held:
                    raise PlanError(f"device {self.spec.name!r} is sent expert {run.expert} part {part} of MoE layer "
                                    f"{run.moe}, which it does not hold")
            if self._checkpoint is not None and work.x is not None:
                out.append(self._ffn(run.moe, run.expert, run.part, work.x[run.rows], run.weights))
        self._held.difference_update(work.evicts)
        return Reply(np.concatenate(out) if out else None, len(work.runs))

    def _ffn(self, moe: int, expert: int, part: int, x: Floats, weights: Floats) -> Floats:
        import torch

        from moe.experts import partial_ffn

        assert self._checkpoint is not None
        layer = self._checkpoint.shape.moe_layers[moe]
        lo, hi = (0, self._checkpoint.shape.expert_ff) if part == ALL_PARTS else self._bounds[part]
        with torch.no_grad():
            share = partial_ffn(self._checkpoint.slice(layer, expert, lo, hi), torch.from_numpy(x))
            scaled = share * torch.from_numpy(weights)[:, None]
        result: NDArray[Any] = scaled.numpy()
        return result

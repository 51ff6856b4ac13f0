"""Estimates for policies: what one run, load or message takes when nothing else is under way."""

from dataclasses import dataclass
from functools import cached_property

from emulation.machine import Machine
from emulation.model import Model
from emulation.plan import ALL_PARTS


@dataclass(frozen=True)
class Costs:
    """Durations as the lowering makes them, in picoseconds, without waiting for anything else."""

    machine: Machine
    model: Model
    parts: int

    @cached_property
    def _columns(self) -> tuple[int, ...]:
        return tuple(self.model.columns(part, self.parts) for part in range(self.parts))

    def _of(self, part: int) -> int:
        return sum(self._columns) if part == ALL_PARTS else self._columns[part]

    def run_ps(self, device: int, tokens: int, part: int = ALL_PARTS) -> int:
        """An expert (or a part of it) over some tokens on a device that holds it; T_g and T_n of arXiv 2601.03992."""
        columns = self._of(part)
        kernel, actions = self.machine.devices[device].kernels["expert"], self.machine.actions
        if actions is not None:
            return actions.compute_ps(self.model, kernel, columns, tokens)
        return kernel.ps(self.model.expert_work(columns).bytes_for(tokens), self.model.expert_flops(columns, tokens))

    def load_ps(self, source: int, target: int, part: int = ALL_PARTS) -> int:
        """A copy of an expert (or a part) from one device to another; T_w of arXiv 2601.03992."""
        columns, actions = self._of(part), self.machine.actions
        if actions is not None:
            return self.machine.held([(source, target)], lambda link: actions.moved_ps(
                actions.load, self.model, link.bytes_per_s, columns)).length_ps + actions.allocate * actions.frame_ps
        return self.machine.transfer(source, target, self.model.expert_work(columns).weight_bytes).length_ps

    def send_ps(self, source: int, target: int, tokens: int) -> int:
        """Activation rows of some tokens from one device to another."""
        bytes_, actions = self.model.token_row_bytes(tokens), self.machine.actions
        if actions is not None:
            return self.machine.held([(source, target)], lambda link: actions.message_ps(
                self.model, link.bytes_per_s, bytes_)).length_ps
        return self.machine.transfer(source, target, bytes_).length_ps

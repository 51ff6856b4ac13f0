"""What experts take on a home and on the units beside it: picoseconds, as the lowering makes them. Pure functions.

T_w: an expert's way to the home. T_g(n): its run there. T_n(n): beside it, without the exchange of rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.machine import Kernel
from emulation.model import Work
from emulation.plan import RUN, Plan
from emulation.view import Setting
from schedulers._balance import together_ps
from schedulers._places import only_home, rest_beside, runs_experts

Ints = NDArray[np.int64]
FEW = 64
"""Token counts whose times are looked up; larger ones, of a prefill, are worked out when they come."""


@dataclass(frozen=True)
class Beside:
    """A home and the units on which its experts rest: whole (one part), or in as many parts as there are units."""

    setting: Setting
    home: int
    units: tuple[int, ...]
    parts: int

    @cached_property
    def _runs(self) -> dict[int, list[tuple[Kernel, Work, int]]]:
        """Device -> its run of an expert: kernel, work, flops of unpacking. -1: the units' slices, alike ones once."""
        model, kernel = self.setting.model, {
            d: self.setting.machine.devices[d].kernels["expert"] for d in (self.home, *self.units)}
        cut = dict.fromkeys((kernel[d], model.columns(part, self.parts)) for part, d in zip(
            range(self.parts), self.units, strict=False))
        shares = {-1: list(cut)} | {d: [(kernel[d], model.d_ff)] for d in kernel}
        return {d: [(run, model.expert_work(columns), model.expert_flops(columns, 0)) for run, columns in share]
                for d, share in shares.items()}

    def _run_ps(self, device: int, tokens: int) -> int:
        """What `emulation.costs` says, of the slowest."""
        return max(kernel.ps(work.bytes_for(tokens), work.flops_for(tokens) + unpack)
                   for kernel, work, unpack in self._runs[device])

    @property
    def owners(self) -> int:
        """Queues of experts beside the home: one where all units share each expert."""
        return 1 if self.parts > 1 else len(self.units)

    def gpu_ps(self, tokens: int) -> int:
        """T_g(n)."""
        return self._run_ps(self.home, tokens)

    def ndp_ps(self, owner: int, tokens: int) -> int:
        """T_n(n): of the slowest slice, or of a whole expert on its unit."""
        return self._run_ps(-1 if self.parts > 1 else self.units[owner], tokens)

    def load_ps(self, owner: int) -> tuple[int, int]:
        """T_w, all parts of an expert to the home: how long the link is taken, and how much later they have arrived."""
        model = self.setting.model
        work = [model.expert_work(model.columns(part, self.parts)).weight_bytes for part in range(self.parts)]
        sources = self.units if self.parts > 1 else (self.units[owner],)
        taken_ps, arrived_ps = together_ps(self.setting.machine, [(unit, self.home) for unit in sources], work)
        return taken_ps, arrived_ps - taken_ps

    def exchange_ps(self, tokens: int, exchange: str) -> int:
        """Rows of so many tokens to every unit, a result of each row back from each, and the sums at the home."""
        machine, model = self.setting.machine, self.setting.model
        bytes_ = model.token_row_bytes(tokens)
        out = [(self.home, unit) for unit in self.units]
        sent = machine.transfers(out, bytes_).length_ps if exchange == "broadcast" else together_ps(
            machine, out, [bytes_] * len(out))[1]
        back = together_ps(machine, [(unit, home) for home, unit in out], [bytes_] * len(out))[1]
        reduce = machine.devices[self.home].kernels.get("reduce")
        sums = reduce.ps(3 * bytes_, tokens * model.d_model) if reduce else 0
        return sent + back + len(self.units) * sums

    @property
    def quantum_ps(self) -> int:
        """What of a prefetch a demand load waits for at most; 0: for all of it, since nothing is cut."""
        machine = self.setting.machine
        return max(machine.quantum_ps(unit, self.home) for unit in self.units) if machine.quantum_bytes else 0

    def run(self, plan: Plan, experts: Ints, owner: Ints) -> None:
        """Run experts where they rest: each slice on its unit, or whole. owner [experts]: the unit's place."""
        if self.parts == 1:
            plan.extend(RUN, experts, np.array(self.units)[owner])
        else:
            part = np.tile(np.arange(self.parts), len(experts))
            plan.extend(RUN, np.repeat(experts, self.parts), np.array(self.units)[part], part=part)

    def tables(self, exchange: str) -> dict[str, Ints]:
        """T_g(n) [FEW], T_n(n) [owners, FEW], the exchange of n rows [FEW], T_w [2, owners]; n from 0, then 0."""
        some, owners = range(1, FEW), range(self.owners)
        return {"gpu_ps": np.array([0, *map(self.gpu_ps, some)]),
                "ndp_ps": np.array([[0, *(self.ndp_ps(owner, n) for n in some)] for owner in owners]),
                "exchange_ps": np.array([0, *(self.exchange_ps(n, exchange) for n in some)]),
                "load_ps": np.array([self.load_ps(owner) for owner in owners]).T}

    def on_home_ps(self, tables: dict[str, Ints], tokens: Ints) -> list[int]:
        """T_g of each expert, [experts]."""
        if int(tokens.max(initial=0)) < FEW:
            return tables["gpu_ps"][tokens].tolist()  # type: ignore[no-any-return]
        return [self.gpu_ps(n) for n in tokens.tolist()]

    def on_units_ps(self, tables: dict[str, Ints], owner: Ints, tokens: Ints) -> list[int]:
        """T_n of each expert, [experts]."""
        if int(tokens.max(initial=0)) < FEW:
            return tables["ndp_ps"][owner, tokens].tolist()  # type: ignore[no-any-return]
        return [self.ndp_ps(*pair) for pair in zip(owner.tolist(), tokens.tolist(), strict=True)]

    def exchanged_ps(self, tables: dict[str, Ints], tokens: int, exchange: str) -> int:
        """What the exchange of so many rows takes."""
        return int(tables["exchange_ps"][tokens]) if tokens < FEW else self.exchange_ps(tokens, exchange)


def beside_home(setting: Setting, policy: str, *, cut: bool) -> Beside:
    """A machine's one home and the units beside it; refuses one without. cut: each unit has a part of every expert."""
    home, machine, model = only_home(setting, policy), setting.machine, setting.model
    rest_beside(setting, policy, computing=True)
    units = tuple(d for d in machine.stores if d != home and runs_experts(machine, d))
    if not runs_experts(machine, home):
        raise ConfigError(f"{policy} runs experts on {machine.devices[home].name!r}, which has no cost for them")
    if cut and model.d_ff < len(units):
        raise ConfigError(f"{policy} cuts an expert into {len(units)} slices, one a unit of machine {machine.name!r}, "
                          f"and an expert of {model.name!r} has {model.d_ff} columns")
    return Beside(setting, home, units, len(units) if cut else 1)

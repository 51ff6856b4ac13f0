"""`static_gating`: a fixed capacity for every expert, dense masks, overflow dropped (arXiv 2303.06182; GShard)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.plan import Gating, Plan
from emulation.view import Setting, View
from schedulers._gating import at_rest, capacity, run_all, tokens_at_home, within
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Expert parallelism as fairseq and GShard do it: every home sends every expert S C rows.

    S: tokens of a home (of the fullest, so that all send alike); C: capacity_factor, a number as text ("0.05"). Rows
    are picked out by a mask of S x S C for each expert, E C / k times as many as are routed. What finds no row is
    dropped: lossy, and declared. indexing: rows are picked out by index in place of masks.
    """

    capacity_factor: str = "1"
    indexing: bool = False
    exact: ClassVar[bool] = False
    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        try:
            factor = Fraction(self.capacity_factor)
        except (ValueError, TypeError, ZeroDivisionError):
            factor = Fraction(0)
        if factor <= 0:
            raise ConfigError(f"static_gating: capacity_factor is {self.capacity_factor!r}; it is a number above 0 as "
                              "text, like '0.05'")

    def start(self, setting: Setting) -> tuple[Start, State]:
        return at_rest(setting, "static_gating")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        rows = capacity(self.capacity_factor, tokens_at_home(view))
        plan = Plan(view.layer, gating=Gating(rows, mask=not self.indexing), served=within(view, rows))
        run_all(plan, state[view.moe])
        return plan, state
